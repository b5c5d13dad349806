"""``descant train distill``: what a formula would draw, in the weights of one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional

import descant
from descant.runtime.loops.distributions import distributions
from descant.train import TrainFileError
from descant.train.formulas.distill import DistillTrainer, divergence

PROMPTS = [f"{number}: say it" for number in range(12)]
FORMULAS = {
    "sum": "base + arm - 0.5*other_prompt",
    "stages": "base + arm | top_k(20) | temperature(0.7)",
    "by token": "base | rerank(rm, k=4, w=2)",
}


@pytest.fixture
def models(zoo: Any) -> dict[str, Any]:
    names = {"base": "base", "arm": "arm", "rm": "rm"}
    found = {name: {"path": zoo.path(path), "dtype": "float32"} for name, path in names.items()}
    return found | {"other_prompt": {**found["base"], "prefix": "no: "}}


@pytest.fixture
def teacher(zoo: Any, tmp_path: Path) -> str:
    """A run file."""
    models = {name: {"path": zoo.path(name), "dtype": "float32"} for name in ("base", "arm")}
    run = {
        "formula": "base + 2*arm", "models": models,
        "generate": {"max_new_tokens": 6, "temperature": 1.0, "seed": 3},
    }  # fmt: skip
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(run))
    return str(tmp_path / "teacher.yaml")


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    return str(file)


@pytest.mark.parametrize("name", FORMULAS)
def test_distributions_are_the_scores_of_each_text_alone(models, name) -> None:
    decoder = descant.compile(FORMULAS[name], models=models)
    answers = [[7, 8, 9, 10], [11], [7, 8, 12, 13, 14]]
    rows = decoder.session.builder.rows(PROMPTS[:3], None)
    requests = [
        decoder.session.builder.request(i, *row, max_new_tokens=len(ids), strict=True)
        for i, (row, ids) in enumerate(zip(rows, answers, strict=True))
    ]
    found = distributions(decoder.session.engine, requests, answers)
    for prompt, ids, rows_of_text in zip(PROMPTS, answers, found, strict=False):
        expected = decoder.scores(prompt, ids)[:-1].log_softmax(-1)
        torch.testing.assert_close(rows_of_text, expected, atol=2e-5, rtol=2e-5)


def test_the_divergence_is_torchs_and_leaves_out_what_cannot_be() -> None:
    torch.manual_seed(0)
    p, q = torch.randn(5, 9).log_softmax(-1), torch.randn(5, 9)
    expected = functional.kl_div(q.log_softmax(-1), p, log_target=True, reduction="batchmean")
    assert torch.allclose(divergence(p, q), expected)
    p[:, 3] = -torch.inf
    q.requires_grad_()
    loss = divergence(p, q)
    loss.backward()
    assert loss.isfinite() and q.grad.isfinite().all()
    assert torch.allclose(divergence(q.detach().log_softmax(-1), q), torch.tensor(0.0), atol=1e-6)


def test_it_learns_the_formulas_distributions(trained, zoo, teacher, prompts, monkeypatch) -> None:
    losses: list[tuple[Any, float]] = []
    compute = DistillTrainer.compute_loss

    def watched(self: Any, model: Any, inputs: Any, *more: Any, **options: Any) -> Any:
        loss = compute(self, model, inputs, *more, **options)
        if not losses:
            losses.append(({k: v.clone() for k, v in inputs.items()}, float(loss)))
        return loss

    monkeypatch.setattr(DistillTrainer, "compute_loss", watched)
    done = trained(
        "distill", teacher=teacher, data=prompts, eval_share=0.25, training={"max_steps": 20}
    )
    lines = (done.folder / "train-answers.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    offline = descant.compile("base + 2*arm", {n: zoo.path(n) for n in ("base", "arm")})
    seeds = [3 + number for number in range(len(PROMPTS))]
    drawn = offline.generate(PROMPTS, max_new_tokens=6, temperature=1.0, seed=seeds)
    assert [answer["token_ids"] for answer in answers] == [each.token_ids for each in drawn]
    [(inputs, first)] = losses  # against plain forwards of the models as they began
    labels, own = inputs["labels"][:, 1:], inputs["input_ids"]
    mask = labels != -100
    logits = {name: zoo.model(name)(own).logits[:, :-1][mask] for name in ("base", "arm")}
    expected = (logits["base"].log_softmax(-1) + 2 * logits["arm"].log_softmax(-1)).log_softmax(-1)
    found = logits["base"].log_softmax(-1)
    assert first == pytest.approx(float((expected.exp() * (expected - found)).sum(-1).mean()), 1e-4)
    log = json.loads((done.folder / "training.json").read_text())["log"]
    values = [row["loss"] for row in log if "loss" in row]
    assert sum(values[-3:]) < 0.6 * sum(values[:3]) and "eval_loss" in done.metrics


def test_answers_are_drawn_once_and_those_there_are_learnt(trained, teacher, prompts) -> None:
    from descant.train.formulas.teacher import Teacher

    calls = []
    answer = Teacher.answer

    def stops(self: Any, examples: Any, *more: Any) -> Any:
        calls.append(len(examples))
        answer(self, examples, *more)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Teacher, "answer", stops)
        with pytest.raises(KeyboardInterrupt):
            trained("distill", teacher=teacher, data=prompts, loss="sft", training={"max_steps": 2})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Teacher, "logprobs", None)  # which sft does not ask
        done = trained(
            "distill", teacher=teacher, data=prompts, loss="sft", training={"max_steps": 2}
        )
    assert calls == [len(PROMPTS)] and done.rows["train"].used == len(PROMPTS)


def test_completions_that_there_are_are_not_drawn(trained, teacher, tmp_path) -> None:
    file = tmp_path / "answered.jsonl"
    rows = [{"prompt": prompt, "completion": " the river"} for prompt in PROMPTS]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = trained("distill", teacher=teacher, data=str(file), training={"max_steps": 1})
    assert (done.folder / "train-answers.jsonl").exists() is False
    assert done.rows["train"].used == len(PROMPTS)


def test_what_cannot_be_distilled_is_refused_by_name(trained, zoo, teacher, prompts) -> None:
    with pytest.raises(TrainFileError, match=r"other tokens than the teacher.*loss: sft"):
        trained("distill", on="other", teacher=teacher, data=prompts)
    with pytest.raises(TrainFileError, match="distill needs a teacher"):
        trained("distill", data=prompts)
    with pytest.raises(TrainFileError, match="teacher is an option of distill alone"):
        trained("sft", teacher=teacher)
