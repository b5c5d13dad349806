"""A request leaves and another joins between two steps: what that costs beside them.

Whatever of a batch, its lanes' rows and their pages the host has changed goes in with the next
step; what all lanes read of the prompts goes in before. Nothing in a cache is zeroed or moved.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Any

import pytest

from descant.models import make_spec
from descant.models.cache.blocks.paged import PagedBlocks
from descant.runtime.batch import batch as batches
from descant.runtime.service import Service
from rehearsal import Launch, Rehearsal, Step
from rehearsal.formulas import FORMULAS, SEARCHES, models
from rehearsal.patches import page_bytes

COPIES = 2  # to the device: what is read of the prompts, and all that has changed
HANDED_OUT = 2  # a launch for each
MOVED = 2  # launches, where only the device knows a text's scores or tokens
KNOWN = {  # launches beside the prefill and the step
    "one model": HANDED_OUT,
    "LoRA rows": HANDED_OUT,
    "proxy": HANDED_OUT,  # arms that are models of their own
    "rerank": HANDED_OUT,
    "rerank, two rewards": HANDED_OUT,
    "penalty": HANDED_OUT + MOVED,
    "blockwise, scores": HANDED_OUT + MOVED + 6,  # a prompt's last page per lane; arm minus base
    "align": HANDED_OUT + 1,  # the tokens that a row's models cannot read
}
LEAVES = 6  # tokens of the requests that go


@cache
def steps_of(name: str, change: int = 1) -> tuple[list[Step], int]:
    """A step after which nothing changes, the next, after which rows leave and others join, and
    one; and the bytes of the smallest page."""
    with Rehearsal() as gpu:
        formula = {**FORMULAS, **SEARCHES}[name]
        decoder = gpu.compile(formula, models(gpu), capture=True, enable_prefix_caching=False)
        each = 4 if name in SEARCHES else 1
        for _ in range(2):  # so that all of it has been recorded
            tokens = [LEAVES] * change + [12] * 2 * change
            lengths = [60] * change + [50] * change + [40] * change
            slots = 2 * change * each
            steps = gpu.run(decoder, lengths, tokens, slots=slots, temperature=0.7, distinct=True)
        return steps[LEAVES - 2 : LEAVES + 1], page_bytes(decoder)


def launches(step: Step) -> Counter[Launch]:
    """Without those that read prompts."""
    return Counter(launch for launch in step.launches if not launch.prompt)


def more(usual: Step, leaving: Step) -> list[Launch]:
    """What is launched beside a step until the next one begins."""
    return [*(launches(leaving) - launches(usual)).elements()]


@pytest.mark.parametrize("name", KNOWN)
def test_copies_go_in_together_and_nothing_is_waited_for(name) -> None:
    steps, _ = steps_of(name)
    assert [step.mode for step in steps] == ["replayed"] * 3
    assert [len(step.h2d) for step in steps] == [0, COPIES, 0]
    waits = [len(step.waits) for step in steps]
    assert waits == [0, name in SEARCHES, 0]  # for the values of the texts that have ended


@pytest.mark.parametrize(("name", "most"), KNOWN.items())
def test_launches_beside_prefill_and_step(name, most) -> None:
    (usual, leaving, joined), _ = steps_of(name)
    assert len(launches(joined)) == len(launches(usual))
    found = more(usual, leaving)
    assert len(found) == most <= 12, [(launch.place, launch.name) for launch in found]
    assert sum(launch.place.startswith("descant.models.upload:") for launch in found) == HANDED_OUT


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in SEARCHES])
def test_no_page_is_moved_or_zeroed(name) -> None:
    (usual, leaving, _), page = steps_of(name)
    assert sum(launch.written for launch in more(usual, leaving)) < page / 2


@pytest.mark.parametrize("name", ["one model", "rerank, two rewards", "penalty"])
def test_eight_that_come_and_go_take_as_many(name) -> None:
    (usual, leaving, joined), _ = steps_of(name, 8)
    assert [len(step.h2d) for step in (usual, leaving, joined)] == [0, COPIES, 0]
    assert len(more(usual, leaving)) == KNOWN[name] and not leaving.waits
    assert len(launches(joined)) == len(launches(usual))


def test_formulas_of_a_service_change_by_one_copy() -> None:
    """Two of them at once, whose lanes are shared: one more each, for what is read of prompts."""
    with Rehearsal() as gpu:
        specs = {name: make_spec(name, said) for name, said in models(gpu).items()}
        service = Service(specs, slots=4, max_model_len=256, device="cuda")
        decoders = [service.decoder(formula) for formula in ("m + 0.5*x", "m + 0.5*a | top_k(20)")]
        service.warm_up()

        def submitted(first: int, tokens: int) -> None:
            for number, decoder in enumerate(decoders, first):
                prompt = [number + 5] + [3] * 30
                service.submit(decoder, prompt, max_new_tokens=tokens, eos_token_id=[])

        submitted(0, 90)
        submitted(2, 8)
        for _ in range(30):
            service.step()
            if service.running == 2:
                break
        assert service.running == 2 and not service.failures
        submitted(4, 40)
        before = len(gpu.accounts)
        while service.running < 4:
            service.step()
        for _ in range(3):
            service.step()
        steps = gpu.accounts[before - 1 : -1]
        assert not service.failures and not any(step.waits for step in steps)
        copies = [len(step.h2d) for step in steps]
        assert copies == [len(decoders) + 1, *[0] * (len(copies) - 1)]
        assert len(more(steps[-1], steps[0])) <= 12


def test_a_copy_more_is_seen(monkeypatch) -> None:
    """By the rules above."""
    moved = batches.Batch.moved

    def faulty(self: Any) -> None:
        moved(self)
        self.temperatures[0] = batches.torch.tensor([1.0])[0].to(self.device)

    steps_of.cache_clear()
    monkeypatch.setattr(batches.Batch, "moved", faulty)
    assert len(steps_of("one model")[0][1].h2d) == COPIES + 1
    steps_of.cache_clear()


def test_a_page_that_is_moved_is_seen(monkeypatch) -> None:
    drop = PagedBlocks.drop

    def faulty(self: Any, row: int) -> None:
        self.cache.copy_pages([(1, 2)])
        drop(self, row)

    steps_of.cache_clear()
    monkeypatch.setattr(PagedBlocks, "drop", faulty)
    (usual, leaving, _), page = steps_of("one model")
    assert sum(launch.written for launch in more(usual, leaving)) >= page
    steps_of.cache_clear()
