"""One sweep against as many runs, and what a sweep takes beside its steps.

    python -m bench.sweep                  a few minutes; bench/results/sweep.json
    python -m bench.sweep --shape tiny     a look

Eleven weights of two LoRA arms over sixteen prompts, on checkpoints of a real shape with random
weights, saved in a folder that goes away. As one ``descant sweep`` and as a ``descant run`` per
weight, one process after the other: from the command to its end. Then a sweep with a reward model
that scores, inside which every part has a clock. Beside each time stands that of the processors,
all threads together, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from descant.bench import shapes
from descant.bench.measure import Settings, environment
from descant.inputs.yaml import dump_yaml, load_yaml

RESULTS = Path(__file__).parent / "results" / "sweep.json"
FORMULA = "base + (1-a)*arm_0 + a*arm_1"
VECTORS, PROMPTS, PROMPT, NEW = 11, 16, 32, 64
FASTER, BESIDE = 5.0, 0.03  # targets: runs over the sweep, and the part beside the steps
Times = dict[str, float]  # wall and cpu, in seconds


def saved(shape: str, folder: Path) -> dict[str, Any]:
    """The models of a run file, saved; every word of a prompt is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(shapes.SHAPES[shape][1]["vocab_size"])}
    words_model = Tokenizer(models.WordLevel(words, unk_token="w0"))
    words_model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_model, pad_token="w0", unk_token="w0"
    )
    specs: dict[str, Any] = {}
    for name, make in (("base", shapes.language_model), ("reward", shapes.reward_model)):
        make(shape, 0, torch.float32, "cpu").save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        specs[name] = {"path": str(folder / name), "dtype": "float32"}
    for i in range(2):
        shapes.lora(shape, 1 + i, folder / f"arm_{i}")
        specs[f"arm_{i}"] = {"adapter": str(folder / f"arm_{i}"), "on": "base"}
    return specs


def written(shape: str, folder: Path, new: int) -> Path:
    """The run file, with its models and its prompts."""
    draw = torch.Generator().manual_seed(0)
    size = shapes.SHAPES[shape][1]["vocab_size"]
    ids = torch.randint(3, size, (PROMPTS, PROMPT), generator=draw).tolist()
    lines = [json.dumps({"prompt": " ".join(f"w{i}" for i in row)}) for row in ids]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    content = {
        "formula": FORMULA,
        "models": saved(shape, folder),
        "params": {"a": 0.5},
        "device": "cpu",
        "generate": {"max_new_tokens": new, "temperature": 1.0, "batch_size": VECTORS * PROMPTS},
        "data": {"path": "prompts.jsonl"},
        "sweep": {"a": {"from": 0, "to": 1, "count": VECTORS}},
    }
    file = folder / "run.yaml"
    file.write_text(dump_yaml(content))
    return file


def timed(action: Callable[[], Any]) -> Times:
    """How long processes take that an action waits for."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    wall, cpu = time.perf_counter(), used()
    action()
    return {"wall": time.perf_counter() - wall, "cpu": used() - cpu}


def descant(*arguments: str) -> None:
    """One command."""
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "descant", *arguments]
    subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)


class Parts:
    """Clocks of parts; a part inside another counts as itself alone."""

    def __init__(self) -> None:
        self.times: dict[str, Times] = {}
        self._open: list[tuple[str, float, float]] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time of this part, until it is left."""
        self._stop()
        self._open.append((name, time.perf_counter(), time.process_time()))
        try:
            yield
        finally:
            self._stop()
            self._open.pop()
            if self._open:
                outer = self._open[-1][0]
                self._open[-1] = (outer, time.perf_counter(), time.process_time())

    def _stop(self) -> None:
        if self._open:
            name, wall, cpu = self._open[-1]
            times = self.times.setdefault(name, {"wall": 0.0, "cpu": 0.0})
            times["wall"] += time.perf_counter() - wall
            times["cpu"] += time.process_time() - cpu

    def function(self, holder: Any, name: str, part: str) -> None:
        """Give a function a clock."""
        plain = getattr(holder, name)

        def clocked(*args: Any, **named: Any) -> Any:
            with self.part(part):
                return plain(*args, **named)

        setattr(holder, name, clocked)

    def generator(self, holder: Any, name: str, part: str) -> None:
        """Give a generator a clock that stops while others work on its items."""
        plain = getattr(holder, name)

        def clocked(*args: Any, **named: Any) -> Iterator[Any]:
            items = plain(*args, **named)
            while True:
                with self.part(part):
                    item = next(items, None)
                if item is None:
                    return
                yield item

        setattr(holder, name, clocked)


def inside(file: Path, output: Path) -> dict[str, Times]:
    """One sweep in this process, its parts timed: what is in none of them is ``beside``."""
    from rich.console import Console

    import descant.models
    import descant.report
    import descant.results.frames
    from descant.inputs.runfile import read_run_file
    from descant.runtime import bind, decoder
    from descant.scoring import rewards
    from descant.sweep import swept

    parts = Parts()
    parts.generator(decoder, "decode", "steps")
    parts.function(sys.modules[bind.__module__], "load_declared", "weights")
    parts.function(rewards, "load_declared", "weights")
    parts.function(rewards.RewardScorer, "scores", "scoring")
    parts.function(descant.results.frames, "load", "report")
    parts.function(descant.results.frames, "write", "report")
    parts.function(descant.report, "write", "report")
    with parts.part("beside"):
        swept(read_run_file(file), output, Console(quiet=True))
    return parts.times


def measure(shape: str, new: int) -> dict[str, Any]:
    """Everything, in turn."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = written(shape, folder, new)
        weights = [i / (VECTORS - 1) for i in range(VECTORS)]

        def runs() -> None:
            for a in weights:
                descant("run", str(file), "--set", f"a={a}", "--output", str(folder / f"run-{a}"))

        results: dict[str, Any] = {
            "sweep": timed(lambda: descant("sweep", str(file), "--output", str(folder / "sweep"))),
            "runs": timed(runs),
        }
        parts = folder / "parts.json"
        command = [sys.executable, "-m", "bench.sweep", "--inside", str(file), str(parts)]
        subprocess.run(command, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        results["parts"] = json.loads(parts.read_text())
    for clock in ("wall", "cpu"):
        of = {name: times[clock] for name, times in results["parts"].items()}
        results[f"runs over the sweep, {clock}"] = results["runs"][clock] / results["sweep"][clock]
        results[f"beside over steps, {clock}"] = of["beside"] / of["steps"]
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, keep the raw numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="small", choices=list(shapes.SHAPES))
    parser.add_argument("--max-new-tokens", type=int, default=NEW)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--inside", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        file, parts = options.inside
        content = load_yaml(file.read_text()) | {"score": {"reward": "reward"}}
        scored = file.with_name("scored.yaml")
        scored.write_text(dump_yaml(content))
        parts.write_text(json.dumps(inside(scored, file.parent / "inside")))
        return
    settings = Settings(options.shape, PROMPTS, PROMPT, options.max_new_tokens, 1)
    content = {**environment(settings), "vectors": VECTORS}  # before the load is our own
    results = measure(options.shape, options.max_new_tokens)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({**content, "results": results}, indent=1) + "\n")
    for name in ("sweep", "runs"):
        print(
            f"{name:10} {results[name]['wall']:8.1f} s, {results[name]['cpu']:8.1f} s of processors"
        )
    for name, times in results["parts"].items():
        print(f"  {name:8} {times['wall']:8.2f} s, {times['cpu']:8.2f} s of processors")
    for clock in ("wall", "cpu"):
        faster, beside = (
            results[f"runs over the sweep, {clock}"],
            results[f"beside over steps, {clock}"],
        )
        print(f"{clock}: {faster:.2f} times faster than runs (target: at least {FASTER:g}); "
              f"{beside:.1%} beside the steps (at most {BESIDE:.0%})")  # fmt: skip


if __name__ == "__main__":
    main()
