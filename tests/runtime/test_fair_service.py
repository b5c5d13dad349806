"""A service whose clients make room for each other: nobody's tokens depend on it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from test_service import FORMULAS, asked, offline, run, served, specs

from descant.runtime import admission
from descant.runtime.loops.search import scheduler

SEARCHES = [
    *(text for text in FORMULAS if "n=3" in text or "blockwise" in text or "reject" in text),
    "base + a*arm | rerank(rm, k=3, w=1, ahead=2)", "base | best_of(rm + arm, n=2)",
]  # fmt: skip
PLAIN = FORMULAS[:4]
__all__ = ["specs"]


@pytest.mark.pages(ahead=1)
@pytest.mark.parametrize("ahead", [0, 1])
def test_who_makes_room_draws_the_same_tokens(specs, monkeypatch, ahead) -> None:
    """Every step somebody has to wait, in the middle of any search, and goes on from there."""
    monkeypatch.setattr(admission, "QUANTUM", 1)
    monkeypatch.setattr(admission, "AHEAD", 1)
    went_on, resume = Counter[str](), scheduler.Suspended.resume
    formulas = [*SEARCHES, *PLAIN]

    def counted(self: Any, *args: Any) -> None:
        drawn = max(len(answer.tokens) for answer in self.answers)
        went_on[type(self.group).__name__] += drawn > 0
        resume(self, *args)

    monkeypatch.setattr(scheduler.Suspended, "resume", counted)
    requests = asked(4 * len(formulas), len(formulas))
    requests = [(i % len(formulas), *each[1:]) for i, each in enumerate(requests)]
    expected = offline(specs, formulas, requests)
    service = served(specs)
    decoders = [service.decoder(text, {"a": 0.5}) for text in formulas]
    for decoder in decoders:
        if not decoder.session.bound.plan.search:
            decoder.session.engine.ahead = ahead
    held = [
        service.submit(decoders[which], prompt, client=number % 5, call=number, **settings)[0]
        for number, (which, prompt, settings) in enumerate(requests)
    ]
    found = {id(answer.request): answer.tokens for answer in run(service)}
    assert [found[id(request)] for request in held] == expected
    assert not service.failures and service.preempted > 20 and service.running == 0
    assert went_on.keys() == {"BestOf", "Particles", "Blocks", "Segments", "Candidates"}
    assert all(went_on.values())


def test_a_long_search_lets_others_in_and_comes_to_its_end(specs) -> None:
    service = served(specs)
    search = service.decoder("base | reject(rm, target=9, longest=1, retries=4, samples=4)")
    plain = service.decoder("base")
    settings = {"max_new_tokens": 24, "seed": 1, "eos_token_id": []}
    expected = search.alone().generate([3, 4], **settings)[0].token_ids
    [long] = service.submit(search, [3, 4], client="searches", **settings)
    for _ in range(4):
        service.step()
    assert service.running == 4
    [short] = service.submit(plain, [5], client="asks", **{**settings, "max_new_tokens": 4})
    steps, ended = 0, []
    while not ended:
        steps, ended = steps + 1, [each for each in service.step() if each.finish_reason]
    assert ended[0].request is short and steps <= admission.QUANTUM + 4
    assert [answer.tokens for answer in run(service)] == [expected] and long is not short
    assert service.preempted >= 1


def test_who_is_let_go_while_its_search_waits_leaves_nothing(specs, monkeypatch) -> None:
    monkeypatch.setattr(admission, "QUANTUM", 1)
    service = served(specs)
    search, plain = service.decoder("base | best_of(rm, n=4)"), service.decoder("base")
    [long] = service.submit(search, [3, 4], client=0, max_new_tokens=40, eos_token_id=[])
    for _ in range(3):
        service.step()
    service.submit(plain, [5], client=1, max_new_tokens=4, eos_token_id=[])
    service.step()
    assert search.scheduler._suspended and service.waiting == 1
    service.cancel(long)
    assert len(run(service)) == 1
    assert not search.scheduler._suspended and not search.scheduler._turns
    assert not long.states and not search.scheduler._taken
