"""Ten minutes on one GPU: every number that says how a step runs there.

    python -m bench.gpu                  and bench/results/gpu-NAME.json
    python -m bench.gpu --tiny           a dry run of the same code, on a CPU; writes nothing

Models have random weights, prompts are token ids, and no file is read. A number is a line as soon
as it is known, and the file holds what is known so far. A part that fails is said and the others
go on; what there is no time for is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import gpu_parts as parts
from descant.bench.measure import about
from descant.bench.workloads import Pool

RESULTS = Path(__file__).parent / "results"
SECONDS = 540.0  # of ten minutes, so that the last part ends in time
Part = Callable[[parts.Scene, parts.Say], None]


class Numbers:
    """What has been measured, printed and kept as it comes.

    Args:
        about: what it is measured on.
        output: a JSON file, or None.
        seconds: after which nothing more begins.
    """

    def __init__(self, about: dict[str, Any], output: Path | None, seconds: float) -> None:
        self._start, self._seconds, self._output = time.perf_counter(), seconds, output
        self.content: dict[str, Any] = {**about, "numbers": [], "skipped": [], "failed": {}}

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def say(self, name: str, value: float, unit: str = "") -> None:
        """One number: a line, and a record."""
        record = {"name": name, "value": value, "unit": unit, "seconds": round(self.elapsed, 1)}
        self.content["numbers"].append(record)
        print(f"{name:62} {value:12.4g} {unit:8} {self.elapsed:7.1f} s", flush=True)
        self.keep()

    def run(self, name: str, part: Callable[[], None]) -> None:
        """Do a part, if there is time; what it raises is kept."""
        if self.elapsed > self._seconds:
            self.content["skipped"].append(name)
        else:
            try:
                part()
            except Exception as error:  # the other parts are worth their numbers
                lines = str(error).strip().splitlines() or [""]
                self.content["failed"][name] = f"{type(error).__name__}: {lines[0]}"
                print(f"FAILED {name}: {self.content['failed'][name]}", flush=True)
                traceback.print_exc()
        self.keep()

    def keep(self) -> None:
        """Write what is known so far."""
        if self._output is not None:
            self._output.parent.mkdir(parents=True, exist_ok=True)
            self._output.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")

    def ending(self) -> str:
        """What was skipped and what failed, in words."""
        skipped, failed = self.content["skipped"], self.content["failed"]
        lines = [f"skipped, out of time: {', '.join(skipped)}"] * bool(skipped)
        lines += [f"failed: {', '.join(failed)}"] * bool(failed)
        return "\n".join(lines or ["nothing was skipped, and nothing failed"])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every part in turn; the exit code is 1 if one failed."""
    options = _options(arguments)
    sizes = parts.TINY if options.tiny else parts.FULL
    device = "cpu" if options.tiny else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU; --tiny is the dry run on a CPU")
    machine = about()
    if device == "cuda":
        machine["processor"] = torch.cuda.get_device_name()
    stated = {**machine, "device": device, "dtype": sizes.dtype, "shape": sizes.shape}
    stated |= {"cuda": torch.version.cuda, "to_beat": parts.TO_BEAT}
    default = None if options.tiny else RESULTS / f"gpu-{slug(machine['processor'])}.json"
    numbers = Numbers(stated, options.json or default, options.seconds)
    print(", ".join(f"{name} {value}" for name, value in stated.items()), flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        dtype = getattr(torch, sizes.dtype)
        scene = parts.Scene(sizes, Pool(sizes.shape, dtype, device, Path(scratch)))
        for name, part in parts.plan(scene, numbers.say):
            numbers.run(name, part)
            scene.tidy()
    print(numbers.ending(), flush=True)
    if numbers.content["failed"]:
        sys.exit(1)


def slug(name: str) -> str:
    """A device's name as part of a file's: ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
