"""``descant train vector``: the directions that transformers alone gives, one text at a time."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import CHAT, EOS, tokenizer
from command_line import command
from huggingface_hub import cached_assets_path
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from descant import ModelError
from descant.demo import WEIGHTS
from descant.models.adapters.vector_files import read_vector
from descant.train import TrainFileError, VectorFile, read_train_file
from descant.train.encode import Counts
from descant.train.examples import Example
from descant.train.states.hidden import HiddenStates
from descant.train.states.vector import TrainedVector, principal_direction, train_vector

NORMS = {  # what is behind the last layer
    **dict.fromkeys(("base", "mistral", "qwen2", "strong"), "model.norm"),
    "gpt2": "transformer.ln_f", "opt": "model.decoder.final_layer_norm",
}  # fmt: skip
PAIRS = [
    {
        "prompt": f"{number}: say it",
        "chosen": " the river goes on" + " to the sea" * (number % 3),
        "rejected": " a dog" + " jumps over the fox" * (number % 4),
    }
    for number in range(11)
]
Vector = Callable[..., TrainedVector]


@pytest.fixture
def vector(zoo: Any, tmp_path: Path) -> Vector:
    """``vector(pairs, output, on, **keys)``: what ``descant train vector`` does."""

    def make(pairs: Any = PAIRS, output: str = "out", on: str = "base", **keys: Any) -> Any:
        data = tmp_path / f"{output}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in pairs), "utf-8")
        content = {"model": zoo.path(on), "data": str(data), "output": str(tmp_path / output)}
        file = tmp_path / f"{output}.yaml"
        file.write_text(json.dumps(content | keys), "utf-8")
        return train_vector(read_train_file("vector", file), lambda line: None)

    return make


def plain_states(model: Any, norm: str, ids: list[int]) -> Tensor:
    """``(layers, tokens, hidden)``: transformers' hidden states of one text, the last unnormed."""
    unnormed: list[Tensor] = []
    hook = model.get_submodule(norm).register_forward_pre_hook(
        lambda module, inputs: unnormed.append(inputs[0])
    )
    with torch.no_grad():
        found = model(input_ids=torch.tensor([ids]), output_hidden_states=True)
    hook.remove()
    return torch.cat([*found.hidden_states[1:-1], *unnormed])


def plain(model: Any, norm: str, tokens: str, pairs: Any = PAIRS) -> np.ndarray:
    """``(layers, pairs, hidden)``: chosen minus rejected."""
    differences = []
    for pair in pairs:
        sides = []
        for side in ("chosen", "rejected"):
            prompt = tokenizer()(pair["prompt"])["input_ids"]
            ids = prompt + tokenizer()(pair[side], add_special_tokens=False)["input_ids"]
            states = plain_states(model, norm, ids)
            answer = states[:, len(prompt) :].double().mean(1)
            sides.append(states[:, -1].double() if tokens == "last" else answer)
        differences.append(sides[0] - sides[1])
    return torch.stack(differences, 1).numpy()


def repeng(differences: np.ndarray) -> np.ndarray:
    """Its ``pca_center`` and its sign, with numpy alone: each side around its pair's middle."""
    both = np.concatenate([differences / 2, -differences / 2])
    _, _, components = np.linalg.svd(both - both.mean(0), full_matrices=False)
    projected = both[: len(differences)] @ components[0], both[len(differences) :] @ components[0]
    smaller = np.mean(projected[0] < projected[1])
    return -components[0] if smaller > np.mean(projected[0] > projected[1]) else components[0]


def close(found: Mapping[int, Tensor], expected: Any) -> None:
    for layer, direction in found.items():
        wanted = torch.as_tensor(expected[layer]).float()
        assert direction.shape == wanted.shape
        assert torch.allclose(direction, wanted, atol=2e-5 * float(wanted.abs().max()), rtol=0)


@pytest.mark.parametrize("on", NORMS)
@pytest.mark.parametrize("tokens", ["last", "answer"])
def test_the_difference_of_means(zoo: Any, vector: Vector, on: str, tokens: str) -> None:
    done = vector(on=on, tokens=tokens, batch_size=4)
    differences = plain(zoo.model(on), NORMS[on], tokens)
    close(done.directions, differences.mean(1))
    assert list(done.directions) == list(range(zoo.model(on).config.num_hidden_layers))
    for row, one in zip(done.layers, differences, strict=True):
        mean = one.mean(0)
        assert row["norm"] == pytest.approx(np.linalg.norm(mean), rel=1e-4)
        assert row["separated"] == pytest.approx((one @ mean > 0).mean())


@pytest.mark.parametrize("tokens", ["last", "answer"])
@pytest.mark.parametrize("count", [11, 60])  # fewer pairs than the width, and more
def test_the_first_principal_component(zoo: Any, vector: Vector, tokens: str, count: int) -> None:
    pairs = [{**PAIRS[n % 11], "prompt": f"{n}: one of {n * 7}"} for n in range(count)]
    done = vector(pairs, tokens=tokens, direction="pca", batch_size=4)
    differences = plain(zoo.model("base"), NORMS["base"], tokens, pairs)
    close(done.directions, [repeng(one) for one in differences])
    for row, one in zip(done.layers, differences, strict=True):
        squares = np.linalg.svd(one, compute_uv=False) ** 2
        assert row["explained"] == pytest.approx(squares[0] / squares.sum(), rel=1e-4)
        assert row["norm"] == pytest.approx(1)


def test_its_file_is_what_a_formula_reads(vector: Vector, zoo: Any) -> None:
    done = vector(layers="0-1")
    found = read_vector("calm", done.file.parent)
    assert all(torch.equal(found[layer], done.directions[layer]) for layer in (0, 1))
    with safe_open(done.file, "pt") as file:
        metadata = json.loads(file.metadata()["vector"])
    assert metadata["base"] == zoo.path("base") and metadata["model_hint"] == "llama"
    assert metadata["direction"] == "mean" and metadata["pairs"] == "11"
    assert metadata["tokens"] == "last"
    record = json.loads((done.file.parent / "training.json").read_text())
    assert record["layers"] == done.layers and record["rows"]["used"] == 11
    names = {file.name for file in done.file.parent.iterdir() if not file.name.startswith(".")}
    assert names == {"vector.safetensors", "train.yaml", "training.json"}


@pytest.mark.parametrize(
    ("layers", "expected"), [(1, [1]), ([1, 0], [0, 1]), ("0-1", [0, 1]), ("1 - 1", [1])]
)
def test_layers_are_a_number_a_list_or_a_range(vector: Vector, layers: Any, expected: Any) -> None:
    done = vector(layers=layers)
    every = vector(output="every")
    assert sorted(done.directions) == [*read_vector("calm", done.file)] == expected
    assert all(torch.equal(done.directions[layer], every.directions[layer]) for layer in expected)


@pytest.mark.parametrize("tokens", ["last", "answer"])
def test_a_batch_gives_each_text_what_it_has_alone(zoo: Any, tokens: Any) -> None:
    """Texts of 6 to 40 tokens, in batches of any size."""
    found = []
    for batch_size in (1, 3, 22):
        recipe = VectorFile(model={"path": zoo.path("base")}, data={"path": "x"}, output="y",
                            batch_size=batch_size)  # fmt: skip
        base = HiddenStates(recipe, "vector")
        examples = [Example(one["prompt"], one["chosen"], one["rejected"], "") for one in PAIRS]
        texts = [text for example in examples for text in base.encoded(example, Counts())]
        assert len({len(text["input_ids"]) for text in texts}) > 5
        found.append(base.of(texts, [1, 0], tokens))
    assert found[0].shape == (2, 22, 32)
    for other in found[1:]:
        assert torch.allclose(found[0], other, atol=1e-5 * float(found[0].abs().max()), rtol=0)
    assert not torch.allclose(found[0][0], found[0][1], atol=0.1)


def test_the_same_command_writes_the_same_bytes(vector: Vector) -> None:
    first, second = (vector(output=name, direction="pca") for name in ("one", "two"))
    assert first.file.read_bytes() == second.file.read_bytes()


def test_normalize_gives_the_mean_the_length_one(vector: Vector) -> None:
    done, plain_mean = vector(normalize=True), vector(output="plain")
    for layer, direction in done.directions.items():
        mean = plain_mean.directions[layer]
        assert float(mean.norm()) > 1.5
        assert torch.allclose(direction, mean / mean.norm(), atol=1e-6)


@pytest.mark.parametrize("template", [None, "chat", "Q: {prompt} A:", CHAT])
def test_a_text_ends_with_its_answer(zoo: Any, template: str | None) -> None:
    """The last token is the answer's: no end of text, and no end of a template's turn."""
    spec = {"path": zoo.path("base"), "template": template}
    recipe = VectorFile(model=spec, data={"path": "x"}, output="y")
    base = HiddenStates(recipe, "vector")
    message = [{"role": "user", "content": "the sea?"}]
    for prompt in ("the sea?", *([message] if template in (None, "chat", CHAT) else [])):
        chosen, rejected = base.encoded(Example(prompt, " goes on", " sleeps", "x"), Counts())
        assert tokenizer().decode(chosen["input_ids"]).endswith(" goes on")
        assert tokenizer().decode(rejected["input_ids"]).endswith(" sleeps")
        assert EOS not in chosen["input_ids"]


def test_a_gguf_file_is_a_base(
    zoo: Any, vector: Vector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf_files = pytest.importorskip("gguf_files", reason="pip install descant[gguf]")
    assets = partial(cached_assets_path, assets_dir=tmp_path / "assets")
    monkeypatch.setattr("descant.models.checkpoint.gguf.cached_assets_path", assets)
    file = gguf_files.write(tmp_path / "m.gguf", zoo.model("base"), tokenizer())
    close(vector(model=str(file)).directions, vector(output="plain").directions)


def test_a_base_that_lies_on_the_disk(zoo: Any, vector: Vector) -> None:
    spec = {"path": zoo.path("base"), "device_map": {"": "disk"}}
    close(vector(model=spec).directions, vector(output="plain").directions)


def test_a_base_is_read_in_its_own_type(zoo: Any, vector: Vector) -> None:
    """As a formula reads it; what is written is float32."""
    done = vector(model={"path": zoo.path("base"), "dtype": "bfloat16"})
    plain = vector(output="plain")
    for layer, direction in done.directions.items():
        off = (direction - plain.directions[layer]).abs().max() / direction.abs().max()
        assert direction.dtype == torch.float32 and 1e-4 < float(off) < 0.05


def test_it_steers(vector: Vector) -> None:
    """More of the direction, at other prompts, and the chosen answers gain on the rejected ones."""
    path = str(WEIGHTS / "base")
    prompt = "<|user|>\nHow do I boil {} eggs?\n<|assistant|>\n"
    chosen, rejected = "Please be careful.", "Take a wide pan."
    pairs = [
        {"prompt": prompt.format(n), "chosen": chosen, "rejected": rejected} for n in range(2, 18)
    ]
    done = vector(pairs, model=path, tokens="answer", layers="1-3")
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(path)

    def margin() -> float:
        total = 0.0
        for number in (20, 30, 40):
            for sign, answer in ((1, chosen), (-1, rejected)):
                start = len(words(prompt.format(number))["input_ids"])
                ids = torch.tensor([words(prompt.format(number) + answer)["input_ids"]])
                with torch.no_grad():
                    logits = model(input_ids=ids).logits.log_softmax(-1)
                picked = logits[0, start - 1 : -1].gather(1, ids[0, start:, None])
                total += sign * float(picked.sum())
        return total

    for layer, direction in done.directions.items():
        margins = []
        for scale in (-0.2, 0, 0.2):
            hook = model.model.layers[layer].register_forward_hook(
                lambda module, inputs, output, added=scale * direction: output + added
            )
            margins.append(margin())
            hook.remove()
        assert margins == sorted(margins) and margins[-1] > margins[0] + 1


def test_the_sign_is_that_of_the_mean() -> None:
    torch.manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(8, dtype=torch.float64), dim=0)
    for sign in (1, -1):
        differences = sign * axis * torch.tensor([[3.0], [1.0], [-0.5]], dtype=torch.float64)
        direction, explained = principal_direction(differences)
        assert torch.allclose(direction, sign * axis) and explained == pytest.approx(1)
    balanced = axis * torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    direction, _ = principal_direction(balanced)
    assert torch.allclose(direction.abs(), axis.abs()) and direction[direction.abs().argmax()] > 0


def test_what_is_too_long_is_dropped_or_cut(vector: Vector) -> None:
    longest = [PAIRS[0], {**PAIRS[1], "rejected": " a dog jumps" * 40}]
    assert vector(longest, max_length=30).rows.dropped == 1
    done = vector(longest, output="cut", max_length=30, too_long="truncate")
    assert done.rows.truncated == 1 and done.rows.used == 2
    with pytest.raises(TrainFileError, match="no row is left: 0 of 1 rows used, 1 dropped"):
        vector(longest[1:], output="none", max_length=30)


@pytest.mark.parametrize(
    ("keys", "kind", "says"),
    [
        ({"layers": [0, 2]}, ModelError, "the model has no layer 2\nits 2 decoder layers count"),
        ({"layers": "3-2"}, TrainFileError, "'3-2' is no range of layers; write first-last"),
        ({"layers": "all"}, TrainFileError, "'all' is no range of layers"),
        ({"layers": []}, TrainFileError, "layers names no layer, or one twice"),
        ({"layers": [1, 1]}, TrainFileError, "layers names no layer, or one twice"),
        ({"layers": [-1]}, TrainFileError, "layers.0"),
        ({"layers": True}, TrainFileError, "true and false are no numbers"),
        ({"direction": "pca", "normalize": False}, TrainFileError, "those of pca have length 1"),
        ({"direction": "umap"}, TrainFileError, "direction"),
        ({"beta": 0.1}, TrainFileError, "beta"),
        ({"model": {"adapter": "a", "on": "b"}}, TrainFileError, "model.adapter is not of a base"),
        ({"on": "rm"}, ModelError, "is a classifier, and vector is for a language model"),
        ({"max_length": 999}, ModelError, "max_length is 999, and"),
        ({"pairs": [{**PAIRS[0], "chosen": ""}]}, TrainFileError, "line 1: a response has no"),
        ({"pairs": [{"prompt": "a", "chosen": " b"}]}, TrainFileError, "has no chosen and rejecte"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(vector: Vector, keys: Any, kind: Any, says: str) -> None:
    with pytest.raises(kind) as caught:
        vector(**keys)
    assert says in str(caught.value)


def test_states_that_are_not_finite_are_named(zoo: Any, vector: Vector, tmp_path: Path) -> None:
    torn = copy.deepcopy(zoo.model("base"))
    torn.model.layers[1].mlp.down_proj.weight.data[0, 0] = float("nan")
    torn.save_pretrained(tmp_path / "torn")
    tokenizer().save_pretrained(tmp_path / "torn")
    with pytest.raises(TrainFileError, match="hidden states of layer 1 are not finite"):
        vector(model=str(tmp_path / "torn"))
    assert list(vector(output="first", model=str(tmp_path / "torn"), layers=0).directions) == [0]


def test_a_folder_is_trained_once(vector: Vector) -> None:
    vector()
    with pytest.raises(TrainFileError, match="is trained already; give another output"):
        vector()
    with pytest.raises(TrainFileError, match=r"holds another training: direction .*pca"):
        vector(direction="pca")


def test_a_folder_of_a_killed_command_is_taken_again(vector: Vector) -> None:
    done = vector()
    before = done.file.read_bytes()
    (done.file.parent / "training.json").unlink()
    assert vector().file.read_bytes() == before


def test_the_command(zoo: Any, data: str, tmp_path: Path) -> None:
    found = command(
        "train", "vector", "--model", zoo.path("base"), "--data", data, "--output",
        tmp_path / "calm", "--set", "layers=0-1", "--set", "direction=pca",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "pairs: 24 of 24 rows used" in found.stdout
    assert f"{tmp_path / 'calm' / 'vector.safetensors'}: 2 layers, each of w" in found.stdout
    assert [*read_vector("calm", tmp_path / "calm")] == [0, 1]
    wrong = command(
        "train", "vector", "--model", "a", "--data", "b", "--output", tmp_path / "x",
        "--set", "learning_rate=1",
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "there is no option or key of data learning_rate" in wrong.stderr
