"""The search for inputs that a target cannot take: atheris over the coverage of descant's code.

    python tests/fuzz/search.py --minutes 10 [--target files …] [--seed 1]

Each target is searched in a process of its own, as many at once as there are cores. A finding is
written into ``tests/fuzz/found/``; moved into ``corpus/TARGET`` with the mending, it stays a test.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import targets

FOUND = targets.HERE / "found"
SECONDS, MEMORY, LONGEST = 10, 6000, 1 << 16  # of one input; megabytes of a process; bytes


def search(name: str) -> None:
    """Search one target in this process, until libFuzzer ends it; its flags are ``sys.argv``."""
    import atheris

    target = {**targets.TARGETS, "planted": targets.planted}[name]
    targets.quiet()
    with atheris.instrument_imports(include=["descant"], enable_loader_override=False):
        for data in (b"", *targets.seeds(name)):  # imports what it needs
            target(data)
    if name == "planted":
        target = atheris.instrument_func(target)
    atheris.Setup([sys.argv[0], *sys.argv[3:]], target)
    atheris.Fuzz()


def searched(name: str, seconds: float, seed: int, found: Path) -> tuple[str, int, str]:
    """A target's name, the exit code of its search, and what it printed."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, data in enumerate(targets.seeds(name)):
            Path(corpus, f"{number}").write_bytes(data)
        command = [
            sys.executable, __file__, "--one", name, corpus, f"-max_total_time={seconds:.0f}",
            f"-seed={seed}", f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY}",
            f"-max_len={LONGEST}", f"-artifact_prefix={found}/{name}-", "-print_final_stats=1",
        ]  # fmt: skip
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            errors="replace", env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    return name, done.returncode, done.stdout


def main() -> None:
    """Search the targets for so many minutes in all; the exit code is 1 where any has a finding."""
    if sys.argv[1:2] == ["--one"]:
        search(sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--target", nargs="+", choices=[*targets.TARGETS, "planted"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=FOUND)
    options = parser.parse_args()
    names, cores = options.target or [*targets.TARGETS], os.cpu_count() or 1
    options.found.mkdir(parents=True, exist_ok=True)
    seconds = max(1, 60 * options.minutes * min(cores, len(names)) / len(names))
    failed = False
    with ThreadPoolExecutor(cores) as pool:
        each = pool.map(lambda name: searched(name, seconds, options.seed, options.found), names)
        for name, code, output in each:
            runs = [line for line in output.splitlines() if "number_of_executed_units" in line]
            print(f"{name}: {runs[-1].split()[-1] if runs else 0} inputs, exit code {code}")
            if code:
                print(output[-6000:])
                failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
