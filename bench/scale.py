"""What the nodes of a cluster give: rows per second beside one process, a kill, eight GPUs and 32.

    python -m bench.scale               1, 2 and 4 decoders here; bench/results/scale.json
    python -m bench.scale --computed    70B with two of 7B on GPUs that are not here, from
                                        configurations alone; bench/results/scale-computed.md

The decoders of a cluster of this machine share its cores: what several of them give here says what
the engine costs, and not what several GPUs give.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, PreTrainedTokenizerFast

from descant.bench.measure import about
from descant.cluster.cluster import Cluster
from descant.cluster.options import RayOptions
from descant.demo import PROMPTS, models
from descant.errors import DescantError
from descant.inputs.runfile import RunFile, read_run_file
from descant.inputs.yaml import dump_yaml
from descant.runs.run import compiled, rows_to_folder, run_to_folder
from descant.show.explain import ExplainRequest, target

RESULTS = Path(__file__).parent / "results"
FORMULA = "base + 0.5*arm_help - 0.3*arm_harm"
SHAPES = {  # of Llama 3: hidden, inner, layers, heads
    "70b": (8192, 28672, 80, 64),
    "7b": (4096, 14336, 32, 32),
}
VOCABULARY = 128256
ANSWER, CONTEXT = 256, 2048  # tokens of an answer, and of a row
HEAD = f"""# 70B with two of 7B on H200s: computed, not measured

`base + a*(tuned - weak)`, bfloat16, shapes of Llama 3 (its 8B for the small ones); a decoder is a
node of eight (`parallel: terms`, `tp_plan: auto` on the base), rows hold {CONTEXT} tokens, answers
have {ANSWER}. From configurations alone, by `descant explain --devices 8xH200`: a step is the
fullest GPU's bytes at its bandwidth and the all-reduces, so rows per second are an upper bound.
Four nodes are four decoders (`--ray auto --ray-gpus 8`): they exchange prompts and answers, and are
counted as four times one.

"""


def run_file(folder: Path, samples: int, tokens: int) -> Path:
    """A run over the demo models, and its data."""
    data, file = folder / "prompts.jsonl", folder / "run.yaml"
    data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    generate = {
        "max_new_tokens": tokens, "temperature": 1.0, "num_return_sequences": samples,
        "batch_size": 8, "ignore_eos": True,
    }  # fmt: skip
    content = {"formula": FORMULA, "models": models(), "data": {"path": str(data)}}
    file.write_text(dump_yaml({**content, "generate": generate}))
    return file


def rate(lines: Callable[[Path], Any], folder: Path) -> float:
    """Rows per second of a run into a new folder, its models in memory."""
    start = time.perf_counter()
    rows = sum(1 for _ in lines(folder))
    return rows / (time.perf_counter() - start)


def rates(run: RunFile, actors: int, pairs: int, folder: Path) -> list[dict[str, float]]:
    """One process and so many decoders in turn, each with its models in memory."""
    decoder = compiled(run)
    with Cluster(RayOptions("local", actors=actors), run, sweeps=False) as cluster:
        number = 0
        while cluster.decoders < actors:  # until each of them runs; then each reads its models
            number += 1
            rate(lambda out: rows_to_folder(run, cluster.complete, out), folder / f"w{number}")
        measured = []
        for pair in range(-1, pairs):
            here = rate(lambda out: run_to_folder(run, decoder, out), folder / f"one{pair}")
            there = rate(
                lambda out: rows_to_folder(run, cluster.complete, out), folder / f"ray{pair}"
            )
            if pair >= 0:
                measured.append({"one process": here, "ray": there, "ratio": there / here})
    return measured


def resumed_after_a_kill(file: Path, folder: Path, *more: str) -> dict[str, Any]:
    """Seconds to the first line of a command, and of the same command after ``kill -9``."""
    lines = folder / "completions.jsonl"
    seconds, counts = [], []
    for last in (False, True):
        before = lines.stat().st_size if lines.exists() else 0
        words = [sys.executable, "-m", "descant", "run", str(file), "--output", str(folder), *more]
        start = time.perf_counter()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and (not lines.exists() or lines.stat().st_size == before):
            time.sleep(0.01)
        seconds.append(time.perf_counter() - start)
        if not last:
            process.kill()
        process.wait()
        counts.append(sum(1 for _ in lines.open()))
    keys = {tuple(json.loads(line)[k] for k in ("id", "sample")) for line in lines.open()}
    return {
        "first line": seconds[0], "first line after the kill": seconds[1],
        "lines at the kill": counts[0], "lines": counts[1], "different": len(keys),
    }  # fmt: skip


def computed() -> str:
    """The table of 70B with two of 7B, as Markdown: by ``descant explain --devices``."""
    rows = ["| rows of a decoder | fullest GPU | a step | rows/s, one node | rows/s, four nodes |",
            "|--:|--:|--:|--:|--:|"]  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        file = _large(Path(scratch))
        [plan] = ExplainRequest(str(file)).arguments().values()
        for batch in (1, 16, 64, 128, 256):
            try:
                placement = plan.report(target("8xH200", batch, CONTEXT))._placement
            except DescantError as error:
                rows.append(f"| {batch} | {str(error).splitlines()[0]} | | | |")
                continue
            assert placement is not None
            most, step = max(load.total for load in placement.loads), placement.seconds
            each = batch / (step * ANSWER)
            rows.append(f"| {batch} | {most / 1e9:.0f} GB | {step * 1e3:.1f} ms | {each:.2f} | "
                        f"{4 * each:.2f} |")  # fmt: skip
        detail = str(plan.report(target("8xH200", 64, CONTEXT)))
        detail = "devices" + detail.partition("devices")[2].rstrip()
        try:
            plan.report(target("4x8xH200", 64, CONTEXT))
            together = ""
        except DescantError as error:
            together = f"\nAs one decoder over four nodes it is refused:\n\n```text\n{error}\n```\n"
    return HEAD + "\n".join(rows) + f"\n\nWith 64 rows:\n\n```text\n{detail}\n```\n{together}"


def _large(folder: Path) -> Path:
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="w0")), eos_token="w1"
    )
    for name, shape in (("base", "70b"), ("tuned", "7b"), ("weak", "7b")):
        hidden, inner, layers, heads = SHAPES[shape]
        LlamaConfig(
            hidden_size=hidden, intermediate_size=inner, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=8, vocab_size=VOCABULARY,
            max_position_embeddings=8192, dtype="bfloat16", architectures=["LlamaForCausalLM"],
            bos_token_id=None, eos_token_id=1,
        ).save_pretrained(folder / name)  # fmt: skip
        tokenizer.save_pretrained(folder / name)
    declared = {name: {"path": str(folder / name)} for name in ("base", "tuned", "weak")}
    content = {
        "formula": "base + a*(tuned - weak)", "params": {"a": 1.0}, "parallel": "terms",
        "models": {**declared, "base": {**declared["base"], "tp_plan": "auto"}},
    }  # fmt: skip
    file = folder / "run.yaml"
    file.write_text(dump_yaml(content))
    return file


def main() -> None:
    """Measure or compute, print the table, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--computed", action="store_true")
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--samples", type=int, default=3, help="of each of 16 prompts")
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--output", type=Path, default=RESULTS / "scale.json")
    options = parser.parse_args()
    if options.computed:
        text = computed()
        (RESULTS / "scale-computed.md").write_text(text)
        print(text)
        return
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        file = run_file(folder, options.samples, options.tokens)
        run = read_run_file(file)
        kills = {"one process": resumed_after_a_kill(file, folder / "killed")}
        results: dict[str, Any] = {}
        room = max(options.actors)  # by its word: they share the cores
        ray.init(address="local", num_cpus=room, include_dashboard=False, log_to_driver=False)
        for actors in options.actors:
            (folder / str(actors)).mkdir()
            pairs = rates(run, actors, options.pairs, folder / str(actors))
            results[str(actors)] = pairs
            middle = statistics.median(pair["ratio"] for pair in pairs)
            print(f"{actors} decoders: {middle:.2f} times the rows per second of one process")
        ray.shutdown()
        more = ("--ray", "local", "--ray-actors", "2")
        kills["ray"] = resumed_after_a_kill(file, folder / "killed-ray", *more)
        print(json.dumps(kills, indent=1))
    content = {
        "formula": FORMULA, "rows": options.samples * len(PROMPTS), "tokens": options.tokens,
        "cores": os.cpu_count(), "load before": load, "load after": os.getloadavg()[0],
        "note": "other work ran on the machine meanwhile: read the ratios", **about(),
        "rates": results, "kills": kills,
    }  # fmt: skip
    options.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
