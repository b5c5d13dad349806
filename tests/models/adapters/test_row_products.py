"""What rows add, whatever else is loaded, and to joined modules at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checkpoints import fresh
from combined import rows_of
from steered import with_weights
from torch import Tensor
from trained_adapters import IDS, config_of, logprobs, trained

from descant.models.adapters.rows import on_gpu, products
from descant.models.adapters.rows.shares import Share, shares
from descant.models.kernels.first_use import FirstUse
from descant.models.kernels.lora.row_lists import RowLists, list_adapters
from descant.models.lanes import adapters as lane_adapters
from descant.models.lanes.adapters import Adapters

Q, K, V, O = (f"model.layers.1.self_attn.{name}_proj" for name in "qkvo")  # noqa: E741
OPTIONS: list[dict[str, Any]] = [
    {"r": 4, "target_modules": ["q_proj", "v_proj", "gate_proj"]},
    {"r": 12, "target_modules": ["q_proj", "k_proj", "o_proj"]},
    {"r": 3, "target_modules": ["v_proj", "o_proj", "down_proj", "lm_head"]},
]
ROWS = [0, [(1, 0.5)], [(2, -1.5)], [(1, 0.3), (3, 0.7)], [(1, 0.5)], 0, [(2, 1.1), (3, 0.2)]]


@pytest.fixture(scope="module")
def folders(zoo, tmp_path_factory) -> list[str]:
    return [
        trained(
            zoo.path("base"), config_of("LORA", **options), tmp_path_factory.mktemp("a"), seed=i
        )
        for i, options in enumerate(OPTIONS)
    ]


@pytest.fixture(params=["torch", "as on a GPU"])
def way(request, monkeypatch) -> str:
    """By torch's operations; and as kernels are used, by their reference on the CPU."""
    if request.param != "torch":
        as_on_a_gpu(monkeypatch)
    return str(request.param)


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def lists_of(table: Tensor, slots: Tensor, loaded: int, positions: int) -> RowLists:
        return list_adapters(table, slots, loaded)

    monkeypatch.setattr(lane_adapters, "lists_of", lists_of)
    monkeypatch.setattr(products, "takes", lambda *call: True)
    monkeypatch.setattr(on_gpu, "_PRODUCTS", FirstUse("LoRA", lambda device: None))


def adapted(path: str, folders: list[str], more: int = 0) -> tuple[Any, Adapters]:
    """A model with adapters, and with others between and after them that no row has."""
    model = fresh(path)
    adapters = Adapters(model)
    for number, folder in enumerate(folders):
        adapters.add(f"one {number}", folder)
    for number in range(more):
        adapters.add(f"other {number}", folders[number % len(folders)])
    return model, adapters


def numbered(row: Any, step: int) -> Any:
    return row and [((number - 1) * step + 1, weight) for number, weight in row]


@torch.no_grad()
def test_rows_are_models_with_the_summed_weights(zoo, folders, way) -> None:
    model, adapters = adapted(zoo.path("base"), folders, more=3)
    ids = torch.tensor([IDS])
    with adapters.chosen(rows_of(adapters, *ROWS), torch.arange(len(IDS)).expand(len(ROWS), -1)):
        found = logprobs(model, ids.expand(len(ROWS), -1))
    for row, weights in zip(found, ROWS, strict=True):
        by_folder = {folders[number - 1]: weight for number, weight in weights or []}
        expected = logprobs(with_weights(zoo.path("base"), by_folder), ids)[0]
        torch.testing.assert_close(row, expected, rtol=2e-5, atol=2e-5)


@torch.no_grad()
def test_what_else_is_loaded_changes_no_bit(zoo, folders, way) -> None:
    """Many adapters, in between those that the rows have and after them."""
    said = []
    for others in (0, 6):
        model = fresh(zoo.path("base"))
        adapters = Adapters(model)
        for number, folder in enumerate(folders):
            adapters.add(f"one {number}", folder)
            for other in range(others):
                adapters.add(f"other {number} {other}", folders[other % 3])
        rows = rows_of(adapters, *(numbered(row, others + 1) for row in ROWS))
        with adapters.chosen(rows, torch.zeros(len(ROWS), 1)):
            said.append(model(torch.tensor([IDS[:1]] * len(ROWS))).logits)
    assert torch.equal(*said)


@torch.no_grad()
@pytest.mark.parametrize(
    "paths", [(Q, K, V), (O,), (V, Q), (K, O)], ids=lambda paths: " ".join(p[-6] for p in paths)
)
def test_joined_modules_get_what_their_hooks_add(zoo, folders, way, paths) -> None:
    """Of any order, and with modules that some or all adapters are not on."""
    model, adapters = adapted(zoo.path("base"), folders[:2])
    modules = [model.get_submodule(path) for path in paths]
    x = torch.randn(len(ROWS), 2, 32)
    places = torch.arange(2).expand(len(ROWS), -1)
    rows = [row if not row or row[-1][0] < 3 else [(2, 0.4)] for row in ROWS]
    bare = torch.cat([module(x) for module in modules], dim=-1)
    assert adapters.joins(paths) and adapters.add_to(paths, x, bare) is bare
    with adapters.chosen(rows_of(adapters, *rows), places):
        expected = torch.cat([module(x) for module in modules], dim=-1)
        found = bare.clone()
        assert adapters.add_to(paths, x, found) is found
        bared = bare.clone()
        assert adapters.add_to(("model.layers.1.mlp.down_proj",), x, bared) is bared
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert not torch.equal(found, bare) and torch.equal(found[0], bare[0])
    assert torch.equal(bared, bare), "no adapter is on that one"
    padded = torch.zeros(len(ROWS), 2, bare.shape[-1] + 5)
    padded[..., 2:-3] = bare
    with adapters.chosen(rows_of(adapters, *rows), places):
        adapters.add_to(paths, x, padded[..., 2:-3])
    torch.testing.assert_close(padded[..., 2:-3], expected, rtol=1e-6, atol=1e-6)
    assert not padded[..., :2].any() and not padded[..., -3:].any()


def test_what_is_not_a_product_is_not_joined(zoo, tmp_path) -> None:
    config = config_of("LORA", use_dora=True, target_modules=["q_proj", "embed_tokens"])
    adapters = Adapters(fresh(zoo.path("base")))
    adapters.add("dora", trained(zoo.path("base"), config, tmp_path))
    assert not adapters.joins((Q, K, V)) and not adapters.joins(("model.embed_tokens",))
    assert adapters.joins((K, V))


@torch.no_grad()
def test_kernels_that_give_other_numbers_are_not_used(zoo, folders, monkeypatch, caplog) -> None:
    as_on_a_gpu(monkeypatch)
    monkeypatch.setattr(on_gpu, "add_products", lambda out, *others: out.add_(1))
    model, adapters = adapted(zoo.path("base"), folders)
    ids = torch.tensor([IDS])
    with adapters.chosen(rows_of(adapters, [(1, 0.5)]), torch.arange(len(IDS))[None]):
        found = logprobs(model, ids)
    expected = logprobs(with_weights(zoo.path("base"), {folders[0]: 0.5}), ids)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    [message] = caplog.messages
    assert "goes on with torch's operations, for its kernels give other numbers, by 1" in message


def test_rows_of_each_adapter() -> None:
    rows = [(), ((0, 0.5),), ((2, 1.0),), ((0, 0.5), (2, 2.0)), (), ((0, 0.5),), ((4, -1.0),)]
    assert shares(rows) == [
        Share(0, slice(1, 6, 2), 0.5),
        Share(2, slice(2, 4, 1), None),
        Share(4, slice(6, 7, 1), -1.0),
    ]
    assert shares([((0, 0.5),), ((0, 0.5),), (), ((0, 0.5),)]) == [Share(0, slice(0, 4, 1), None)]
    assert shares([(), ()]) == []


def test_a_row_that_has_no_adapter_never_meets_it(zoo, folders) -> None:
    """Not even to multiply its numbers by 0."""
    model, adapters = adapted(zoo.path("base"), folders[:1])
    adapters._stacked[Q].a.fill_(torch.inf)
    x = torch.randn(3, 1, 32)
    with torch.no_grad(), adapters.chosen(rows_of(adapters, 0, [(1, 0.5)], 0)):
        found: Tensor = model.get_submodule(Q)(x)
    assert found[[0, 2]].isfinite().all() and not found[1].isfinite().all()
