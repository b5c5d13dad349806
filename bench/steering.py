"""Steering beside what hooks and `model.generate` do, and beside AISteer360, on the same vector.

    OMP_NUM_THREADS=2 python -m bench.steering        bench/results/steering.json

The model is SmolLM2-135M-Instruct in float32, the vector that of `examples/steering/calm.yaml`.
`hooks` is the plain way: a hook that adds to a layer's output, and prompts padded on the left.
`aisteer360` is IBM's toolkit, measured where it can be imported:

    git clone https://github.com/IBM/AISteer360 && PYTHONPATH=AISteer360 python -m bench.steering

Its own requirements hold back transformers (below 5 in its 0.3.0); what is used of it here runs on
a later one. Its `CAA` has one layer and one multiplier, fixed when a pipeline is set up, so that
rows with other weights are other pipelines, one after the other.

Every way decodes greedily, in turn, and tokens are compared; a ratio is the median over runs next
to each other. Times are those of the tokens after the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, StoppingCriteriaList

import descant
from descant.bench import plain
from descant.bench.measure import Clock, Settings, Way, about, timed
from descant.demo.chat_model import smollm2
from descant.models.checkpoint.spec import ModelSpec
from descant.models.loading.unpack import weights_source
from descant.runtime.loops.decode import decode
from descant.train import read_train_file
from descant.train.states.vector import train_vector

RESULTS = Path(__file__).parent / "results" / "steering.json"
RECIPE = Path(__file__).parents[1] / "examples" / "steering" / "calm.yaml"
SCOPES = {"answer": "after_prompt", "all": "all"}  # ours, AISteer360's
NEW, RUNS = 32, 5
QUESTIONS = (
    "Tell me about the moon.",
    "What should I do on a rainy day?",
    "Tell me a story about a small boat on a wide river.",
    "Why is the sky blue?",
    "How can I sleep better when the nights are hot and the street is loud?",
    "Describe a walk in the woods.",
    "What do people do at a market in the morning?",
    "I lost my umbrella on the bus to work yesterday. What can I do about it now?",
)


@dataclass(frozen=True)
class Case:
    """Prompts, and a weight for each."""

    questions: Sequence[str]
    weights: Sequence[float]


CASES = {
    "one row": Case(QUESTIONS[:1], (1.0,)),
    "eight rows": Case(QUESTIONS, (1.0,) * 8),
    "eight weights": Case(QUESTIONS[:1] * 8, (-1.0, -0.75, -0.5, -0.25, 0.25, 0.5, 0.75, 1.0)),
}


@dataclass(frozen=True)
class Steered:
    """A model and a vector, as each way takes them.

    Attributes:
        path: of the model, for ours.
        model: the same weights in transformers.
        direction: ``(hidden,)`` float32, added to the output of ``layer``.
    """

    path: str
    model: Any
    tokenizer: Any
    layer: int
    direction: Tensor

    def ids(self, question: str) -> list[int]:
        """A question as a chat."""
        chat = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def padded(self, case: Case) -> tuple[Tensor, Tensor]:
        """``(batch, L)`` prompts padded on the left, and their mask."""
        prompts = [self.ids(question) for question in case.questions]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in prompts])
        return ids, mask


def ours(steered: Steered, case: Case, scope: str) -> Way:
    """`chat[w*calm]`, a weight for each row."""
    vector = {"vector": {steered.layer: steered.direction}, "on": "chat", "tokens": scope}
    chat = {"path": steered.path, "dtype": "float32"}
    decoder = descant.compile("chat[w*calm]", {"chat": chat, "calm": vector}, params={"w": 0})
    prompts = [steered.ids(question) for question in case.questions]

    def act(new: int, clock: Clock) -> list[list[int]]:
        requests = decoder.session.builder.requests(
            prompts, params={"w": list(case.weights)}, max_new_tokens=new, eos_token_id=[]
        )
        answers: list[Any] = []
        for finished in decode(decoder.session.engine, requests, len(requests)):
            if not answers:
                answers = finished
                clock.start(wait=False)
        clock.stop()
        answers.sort(key=lambda answer: answer.request.index)
        return [answer.tokens for answer in answers]

    return act


@contextmanager
def hooked(steered: Steered, weights: Sequence[float], scope: str) -> Iterator[None]:
    """In this context, the layer adds the direction: the first forward reads the prompt."""
    added = torch.tensor(weights)[:, None, None] * steered.direction
    reading = scope == "answer"

    def add(module: Any, args: Any, output: Any) -> Any:
        nonlocal reading
        if reading:
            reading = False
            return output
        return output + added if isinstance(output, Tensor) else (output[0] + added, *output[1:])

    hook = steered.model.model.layers[steered.layer].register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def hooks(steered: Steered, case: Case, scope: str) -> Way:
    """A hook and `model.generate`."""
    ids, mask = steered.padded(case)

    def act(new: int, clock: Clock) -> list[list[int]]:
        with hooked(steered, case.weights, scope):
            tokens = plain.generate(steered.model, ids, new, mask=mask, started=clock.start)
        clock.stop()
        return [[int(token) for token in row] for row in tokens]

    return act


def aisteer360(steered: Steered, case: Case, scope: str) -> Way:
    """AISteer360's `CAA` in its pipeline: a pipeline for each weight, with its rows in a batch."""
    ids, mask = steered.padded(case)
    core = import_module("aisteer360.algorithms.core.steering_pipeline")
    caa = import_module("aisteer360.algorithms.state_control.caa.control")
    states = import_module("aisteer360.algorithms.state_control._common.steering_vector")
    vector = states.SteeringVector(
        model_type=steered.model.config.model_type,
        directions={steered.layer: steered.direction[None]},
    )
    pipelines = {}
    for weight in dict.fromkeys(case.weights):
        control = caa.CAA(
            steering_vector=vector, layer_id=steered.layer, multiplier=weight,
            token_scope=SCOPES[scope],
        )  # fmt: skip
        pipeline = core.SteeringPipeline(lazy_init=True, controls=[control])
        pipeline.model, pipeline.tokenizer = steered.model, steered.tokenizer
        pipeline.steer()
        rows = [row for row, own in enumerate(case.weights) if own == weight]
        pipelines[weight] = pipeline, rows

    def act(new: int, clock: Clock) -> list[list[int]]:
        tokens: dict[int, list[int]] = {}
        for pipeline, rows in pipelines.values():
            found = pipeline.generate(
                input_ids=ids[rows], attention_mask=mask[rows], max_new_tokens=new,
                min_new_tokens=new, do_sample=False, pad_token_id=0,
                stopping_criteria=StoppingCriteriaList([plain.First(clock.start)]),
            )  # fmt: skip
            clock.stop()
            tokens |= zip(rows, found.view(len(rows), -1).tolist(), strict=True)
        return [tokens[row] for row in range(len(case.weights))]

    return act


def measured(
    steered: Steered, case: Case, ways: Mapping[str, Callable[..., Way]], settings: Settings
) -> dict[str, Any]:
    """Whether the ways' tokens are equal, and how long each takes."""
    found: dict[str, Any] = {"weights": list(case.weights), "tokens": {}, "texts": {}}
    for scope in SCOPES:
        acts = {name: way(steered, case, scope) for name, way in ways.items()}
        tokens = {name: act(settings.new, Clock("cpu")) for name, act in acts.items()}
        found["tokens"][scope] = {
            name: f"{sum(map(list.__eq__, tokens['ours'], theirs))} of {len(theirs)} rows equal"
            for name, theirs in tokens.items()
            if name != "ours"
        }
        found["texts"][scope] = steered.tokenizer.batch_decode(tokens["ours"])
        if scope == "answer":
            runs = timed(acts, settings)
    found["ms per token"] = {name: round(statistics.median(each), 3) for name, each in runs.items()}
    found["raw"] = {name: [round(each, 3) for each in times] for name, times in runs.items()}
    found["ratios"] = {
        f"{name} / ours": round(statistics.median(map(_over, times, runs["ours"])), 3)
        for name, times in runs.items()
        if name != "ours"
    }
    return found


def _over(time: float, ours: float) -> float:
    return time / ours


def aisteer360_version() -> str | None:
    """Its version, of an installation or of a checkout; None where it cannot be imported."""
    spec = find_spec("aisteer360")
    if spec is None or spec.origin is None:
        return None
    try:
        return version("aisteer360")
    except PackageNotFoundError:
        project = Path(spec.origin).parents[1] / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])


def opened(path: str, sets: Sequence[str] = ()) -> Steered:
    """A model, with the vector that is trained on it."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = read_train_file(
            "vector", RECIPE, [f"model.path={path}", *sets], output=f"{folder}/calm"
        )
        [(layer, direction)] = train_vector(recipe, lambda line: None).directions.items()
    source = weights_source("chat", ModelSpec(path=path), torch.float32)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    return Steered(path, model, AutoTokenizer.from_pretrained(source), layer, direction)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=", ".join(CASES))
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--beside", default="", help="what else ran on the machine")
    parser.add_argument("--output", type=Path, default=RESULTS)
    chosen = parser.parse_args()
    ways = {"ours": ours, "hooks": hooks}
    if (theirs := aisteer360_version()) is not None:
        ways["aisteer360"] = aisteer360
    steered = opened(smollm2())
    results: dict[str, Any] = {"cases": {}}
    if chosen.output.is_file():
        results = json.loads(chosen.output.read_text(encoding="utf-8"))
    for name in chosen.names or CASES:
        settings = Settings(new=chosen.new, runs=chosen.runs)
        found = results["cases"][name] = measured(steered, CASES[name], ways, settings)
        print(name, found["tokens"], found["ms per token"], found["ratios"], flush=True)
        results |= {
            **about(), "aisteer360": theirs, "device": "cpu", "dtype": "float32",
            "model": Path(steered.path).name, "layer": steered.layer, "new": chosen.new,
            "beside": chosen.beside,
        }  # fmt: skip
        content = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        chosen.output.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
