"""``descant doctor --gpu``: what only a GPU can show, checked, as a table to paste into an issue.

Without a GPU it says what is not checked, and checks what a CPU can.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from ..show.terminal import Screen, visible
from .findings import BROKEN, MISSING, NOTE, OK, Finding, guarded

NAMES = {OK: "pass", NOTE: "note", MISSING: "not checked", BROKEN: "FAIL"}
WIDE = 160  # characters of a message, at most: the table is a line per check
Check = Callable[[], Iterator[Finding]]


def examined() -> list[Finding]:
    """Every finding; whatever fails is one, and the other checks still run."""
    start = time.perf_counter()
    findings = guarded("versions", versions, BROKEN)
    for name, check in checks():
        for finding in guarded(name, check, BROKEN):
            if finding not in findings:  # what holds of several formulas is said once
                findings.append(finding)
    return [*findings, Finding("time", OK, f"{time.perf_counter() - start:.0f} s")]


def checks() -> list[tuple[str, Check]]:
    """Name and check of what can be checked here."""
    from . import kernels, layers, machine, steps

    found: list[tuple[str, Check]] = [
        ("torch build", machine.torch_build),
        ("devices", machine.devices),
        ("the reference, against transformers", kernels.reference),
    ]
    if not on_gpu():
        found += [("GPU", no_gpu), ("kernels compiled ahead", kernels.ahead_of_time)]
        return [*found, ("eager, against transformers", partial(steps.against_transformers, "cpu"))]
    for dtype, names in kernels.OF_DTYPE.items():
        for name in names:
            found.append((f"live_attention {dtype}, {name}", partial(kernels.live, dtype, name)))
    for dtype in layers.DTYPES:
        for name in layers.SHAPES:
            found.append((f"layers {dtype}, {name}", partial(layers.layers, dtype, name)))
    found.append(("the same bits in any batch", kernels.bits))
    for dtype in ("bfloat16", "float16"):
        for name in kernels.CHUNKS:
            found.append((f"varlen_chunk {dtype}, {name}", partial(kernels.chunk, dtype, name)))
    for size in kernels.VOCABULARIES:
        found.append((f"draws of {size} tokens", partial(kernels.sampled_tokens, size)))
        found.append((f"sums of {size} tokens", partial(kernels.drawn_sums, size)))
    found.append(("eager, against transformers", partial(steps.against_transformers, "cuda")))
    return found + [
        (f"{name}: recorded, against eager", partial(steps.recorded, name)) for name in steps.TRIALS
    ]


def on_gpu() -> bool:
    """Whether torch sees a CUDA device; not where it cannot be imported."""
    try:
        import torch
    except Exception:  # which a check reports
        return False
    return torch.cuda.is_available()


def no_gpu() -> Iterator[Finding]:
    """What is not checked without one."""
    message = "torch sees no CUDA device: kernels on it, and recorded steps, are not checked"
    yield Finding("GPU", MISSING, message)


def versions() -> Iterator[Finding]:
    """Of Python and of the packages that a step goes through."""
    found: dict[str, Any] = {"Python": platform.python_version()}
    for name in ("descant", "torch", "triton", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    words = (f"{name} {number or 'is not installed'}" for name, number in found.items())
    yield Finding("versions", OK, ", ".join(words), data=found)


def markdown(findings: Sequence[Finding]) -> str:
    """The findings as a table to paste, a line each, and how many failed."""
    columns = [Column(name, no_wrap=True) for name in ("check", "result", "what")]
    table = Table(*columns, box=box.MARKDOWN)
    for finding in findings:
        lines = [finding.message, *([f"→ {finding.cure}"] if finding.cure else [])]
        text = visible(" ".join(" ".join(lines).split())).replace("|", r"\|")
        shown = text if len(text) <= WIDE else text[: WIDE - 1] + "…"
        table.add_row(Text(finding.name), Text(NAMES[finding.state]), Text(shown))
    screen = Screen(width=3 * WIDE, file=StringIO(), force_terminal=False)
    screen.print(table)
    lines = [line.rstrip() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    failed = sum(finding.state == BROKEN for finding in findings)
    ending = f"{failed} of {len(findings)} failed" if failed else "nothing failed"
    return "\n".join([*filter(None, lines), "", ending])
