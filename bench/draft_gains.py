"""What drafting promises on a large GPU, computed and not measured.

    python -m bench.draft_gains      prints the tables, and writes bench/results/draft-gains.md

A 70B base with 7B arms on one H200: 4.8 TB/s, 989e12 operations per second in bfloat16, 141 GB. The
70B model is in fp8, for it would need two such GPUs in bfloat16; the others are in bfloat16. A
forward takes as long as it takes to read its weights, or to compute its positions, whichever is
longer. Caches, launches, sampling and the host are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from descant.runtime.explain.draft_gains import ACCEPTANCES, DraftGain
from descant.runtime.loops.speculation.lane_costs import LaneCost, round_costs

RESULTS = Path(__file__).parent / "results" / "draft-gains.md"
BANDWIDTH, OPERATIONS, MEMORY = 4.8e12, 989e12, 141e9  # of an H200
ROWS = (1, 32)
BILLION = 1e9
SIZES = {  # parameters, and bytes of each
    "strong": (70 * BILLION, 1),
    "small": (1 * BILLION, 2),
    **dict.fromkeys(("base", "arm", "help", "harm", "weak", "weak_tuned"), (7 * BILLION, 2)),
}

HEAD = """\
# Predicted gains of drafting on one H200

**Computed from bytes and operations, not measured**, by `python -m bench.draft_gains`.
`strong` has 70B parameters in fp8 (in bfloat16 it needs two H200), `small` 1B and every other model
7B in bfloat16; 4.8 TB/s and 989e12 operations per second, the fp8 weights' too. Caches, launches,
sampling and the host are left out: what is measured will be less.

A cell is tokens per time over those without a draft, and in parentheses the length of the drafts at
which it is highest, of at most 8; `none` where no length pays. The acceptance is the probability
that a drafted token is kept where those before it are. `ms per token` is a step without drafts, in
which each row gets one token."""


@dataclass(frozen=True)
class Case:
    """A formula, the models that its lanes are of, and what drafts."""

    formula: str
    lanes: tuple[str, ...]
    drafts: tuple[str, ...]


CASES = (
    Case("strong + a*arm", ("strong", "arm"), ("arm", "prompt")),
    Case("strong + h*help + s*harm", ("strong", "help", "harm"), ("help", "prompt")),
    Case(
        "strong + b*(weak_tuned - weak)", ("strong", "weak_tuned", "weak"), ("weak_tuned", "prompt")
    ),
    Case("base + h*help + s*harm", ("base", "help", "harm"), ("base", "small", "prompt")),
)


def lane(model: str) -> LaneCost:
    """A model's bytes, and two operations per parameter and position."""
    parameters, size = SIZES[model]
    return LaneCost(parameters * size, 2 * parameters)


def gain(case: Case, draft: str, rows: int) -> DraftGain:
    """The gain of one draft: a model of the formula, one beside it, or ``prompt``."""
    drafting = {case.lanes.index(draft)} if draft in case.lanes else set()
    others = [lane(draft)] if draft in SIZES and not drafting else []
    lanes = [lane(model) for model in case.lanes]
    return DraftGain(draft, round_costs(lanes, drafting, others, OPERATIONS / BANDWIDTH, rows))


def table(rows: int) -> Iterator[str]:
    """The lines of one table."""
    heads = [f"acceptance {rate}" for rate in ACCEPTANCES]
    yield f"| formula | ms per token | drafted by | {' | '.join(heads)} |"
    yield f"|---|--:|---|{'--:|' * len(heads)}"
    for case in CASES:
        for draft in case.drafts:
            gains = gain(case, draft, rows)
            lengths = [gains.best_length(rate) for rate in ACCEPTANCES]
            cells = [
                f"{gains.speedup(rate, length):.2f} ({length})" if length else "none"
                for rate, length in zip(ACCEPTANCES, lengths, strict=True)
            ]
            step = gains.costs.step / BANDWIDTH * 1e3
            yield f"| `{case.formula}` | {step:.1f} | `{draft}` | {' | '.join(cells)} |"


def report() -> str:
    """The page."""
    held = max(sum(lane(model).weight_bytes for model in case.lanes) for case in CASES)
    assert held < MEMORY
    lines = [HEAD]
    for rows in ROWS:
        lines += ["", f"## {rows} row{'s' * (rows > 1)}", "", *table(rows)]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    page = report()
    RESULTS.write_text(page, encoding="utf-8")
    print(page)
