"""Too few pages for all: the youngest wait, are read again, and draw what they would have drawn."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from checkpoints import LORA, MODELS
from transformers import SynthIDTextWatermarkLogitsProcessor

import descant
from descant.models import make_spec
from descant.models.errors import OutOfPages
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service
from descant.runtime.engine import engine as engines
from descant.runtime.loops import scheduler as schedulers
from descant.runtime.loops.external import ExternalRows

FORMULAS = [
    "base + a*arm",
    "base + a*lora4 - 0.3*base@none | repetition_penalty(1.2) | frequency_penalty(0.6)",
    "where(entropy(base) > 4, base + a*arm, base)",
    "base | best_of(rm, n=3)",
    "base | best_of(rm, n=3, keep=0.5, every=4, beta=2)",
    'base | particles(3*rm, n=3, until="e")',
    "base + a*lora4 | blockwise(arm, beams=2, samples=1, length=3)",
    "arm | reject(rm, target=0.5, entropy=3, longest=5, retries=3)",
    "base | rerank(rm, k=4, w=1.5)",
    'base + a*arm | regex("([^x]|[^x]x)*") | top_k(9)',
]
SEARCH = re.compile("best_of|particles|blockwise|reject")  # no step of which is launched ahead


@pytest.fixture(scope="module")
def specs(zoo) -> dict[str, Any]:
    named = {name: zoo.path(name) for name in MODELS} | {name: zoo.adapter(name) for name in LORA}
    return {name: make_spec(name, said) for name, said in named.items()}


@pytest.fixture
def pool(monkeypatch) -> Callable[[int], None]:
    """Makes pools of so many tokens of all requests, in pages of 16."""
    monkeypatch.setattr(TransformersLane, "page_size", 16)

    def limit(tokens: int) -> None:
        monkeypatch.setattr(engines, "room", lambda *_: tokens)

    return limit


@pytest.fixture(autouse=True)
def preempted(monkeypatch) -> list[tuple[int, Any]]:
    """Whoever was preempted, each with its turn; always the youngest of those with slots."""
    found: list[tuple[int, Any]] = []
    original = schedulers.Scheduler.preempt

    def preempt(self: Any, request: Any) -> None:
        mine = self._turns[id(request)]
        assert mine == max(self._turns[id(each)] for each in [*self.batch.requests, request]
                           if id(each) in self._turns)  # fmt: skip
        found.append((mine, request))
        original(self, request)

    monkeypatch.setattr(schedulers.Scheduler, "preempt", preempt)
    return found


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(3, 300, (n,), generator=generator).tolist() for n in lengths]


def settings(seed: int, **more: Any) -> dict[str, Any]:
    return {
        "max_new_tokens": 30, "temperature": 0.8 * (seed % 3), "seed": seed, "eos_token_id": [],
        "params": {"a": 0.5}, **more,
    }  # fmt: skip


def finished(service: Service, most: int = 4000) -> dict[int, Any]:
    """Every answer that ended, by the id of its request."""
    ended = {}
    for _ in range(most):
        if not service.busy:
            return ended
        for answer in service.step():
            if answer.finish_reason:
                assert id(answer.request) not in ended
                ended[id(answer.request)] = answer
        assert not service.failures
    raise AssertionError("it does not end")


@pytest.mark.parametrize(
    ("formula", "ahead"),
    [(formula, 0) for formula in FORMULAS]
    + [(formula, 1) for formula in FORMULAS if not SEARCH.search(formula)],
)
def test_generate_draws_the_same(compiled, pool, preempted, formula, ahead) -> None:
    prompts = prompts_of(5, 40, 17, 3, 33, 16, 48, 1)
    cold = 0.5 if "particles" in formula else 0.0
    more = {"temperature": [cold, 1.0] * 4, "seed": [*range(8)], "max_new_tokens": 28,
            "eos_token_id": list(range(0, 300, 29)), "batch_size": 8}  # fmt: skip
    plenty = compiled(formula, params={"a": 0.5})
    expected = [one.token_ids for one in plenty.generate(prompts, **more)]
    assert plenty.session.engine.stats.preempted == 0
    pool(176 if "n=3" in formula else 144)
    decoder = compiled(formula, params={"a": 0.5})
    if SEARCH.search(formula):
        assert decoder.session.bound.plan.search
    else:
        decoder.session.engine.ahead = ahead
    assert [one.token_ids for one in decoder.generate(prompts, **more)] == expected
    assert len(preempted) >= decoder.session.engine.stats.preempted > 0


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("search", ["", " | best_of(rm, n=2)"])
def test_the_state_of_a_processor_waits_with_its_row(
    compiled, pool, preempted, search, ahead
) -> None:
    watermark = SynthIDTextWatermarkLogitsProcessor(
        ngram_len=3, keys=[654, 400, 836], sampling_table_size=2**10, sampling_table_seed=0,
        context_history_size=64, device=torch.device("cpu"),
    )  # fmt: skip
    descant.logits_processor("watermark", watermark)
    prompts, more = prompts_of(5, 40, 17, 3), {"temperature": 1.0, "seed": [*range(4)]}
    more |= {"max_new_tokens": 28, "eos_token_id": list(range(0, 300, 29)), "batch_size": 4}
    expected = [
        one.token_ids for one in compiled("base | watermark()" + search).generate(prompts, **more)
    ]
    pool(144 if search else 112)
    decoder = compiled("base | watermark()" + search)
    if not search:
        decoder.session.engine.ahead = ahead
    assert [one.token_ids for one in decoder.generate(prompts, **more)] == expected
    assert preempted


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("search", ["", " | best_of(rm, n=2)"])
def test_the_state_of_an_operator_waits_with_its_row(
    compiled, pool, preempted, own_words, search, ahead
) -> None:
    formula = "swaying(base, arm) + 0.5*contrast(base, arm)" + search
    prompts, more = prompts_of(5, 40, 17, 3), {"temperature": 1.0, "seed": [*range(4)]}
    more |= {"max_new_tokens": 28, "eos_token_id": list(range(0, 300, 29)), "batch_size": 4}
    expected = [one.token_ids for one in compiled(formula).generate(prompts, **more)]
    pool(144 if search else 112)
    decoder = compiled(formula)
    if not search:
        decoder.session.engine.ahead = ahead
    assert [one.token_ids for one in decoder.generate(prompts, **more)] == expected
    assert preempted


def test_what_waits_again_is_found_in_the_cache(compiled, pool, preempted) -> None:
    """Its prompt is not read a second time, as long as nobody needed its pages."""
    prompts = prompts_of(60, 60)
    decoder = compiled("base")
    pool(224)  # 14 pages, of which they take 2 * 8 at the end
    read = []
    model = next(iter(decoder.session.bound.lanes)).model
    hook = model.base_model.register_forward_pre_hook(
        lambda *given: read.append(given[-1]["input_ids"].numel()), with_kwargs=True
    )
    found = decoder.generate(prompts, max_new_tokens=60, eos_token_id=[])
    hook.remove()
    stats = decoder.session.engine.stats
    assert len(preempted) == 1 and [one.cached_tokens for one in found] == [0, 0]
    assert stats.prompt_tokens == 180 and stats.cached_tokens > 0
    again = stats.cached_tokens
    assert sum(read) < 120 + 120 + 120 - again


def mixed(specs: dict[str, Any], slots: int = 8) -> tuple[Service, list[Any]]:
    service = Service(specs, slots=slots, max_model_len=128)
    return service, [service.decoder(formula, {"a": 0.5}) for formula in FORMULAS]


def asked(count: int, seed: int) -> list[tuple[int, list[int], dict[str, Any]]]:
    draw, requests = random.Random(seed), list[tuple[int, list[int], dict[str, Any]]]()
    for number in range(count):
        which = draw.randrange(len(FORMULAS))
        prompt = [draw.randrange(3, 300) for _ in range(draw.choice(LONG))]
        more = settings(number, max_new_tokens=draw.randrange(1, 24))
        if "particles" in FORMULAS[which]:  # which are drawn
            more["temperature"] = more["temperature"] or 0.4
        requests.append((which, prompt, more))
    return requests


LONG = [1, 3, 15, 16, 17, 33, 48]


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_service_draws_the_same(specs, pool, preempted, ahead) -> None:
    """Sums, searches and conditions beside each other, and whoever comes meanwhile."""
    requests = asked(24, seed=ahead)
    alone = [descant.compile(text, specs, params={"a": 0.5}, device="cpu") for text in FORMULAS]
    expected = [alone[which].generate(p, **more)[0].token_ids for which, p, more in requests]
    assert not preempted
    pool(224)
    service, decoders = mixed(specs)
    for decoder in decoders:
        if not decoder.session.bound.plan.search:
            decoder.session.engine.ahead = ahead
    held = [service.submit(decoders[which], p, **more)[0] for which, p, more in requests]
    ended = finished(service)
    assert [ended[id(request)].tokens for request in held] == expected
    assert service.preempted > 0 and not service.running


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_events_holds_it_up(specs, pool, preempted, seed) -> None:
    """Forty requests of any length, some of which are let go wherever they are."""
    pool(224)
    draw = random.Random(seed)
    service, decoders = mixed(specs, slots=12)
    for decoder in decoders:
        if not decoder.session.bound.plan.search:
            decoder.session.engine.ahead = seed % 2
    waiting, held, gone = asked(40, seed=100 + seed), [], set()
    ended: dict[int, Any] = {}
    for _ in range(3000):
        if not (waiting or service.busy):
            break
        for _ in range(draw.randrange(6)):
            if waiting:
                which, prompt, more = waiting.pop()
                held += service.submit(decoders[which], prompt, **more)
        if held and draw.random() < 0.1:
            leaving = draw.choice(held)
            service.cancel(leaving)
            gone.add(id(leaving))
        for answer in service.step():
            assert id(answer.request) not in ended
            if answer.finish_reason:
                ended[id(answer.request)] = answer
        assert not service.failures and service.running <= service.slots
    assert not waiting and not service.busy and service.running == service.waiting == 0
    assert {id(request) for request in held} == ended.keys() | gone
    assert service.preempted > 3
    for decoder in decoders:
        for lane in decoder.session.bound.lanes:
            if lane.all_pages is not None:
                assert lane.free_pages == lane.all_pages and not lane.rows.count
        assert not any((decoder.scheduler._preempted, decoder.scheduler._turns))


def waiting_again(service: Service, preempted: list[tuple[int, Any]]) -> Any:
    """The first request that loses its slot, at once after that."""
    for _ in range(200):
        if preempted:
            return preempted[0][1]
        service.step()
    raise AssertionError("nobody had to wait")


def two(specs: dict[str, Any], ahead: int, **more: Any) -> tuple[Service, Any, list[Any]]:
    """A service of one formula, and two requests that do not fit beside each other for long."""
    service = Service(specs, slots=4, max_model_len=80)  # 8 pages, as the pools are
    decoder = service.decoder("base + a*arm", {"a": 0.5})
    decoder.session.engine.ahead = ahead
    requests = [service.submit(decoder, prompt, **{**settings(number), **more})[0]
                for number, prompt in enumerate(prompts_of(40, 40))]  # fmt: skip
    return service, decoder, requests


@pytest.mark.parametrize("ahead", [0, 1])
def test_who_is_let_go_while_it_waits_again(specs, pool, preempted, ahead) -> None:
    pool(128)
    service, decoder, [first, second] = two(specs, ahead)
    expected = decoder.alone().generate(first.prompt, **settings(0))[0].token_ids
    assert waiting_again(service, preempted) is second
    assert service.waiting == 1 and service.running == 1
    service.cancel(second)
    assert service.waiting == 0
    ended = finished(service)
    assert list(ended) == [id(first)] and ended[id(first)].tokens == expected
    assert not decoder.scheduler._preempted


def test_who_ends_by_a_token_that_was_on_its_way(specs, pool, preempted) -> None:
    """It waits, the token that it drew before comes, and it needs no slot any more."""
    pool(128)
    service, decoder, [_, second] = two(specs, 1)
    full = decoder.alone().generate(second.prompt, **settings(1))[0].token_ids
    waiting_again(service, preempted)
    drawn = len(decoder.scheduler._preempted[id(second)].tokens)  # with the one on its way
    for end in (drawn, drawn + 1):
        preempted.clear()
        assert full[end - 1] not in full[: end - 1]
        service, decoder, [first, second] = two(specs, 1, eos_token_id=[full[end - 1]])
        ended: dict[int, Any] = {}
        while not preempted:
            ended |= {id(each.request): each for each in service.step() if each.finish_reason}
        assert list(ended) == [id(second)] * (end == drawn)
        assert service.waiting == len(decoder.scheduler._preempted) == (end > drawn)
        ended |= finished(service)
        assert (ended[id(second)].tokens, ended[id(second)].finish_reason) == (full[:end], "eos")
        assert len(ended[id(first)].tokens) == 30


def test_prompts_that_are_being_read_wait_first(specs, pool, preempted, monkeypatch) -> None:
    import descant.models.lanes.prefill as lane_module
    import descant.runtime.shared_slots as slots_module

    for module in (lane_module, slots_module):
        monkeypatch.setattr(module, "CHUNK", 8)
    pool(144)
    service = Service(specs, slots=4, max_model_len=144)
    decoder = service.decoder("base + a*arm", {"a": 0.5})
    prompts = prompts_of(46, 47, 30)
    [first] = service.submit(decoder, prompts[0], **settings(0, max_new_tokens=60))
    service.step()
    [late, cancelled] = [
        service.submit(decoder, prompt, **settings(number, max_new_tokens=9))[0]
        for number, prompt in enumerate(prompts[1:], 1)
    ]
    expected = {
        id(request): decoder.alone().generate(request.prompt, **more)[0].token_ids
        for request, more in ((first, settings(0, max_new_tokens=60)),
                              (late, settings(1, max_new_tokens=9)))
    }  # fmt: skip
    service.step()
    assert decoder.scheduler.batch.arriving is not None
    service.cancel(cancelled)
    before = decoder.scheduler.batch.bound.lanes[0].free_pages
    decoder.scheduler.preempt(late)
    service._queue_preempted()
    waiting = [entry.item[1] for entry in service.admission.waiting.values()]
    assert waiting == [late] and service.preempted == 0
    assert decoder.scheduler.batch.bound.lanes[0].free_pages > before
    ended = finished(service)
    assert {key: answer.tokens for key, answer in ended.items()} == expected


def test_a_failing_step_while_some_wait_again(specs, pool, preempted) -> None:
    """They keep what they have drawn, and also who has not yet seen the last of it goes on."""
    pool(128)
    for ahead in (0, 1):
        preempted.clear()
        service, decoder, requests = two(specs, ahead)
        expected = [decoder.alone().generate(request.prompt, **settings(number))[0].token_ids
                    for number, request in enumerate(requests)]  # fmt: skip
        waiting_again(service, preempted)
        raised: list[int] = []

        def fail(module: Any, given: Any, raised: list[int] = raised) -> None:
            if not raised:
                raised.append(1)
                raise TypeError("by chance")

        model = next(iter(service._pool.weights.values()))
        hook = model.get_input_embeddings().register_forward_pre_hook(fail)
        updated = {id(each.request): each for each in service.step()}
        hook.remove()
        assert raised and len(service.failures) == 1
        assert all(each.error is None for each in updated.values())
        updated |= finished(service)
        assert [updated[id(request)].tokens for request in requests] == expected


def test_what_can_never_fit_is_refused_at_the_door(compiled, specs, pool) -> None:
    """A search that would not fit if it were alone; of one text there is always room."""
    pool(64)
    [prompt] = prompts_of(50)
    formula = "base | best_of(rm, n=3)"
    decoder = compiled(formula)
    read: list[int] = []
    models = [lane.model for lane in decoder.session.bound.lanes]
    hooks = [model.register_forward_pre_hook(lambda *_: read.append(1)) for model in models]
    said = "the request takes 9 pages of base's cache, and there are {}\nshorten the prompt"
    with pytest.raises(OutOfPages, match=said.format(6)) as refused:
        decoder.generate([[5, 6], prompt], max_new_tokens=30)
    assert "descant docs how-do-i#memory" in str(refused.value) and not read
    for hook in hooks:
        hook.remove()
    service = Service(specs, slots=4, max_model_len=80)
    served = service.decoder(formula)
    with pytest.raises(OutOfPages, match=said.format(8)):
        service.submit(served, prompt, max_new_tokens=29)  # an ended row draws once more
    assert not service.busy
    [fits] = service.submit(served, [5, 6, 7], max_new_tokens=9, eos_token_id=[])
    assert len(finished(service)[id(fits)].tokens) == 9


def test_streaming_says_nothing_twice(specs, pool, preempted) -> None:
    """The tokens of an answer come one after the other, also of one that had to wait again."""
    pool(128)
    service, _, requests = two(specs, 0)
    said: dict[int, list[int]] = {id(request): [0] for request in requests}
    while service.busy:
        for answer in service.step():
            said[id(answer.request)].append(len(answer.tokens))
    assert preempted
    for counts in said.values():
        assert counts == [*range(31)] and all(b == a + 1 for a, b in pairwise(counts))


def test_a_formula_that_needs_nothing_of_a_full_pool_goes_on(specs, pool, preempted) -> None:
    """Only who has pages of it can give some."""
    pool(128)
    service = Service(specs, slots=4, max_model_len=80)
    full, other = service.decoder("base"), service.decoder("gpt2")
    prompts = prompts_of(40, 40, 5)
    held = [service.submit(full, prompt, **settings(number, params=None))[0]
            for number, prompt in enumerate(prompts[:2])]  # fmt: skip
    service.step()
    [youngest] = service.submit(other, prompts[2], **settings(2, params=None, max_new_tokens=40))
    finished(service)
    assert [request for _, request in preempted] == held[1:] and youngest not in held


def spread(decoder: Any, prompts: list[list[int]], completions: list[list[int]]) -> Any:
    return decoder.loglikelihood(prompts, completions, batch_size=8)


def test_other_loops_read_as_many_texts_as_there_are_pages_for(compiled, pool) -> None:
    prompts, completions = prompts_of(*[20, 9, 33, 3] * 3), prompts_of(*[12, 20, 3, 30] * 3)
    expected = spread(compiled("base + 0.5*arm"), prompts, completions)
    pool(64)
    tight = compiled("base + 0.5*arm")
    for found, wanted in zip(spread(tight, prompts, completions), expected, strict=True):
        torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-4, rtol=1e-4)
        assert found.greedy == wanted.greedy
    lanes = [lane for lane in tight.session.bound.lanes if lane.all_pages is not None]
    assert len(lanes) == 2 and all(lane.all_pages == 4 for lane in lanes)
    assert tight.inspect(prompts[1], max_new_tokens=4, eos_token_id=[]).completion.token_ids
    assert tight.scores(prompts[1], completions[0]).shape == (13, 300)


def test_rows_that_somebody_else_picks_tokens_of_get_room_or_are_refused(compiled, pool) -> None:
    """They cannot wait; but texts may become longer than was said, in other memory then."""
    pool(64)
    decoder = compiled("base + 0.5*arm")
    requests = [decoder.session.builder.requests(prompt, max_new_tokens=2)[0]
                for prompt in prompts_of(30, 30, 30)]  # fmt: skip
    with pytest.raises(OutOfPages, match="takes 2 pages more than are free, of 4\ndecode fewer"):
        ExternalRows(decoder.session.bound, requests)
    rows, other = ExternalRows(decoder.session.bound, requests[:2]), compiled("base + 0.5*arm")
    answers = prompts_of(70, 50)
    for length in (1, 20, 50, 70):
        now = [answer[:length] for answer in answers]
        rows.advance(now)
        scores = rows.scores()
        for row, answer in enumerate(now):
            expected = other.scores(requests[row].prompt, answer)[-1]
            torch.testing.assert_close(scores[row], expected, atol=1e-4, rtol=1e-4)
