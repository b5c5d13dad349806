"""``descant train probe``: the minimum of its loss by another way, and what it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import tokenizer
from command_line import command
from safetensors.torch import load_file

import descant
from descant import ModelError
from descant.train import TrainFileError, read_train_file
from descant.train.states.probe import (
    TrainedProbe,
    area_under_curve,
    logistic_regression,
    train_probe,
)

ROWS = [
    {"text": f"{n}: " + ("the river" if n % 2 else "a dog") + " jumps over" * (n % 5),
     "label": n % 2} for n in range(40)
]  # fmt: skip
Probe = Callable[..., TrainedProbe]


@pytest.fixture
def probe(zoo: Any, tmp_path: Path) -> Probe:
    """``probe(rows, output, on, **keys)``: what ``descant train probe`` does."""

    def make(rows: Any = ROWS, output: str = "out", on: str = "base", **keys: Any) -> Any:
        data = tmp_path / f"{output}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        content = {"model": zoo.path(on), "data": str(data), "output": str(tmp_path / output)}
        file = tmp_path / f"{output}.yaml"
        file.write_text(json.dumps({"layer": 1, **content, **keys}), "utf-8")
        return train_probe(read_train_file("probe", file), lambda line: None)

    return make


def newton(states: np.ndarray, targets: np.ndarray, l2: float) -> tuple[np.ndarray, float]:
    """The same minimum with numpy alone: iteratively reweighted least squares."""
    mean, deviation = states.mean(0), states.std(0)
    features = np.c_[(states - mean) / deviation, np.ones(len(states))]
    penalty = np.diag([l2] * states.shape[1] + [0.0])
    w = np.zeros(features.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-features @ w))
        gradient = features.T @ (p - targets) + penalty @ w
        w -= np.linalg.solve(features.T @ (features * (p * (1 - p))[:, None]) + penalty, gradient)
    weight = w[:-1] / deviation
    return weight, w[-1] - weight @ mean


@pytest.mark.parametrize("l2", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", [(30, 5), (20, 40)])
def test_it_is_the_minimum(shape: tuple[int, int], l2: float) -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=shape) * rng.uniform(0.01, 100, shape[1]) + 7
    targets = (rng.normal(size=shape[0]) + states[:, 0] / states[:, 0].std() > 0).astype(float)
    weight, bias = logistic_regression(torch.tensor(states), torch.tensor(targets), l2)
    expected, constant = newton(states, targets, l2)
    np.testing.assert_allclose(weight[0].numpy(), expected, rtol=1e-5, atol=1e-9)
    assert float(bias) == pytest.approx(constant, rel=1e-5)
    assert weight.shape == (1, shape[1]) and bias.shape == (1,)


def test_a_state_that_never_changes_has_no_weight() -> None:
    torch.manual_seed(0)
    states = torch.randn(20, 4, dtype=torch.float64)
    states[:, 2] = 3.0
    weight, _ = logistic_regression(states, (states[:, 0] > 0).double(), 1.0)
    assert float(weight[0, 2]) == 0 and weight.isfinite().all()


def test_the_area_counts_pairs_and_ties_half() -> None:
    torch.manual_seed(0)
    for _ in range(20):
        odds = torch.randint(0, 6, (17,)).double()
        targets = torch.rand(17) < 0.5
        targets[:2] = torch.tensor([True, False])
        pairs = [
            1.0 if a > b else 0.5 if a == b else 0.0
            for a in odds[targets].tolist() for b in odds[~targets].tolist()
        ]  # fmt: skip
        assert area_under_curve(odds, targets) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("on", ["base", "gpt2"])
def test_the_head_reads_the_last_tokens_state(zoo: Any, probe: Probe, on: str) -> None:
    """Against transformers' own hidden states, one text at a time."""
    done = probe(on=on, layer=0, eval_share=0, batch_size=7)
    states = []
    for row in ROWS:
        ids = tokenizer()(row["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            found = zoo.model(on)(input_ids=ids, output_hidden_states=True).hidden_states
        states.append(found[1][0, -1].double().numpy())
    targets = np.array([row["label"] for row in ROWS], float)
    weight, bias = newton(np.array(states), targets, 1.0)
    np.testing.assert_allclose(done.weight[0].numpy(), weight, atol=2e-4 * abs(weight).max())
    odds = np.array(states) @ weight + bias
    assert done.metrics["accuracy"] == ((odds > 0) == (targets > 0)).mean()
    assert set(done.metrics) == {"accuracy", "auc"}


def test_what_it_writes(probe: Probe, zoo: Any) -> None:
    done = probe()
    head = load_file(done.folder / "head.safetensors")
    assert head["weight"].shape == (1, 32) and head["bias"].shape == (1,)
    assert {tensor.dtype for tensor in head.values()} == {torch.float32}
    assert torch.equal(head["weight"], done.weight) and torch.equal(head["bias"], done.bias)
    config = json.loads((done.folder / "head.json").read_text())
    assert config["layer"] == 1 and config["base"] == zoo.path("base")
    assert config["labels"] == [0, 1]
    record = json.loads((done.folder / "training.json").read_text())
    assert record["metrics"] == done.metrics
    assert record["rows"]["train"]["used"] == 32 and record["rows"]["eval"]["used"] == 8
    assert done.metrics["eval_accuracy"] >= 0.75 and done.metrics["eval_auc"] >= 0.75
    again = probe(output="again")
    files = ("head.safetensors", "head.json")
    for file in files:
        assert (again.folder / file).read_bytes() == (done.folder / file).read_bytes()


def test_held_out_rows_are_not_learnt(probe: Probe, tmp_path: Path) -> None:
    """The eval rows have the labels turned round: they are measured, and change nothing."""
    turned = [{**row, "label": 1 - row["label"]} for row in ROWS[:10]]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in turned))
    done = probe(eval_data=str(tmp_path / "eval.jsonl"))
    alone = probe(output="alone", eval_share=0)
    assert torch.equal(done.weight, alone.weight)
    assert done.metrics["accuracy"] == 1 and done.metrics["eval_accuracy"] == 0
    assert done.metrics["eval_auc"] == 0


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [
        ((0, 1), None, [0, 1]),
        ((False, True), None, [False, True]),
        (("False", "True"), None, ["False", "True"]),
        (("0", "1"), None, ["0", "1"]),
        ((0, 1), 0, [1, 0]),
        (("answers", "refuses"), "refuses", ["answers", "refuses"]),
        (("answers", "refuses"), "answers", ["refuses", "answers"]),
    ],
)
def test_labels(probe: Probe, labels: Any, positive: Any, expected: Any) -> None:
    rows = [{**row, "label": labels[row["label"]]} for row in ROWS]
    done = probe(rows, eval_share=0, **({} if positive is None else {"positive": positive}))
    assert json.loads((done.folder / "head.json").read_text())["labels"] == expected
    plain = probe(output="plain", eval_share=0)
    sign = 1 if expected == list(labels) else -1
    assert torch.allclose(done.weight, sign * plain.weight, atol=1e-6)


@pytest.mark.parametrize(
    "row",
    [
        lambda text: {"prompt": text[:4], "completion": text[4:]},
        lambda text: {"messages": [{"role": "user", "content": text[:4]},
                                   {"role": "assistant", "content": text[4:]}]},
    ],
)  # fmt: skip
def test_rows_of_every_kind(probe: Probe, row: Any) -> None:
    done = probe([row(one["text"]) | {"label": one["label"]} for one in ROWS], eval_share=0)
    assert done.metrics["accuracy"] == 1


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ({"layer": 2}, ModelError, "the model has no layer 2"),
        ({"layer": -1}, TrainFileError, "layer"),
        ({"l2": 0}, TrainFileError, "l2"),
        ({"eval_share": 0.5, "eval_data": "x.jsonl"}, TrainFileError, "give eval_data or eval_sh"),
        ({"positive": "yes"}, TrainFileError, "the labels are 0 and 1, and positive is 'yes'"),
        ({"rows": [{**ROWS[0], "label": n % 3} for n in range(9)]}, TrainFileError,
         "two labels apart, and these rows have"),
        ({"rows": [{**row, "label": "ab"[row["label"]]} for row in ROWS]}, TrainFileError,
         "the labels are 'a' and 'b', and no positive; write positive: one of them"),
        ({"rows": [{**ROWS[n], "label": n == 0} for n in range(9)], "eval_share": 0.3},
         TrainFileError, "rows that are left have one label alone"),
        ({"rows": [{"text": "a"}]}, TrainFileError, "line 1: label is missing"),
        ({"rows": [{"text": "a", "label": 0.5}]}, TrainFileError, "label is neither text nor a"),
        ({"rows": [{"label": 1}]}, TrainFileError, "has neither prompt and completion"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(probe: Probe, keys: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        probe(**keys)
    assert says in str(caught.value)


def test_the_command(zoo: Any, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    found = command(
        "train", "probe", "--model", zoo.path("base"), "--data", tmp_path / "rows.jsonl",
        "--output", tmp_path / "out", "--set", "layer=0",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "train: 32 of 32 rows used" in found.stdout
    assert "eval: 8 of 8 rows used" in found.stdout
    assert f"{tmp_path / 'out' / 'head.safetensors'}: accuracy " in found.stdout


def test_a_formula_reads_the_folder(zoo: Any, probe: Probe) -> None:
    """Its number is the log-odds, of the state that the probe was fitted to."""
    done = probe()
    models = {"base": {"path": zoo.path("base"), "dtype": "float32"}}
    models["v"] = {"head": str(done.folder), "on": "base"}
    decoder = descant.compile("where(head(base, v) > 0, base, base@none)", models)
    ids = [1, 17, 30, 9]
    [condition] = decoder.inspect(ids, max_new_tokens=1).tokens[0].conditions
    with torch.no_grad():
        model = zoo.model("base")
        states: list[torch.Tensor] = []
        layer = model.model.layers[1].register_forward_hook(lambda m, a, out: states.append(out))
        model(input_ids=torch.tensor([ids]))
        layer.remove()
    odds = done.weight[0] @ states[0][0, -1] + done.bias[0]
    assert condition.states == {"head(base, v)": pytest.approx(odds.item(), abs=1e-4)}
    assert condition.holds == (odds > 0)
