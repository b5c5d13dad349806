"""Make the chat demo's arm from scratch: `python -m examples.chat_arms.recipe`.

The chat model answers our questions, rules turn its answers into preferences, and `descant train
arm` learns from them. It needs the package of the chat model (`descant demo --chat` says how to
install it) and nothing else; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from descant.demo.chat_model import CHAT_MODEL, CHAT_WEIGHTS, smollm2
from descant.train import read_train_file
from descant.train.loop import train
from descant.train.record import RECORD
from examples.chat_arms import card
from examples.chat_arms.rules import KINDS, Answer, Pair, pairs
from examples.chat_arms.sampling import HERE, questions, sample

SEED = 20260
THREADS = 2
EVALUATED = 20  # of the questions: their pairs are for the evaluation loss
PER_QUESTION = 2
ANSWERS = "answers.jsonl"


def main(argv: Sequence[str] | None = None) -> None:
    """Sample answers, train an arm, measure it on held-out questions, write the model card."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.chat_arms.recipe", description=main.__doc__
    )
    parser.add_argument("--output", type=Path, default=CHAT_WEIGHTS, help="folder of the arms")
    parser.add_argument("--work", type=Path, default=Path("runs/chat_arms"), help="data and logs")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=["brief"], help="what to train"
    )
    options = parser.parse_args(argv)
    torch.set_num_threads(THREADS)
    model = smollm2()
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    file = options.work / ANSWERS
    answers = sample(model, questions("questions"), file, SEED, "bfloat16")
    print(f"{len(answers)} answers after {time.perf_counter() - began:.0f} s", flush=True)
    for kind in options.kinds:
        write_pairs(kind, answers, options.work)
        make_arm(kind, model, options.work, options.output)
        print(f"arm_{kind}: done after {time.perf_counter() - began:.0f} s in all", flush=True)
    print(card.write(options.output, options.work, options.kinds, len(answers)))
    print(f"finished in {time.perf_counter() - began:.0f} s")


def write_pairs(kind: str, answers: Sequence[Answer], work: Path) -> None:
    """Write `KIND.jsonl`, and `KIND_eval.jsonl` with the last questions' pairs."""
    evaluated = set(questions("questions")[-EVALUATED:])
    drawn = [*pairs(kind, answers, PER_QUESTION, SEED)]
    for name, own in ((kind, False), (f"{kind}_eval", True)):
        rows = [_row(pair) for pair in drawn if (pair.question in evaluated) == own]
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def make_arm(kind: str, model: str, work: Path, output: Path) -> None:
    """Train one arm, `descant train arm KIND.yaml`, unless it is trained; keep it in bfloat16."""
    folder = work / f"arm_{kind}"
    if not (folder / RECORD).is_file():
        overrides = [f"model.path={model}", f"eval_data.path={work / f'{kind}_eval.jsonl'}"]
        data = str(work / f"{kind}.jsonl")
        recipe = read_train_file(
            "arm", HERE / f"{kind}.yaml", overrides, data=data, output=str(folder)
        )
        train(recipe)
    ship(folder, output / folder.name)


def ship(trained: Path, folder: Path) -> None:
    """Keep the adapter's weights, rounded to bfloat16, and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    file = "adapter_model.safetensors"
    weights = {key: value.to(torch.bfloat16) for key, value in load_file(trained / file).items()}
    save_file(weights, folder / file, metadata={"format": "pt"})
    (folder / file).chmod(0o644)
    config = json.loads((trained / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = CHAT_MODEL
    config["target_modules"] = sorted(config["target_modules"])  # a set, in no order of its own
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


def _row(pair: Pair) -> dict[str, object]:
    prompt = [{"role": "user", "content": pair.question}]
    return {"prompt": prompt, "chosen": pair.chosen, "rejected": pair.rejected}


if __name__ == "__main__":
    main()
