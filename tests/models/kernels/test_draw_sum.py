"""The draw from a sum with stages: the kernels beside plain sums, sorts and torch's noise.

Triton's interpreter runs the kernels, and its compiler makes them for GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import interpreted
import pytest
import torch
from torch import Tensor

from descant.models.kernels.drawing.draw_sum import (
    LIST,
    MIN_P,
    TEMPERATURE,
    TOP_K,
    TOP_P,
    cost,
)  # fmt: skip
from descant.models.kernels.noise import gumbel

TRITON = "pip install triton: it has wheels for Linux"
Stages = Sequence[tuple[int, Sequence[float]]]  # kinds, and their numbers row by row


class Sum(NamedTuple):
    """What is drawn from: terms, and per row what it reads of each, with which weight."""

    logits: list[Tensor]
    rows: list[list[int]]
    weights: list[list[float]]


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def settings(n: int, temperatures: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
    """Temperatures, again and again; keys, and steps beyond 32 bits."""
    generator = torch.Generator().manual_seed(n)
    keys = torch.randint(-(2**31), 2**31, (n, 2), generator=generator).int()
    warm = torch.tensor(temperatures).repeat(n)[:n]
    return warm, keys, torch.randint(2**40, (n,), generator=generator)


def arguments(given: Sum, stages: Stages, temperatures: Sequence[float]) -> tuple[Any, ...]:
    """Those of ``draw_sum``; every row is said to be there."""
    n = len(given.rows[0])
    present = [torch.ones(n, dtype=torch.bool) for _ in given.logits]
    rows, weights = [torch.tensor(each) for each in given.rows], [*map(column, given.weights)]
    kinds, numbers = [kind for kind, _ in stages], [column(values) for _, values in stages]
    settled = settings(n, temperatures)
    return given.logits, rows, weights, present, [], [], [], kinds, numbers, *settled


def summed(given: Sum, row: int) -> Tensor:
    """The scores of a row, a term after the other."""
    total = torch.zeros(given.logits[0].shape[1])
    excluded = torch.zeros(len(total), dtype=torch.bool)
    for logits, rows, weights in zip(*given, strict=True):
        own, weight = logits[rows[row]].float(), weights[row]
        if weight != 0:
            excluded |= own == -math.inf
            total += torch.where(own == -math.inf, 0.0, own * torch.tensor(weight))
    return total.masked_fill(excluded, -math.inf)


def kept(scores: Tensor, kind: int, x: float) -> Tensor:
    """A stage by sorting; of tokens that tie for the last place in top-p, the lowest ids stay."""
    order = sorted(range(len(scores)), key=lambda token: (-float(scores[token]), token))
    out = torch.full_like(scores, -math.inf)
    if kind == TEMPERATURE:
        return scores / torch.tensor(x)
    if kind == TOP_K:
        least = scores[order[min(int(x), len(order)) - 1]]
        return torch.where(scores >= least, scores, out)
    if kind == MIN_P:
        least = scores.max() + torch.tensor(x).log()
        return torch.where(scores >= least, scores, out)
    shares = scores.double().softmax(dim=-1)[order]
    from_below = shares.flip(0).cumsum(0).flip(0)
    stays = [
        token
        for token, mass in zip(order, from_below.tolist(), strict=True)
        if mass > 1 - float(torch.tensor(x)) or x >= 1
    ]
    out[stays] = scores[stays]
    return out


def plain(given: Sum, stages: Stages, temperatures: Sequence[float]) -> tuple[list[int], Tensor]:
    """Tokens and their scores, a row at a time."""
    tokens, scores = [], []
    warm, keys, steps = settings(len(given.rows[0]), temperatures)
    for row, temperature in enumerate(warm.tolist()):
        own = summed(given, row)
        for kind, values in stages:
            own = kept(own, kind, values[row])
        noisy = own
        if temperature > 0:
            at = slice(row, row + 1)
            noisy = own / warm[row] + gumbel(keys[at], steps[at], len(own))[0]
        tokens.append(int(noisy.argmax()))
        scores.append(own[tokens[-1]])
    return tokens, torch.stack(scores)


def draw(process: ProcessPoolExecutor, *given: Any) -> tuple[Tensor, Tensor]:
    return process.submit(interpreted.launch, "kernels.drawing.draw_sum", *given).result()


def check(process: Any, given: Sum, stages: Stages = (), heat: Sequence[float] = (0, 0.7)) -> None:
    results, scores = draw(process, *(passed := arguments(given, stages, heat)))
    tokens, expected = plain(given, stages, heat)
    assert results[0].tolist() == tokens
    assert torch.equal(scores, expected)
    assert results[1].tolist() == [0] * len(tokens)
    assert torch.equal(results[2], passed[-1] + 1)


def terms(vocabulary: int, *dtypes: torch.dtype, spread: float = 3.0) -> Sum:
    """Four rows: weights of every sign, and rows of the terms in some order."""
    generator = torch.Generator().manual_seed(vocabulary)
    logits = [(spread * torch.randn(3, vocabulary, generator=generator)).to(dt) for dt in dtypes]
    rows = [[0, 1, 2, 1], [2, 0, 0, 1], [1, 1, 0, 2]][: len(dtypes)]
    weights = [[1.0] * 4, [0.5, 0.0, -0.25, 1.5], [-0.5, 0.5, 0.0, 0.125]][: len(dtypes)]
    return Sum(logits, rows, weights)


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize("dtypes", [(FP32,), (BF16,), (BF16, FP32, FP16)])
@pytest.mark.parametrize("vocabulary", [1, 1025])
def test_a_sum_is_drawn_from_as_by_torch(vocabulary, dtypes, process) -> None:
    given = terms(vocabulary, *dtypes)
    check(process, given, heat=(0, 0.7, 1.0, 2.5))
    check(process, given, [(TEMPERATURE, [0.5, 0.7, 1, 3])], heat=(0, 0.7))


CHAINS = {
    "top_k": [(TOP_K, [1, 40, 700, 10**6])],
    "top_p": [(TOP_P, [0.01, 0.5, 0.95, 1])],
    "min_p": [(MIN_P, [1, 0.1, 1e-6, 0])],
    "all": [
        (TOP_K, [40, 1500, 300, 1e6]), (TOP_P, [0.9, 0.3, 0.999, 0.7]), (TEMPERATURE, [0.7] * 4)
    ],
    "of a request": [
        (TEMPERATURE, [0.7, 1.5, 0.2, 1]), (TOP_K, [40, 1e6, 5, 1e6]), (TOP_P, [0.9, 0.8, 1, 1]),
        (MIN_P, [0.02, 0, 0.2, 0]),
    ],
    "heat between": [
        (TOP_P, [0.9, 1, 1, 0.5]), (TEMPERATURE, [2.0] * 4), (TOP_P, [0.9, 0.8, 1, 1])
    ],
}  # fmt: skip


@pytest.mark.parametrize("spread", [3.0, 0.02])  # of little spread, no list is long enough
@pytest.mark.parametrize("chain", CHAINS)
def test_stages_keep_what_sorting_keeps(chain, spread, process) -> None:
    check(process, terms(4999, FP32, BF16, spread=spread), CHAINS[chain], heat=(1.0, 0.0, 0.7))


@pytest.mark.parametrize("vocabulary", [64, 2600])
@pytest.mark.parametrize("chain", ["top_k", "top_p", "min_p", "all"])
def test_ties_for_the_last_place(chain, vocabulary, process) -> None:
    """A few values, so that nearly every score has equals; and tokens that are excluded."""
    given = terms(vocabulary, FP32, spread=1.0)
    for number, logits in enumerate(given.logits):
        logits.round_()
        logits[number % 3, :: 2 + number] = -math.inf
        logits[:, 1] = 1.0
    check(process, given, CHAINS[chain], heat=(1.0, 0.0, 5.0))


def test_a_token_that_a_term_excludes_is_excluded_whatever_the_sign(process) -> None:
    given = terms(40, FP32, FP32)
    given.logits[1][:, 5:] = -math.inf
    results, scores = draw(process, *arguments(given, [], (0.0,)))
    assert torch.equal(scores, plain(given, [], (0.0,))[1])
    excluding = [weight != 0 for weight in given.weights[1]]
    assert [token < 5 for token in results[0].tolist()][:3] == [True, False, True]
    assert excluding[:3] == [True, False, True]


@pytest.mark.parametrize("stages", [(), CHAINS["all"]])
def test_alarms_name_the_first_source_that_is_wrong(stages, process) -> None:
    """Per row: nothing, NaN in the second term, infinity in the first, and nothing left."""
    logits = [torch.randn(4, 2500), torch.randn(4, 2500)]
    logits[1][1, 2100] = math.nan
    logits[0][2, 7] = math.inf
    logits[1][2, 7] = math.nan
    logits[0][3, :1000], logits[1][3, 1000:] = -math.inf, -math.inf
    rows, weights = [[0, 1, 2, 3]] * 2, [[1.0] * 4, [0.5] * 4]
    passed = list(arguments(Sum(logits, rows, weights), stages, (1.0,)))
    results, scores = draw(process, *passed)
    assert results[1].tolist() == [0, 2, 1, 4]
    assert results[0, 1] == 2100 and scores[1].isnan() and scores[3] == -math.inf
    passed[3] = [torch.tensor([True, False, True, True])] * 2  # nobody asks about these rows
    assert draw(process, *passed)[0][1].tolist() == [0, 3, 1, 4]
    passed[6] = [torch.tensor([False, False, False, True])]  # whose answer is at its end
    assert draw(process, *passed)[0][1].tolist() == [0, 3, 1, 0]


@pytest.mark.parametrize("chain", [(), CHAINS["all"]])
def test_scores_that_are_there_already(chain, process) -> None:
    """One term without weights, and what went wrong before."""
    scores = terms(3000, FP32).logits[0].repeat(2, 1)[:4]
    wrong = [torch.tensor([False, False, False, True]), torch.tensor([False, True, False, True])]
    kinds, numbers = [kind for kind, _ in chain], [column(values) for _, values in chain]
    how = settings(4, (1.0, 0.0))
    results, drawn = draw(process, [scores], [], [], [], [], wrong, [], kinds, numbers, *how)
    same = Sum([scores], [[0, 1, 2, 3]], [[1.0] * 4])
    tokens, expected = plain(same, chain, (1.0, 0.0))
    assert results[0].tolist() == tokens and torch.equal(drawn, expected)
    assert results[1].tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize("chain", ["of a request"])
def test_neighbours_change_nothing(chain, process) -> None:
    given, stages = terms(3000, FP32, BF16), CHAINS[chain]
    together, scores = draw(process, *arguments(given, stages, (1.0,)))
    logits, *per_row = arguments(given, stages, (1.0,))
    for row in range(4):
        at = slice(row, row + 1)
        alone = [
            [each if isinstance(each, int) else each[at] for each in one]
            if isinstance(one, list) else one[at]
            for one in per_row
        ]  # fmt: skip
        results, score = draw(process, logits, *alone)
        assert torch.equal(results, together[:, row : row + 1]) and score == scores[row]


@pytest.mark.parametrize("chain", [(), CHAINS["all"]])
def test_the_cost_is_what_the_kernels_do(chain, process) -> None:
    given = terms(4096, BF16, FP32)
    passed = arguments(given, chain, (1.0,))
    counts = process.submit(interpreted.count, "kernels.drawing.draw_sum", *passed).result()
    said = cost(4, 4096, [2, 4], [kind for kind, _ in chain])
    assert (counts.blocks, counts.launches) == (said.blocks, said.launches)
    assert 0.75 * said.read <= counts.read <= said.read * 1.1
    assert 0.75 * said.written <= counts.written <= said.written * 1.25


def test_the_doctor_finds_them_sound(process) -> None:
    finding = process.submit(interpreted.examined, 3500).result()
    assert (finding.state, finding.data) == ("ok", {"below": 0.0})


# the kernels, compiled


def compiled(kernel: Any, capability: int, kinds: dict[str, Any], **constants: Any) -> Any:
    """A kernel as a GPU of a capability gets it."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    names = kernel.arg_names
    kinds = {**kinds, **dict.fromkeys(constants, "constexpr")}
    source = ASTSource(
        fn=kernel,
        signature={name: kinds.get(name, "i32") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    return compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_are_compiled_for_gpus(capability, tmp_path, monkeypatch) -> None:
    pytest.importorskip("triton", reason=TRITON)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from descant.models.kernels.drawing import stages_kernel, sum_kernel

    floats = ("work", "values", "temperatures", "scores")
    longs = ("bests", "steps", "results", "masses")
    whole = ("highs", "counts", "ids", "sizes", "keys")
    kinds: dict[str, Any] = dict.fromkeys(floats, "*fp32") | dict.fromkeys(longs, "*i64")
    kinds |= dict.fromkeys(whole, "*i32")
    two = ("i32", "i32")
    kinds |= {"logits": ("*bf16", "*fp32"), "rows": ("*i64",) * 2, "weights": ("*fp32",) * 2}
    kinds |= dict.fromkeys(("row_strides", "weight_strides"), two)
    kinds |= dict.fromkeys(("shifts", "shift_strides", "divisors", "divisor_strides"), ())
    kinds |= {"numbers": ("*fp32",) * 3, "number_strides": (*two, "i32")}
    kinds |= {"wrongs": (), "presents": ("*i1",) * 2, "finished": ("*i1",)}
    shapes = {"PARTS": 64, "BINS": 64}
    made = [
        compiled(sum_kernel.partial_sums, capability, kinds, SUMS=True, STAGED=False, PART=1024),
        compiled(sum_kernel.partial_sums, capability, kinds, SUMS=True, STAGED=True, PART=2048),
        compiled(sum_kernel.merge_sums, capability, kinds, SUMS=True, PARTS=128),
        compiled(stages_kernel.partial_counts, capability, kinds, **shapes, BITS=44, PART=2048),
        compiled(stages_kernel.list_best, capability, kinds, **shapes, LIST=LIST, PART=2048),
        compiled(
            stages_kernel.finish, capability, kinds, **shapes, KINDS=TOP_K | TOP_P << 2, SUMS=True,
            BITS=44, ID_BITS=17, LIST=LIST, BLOCK=LIST,
        ),
    ]  # fmt: skip
    for each in made:
        assert f".target sm_{capability}" in each.asm["ptx"]
        assert "ld.local" not in each.asm["ptx"]  # nothing is spilled
    assert "lg2.approx" not in made[0].asm["ptx"]  # which is wrong near 1, where the noise is large
