"""How many tokens of prompts were in the prefix cache: from an answer to usage, and in metrics.

What an answer and the statistics of an engine say is set here, where it is not what is tested.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest
from openai.types import CompletionUsage
from servers import listening

from descant.inputs.runfile import read_run_file
from descant.models.cache_config import CacheConfig
from descant.models.errors import OutOfPages
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.engine import engine as engines
from descant.runtime.requests.answer import answer_to
from descant.serve.frontend.metrics import Metrics
from descant.serve.frontend.streams import Stream
from descant.serve.protocol.answers import ChatFormat, CompletionFormat
from descant.serve.protocol.errors import wrong_formula
from descant.serve.protocol.limits import Limits
from descant.serve.protocol.messages import (
    Command,
    Compile,
    Failed,
    RowUpdate,
    Start,
    StepUpdate,
    Submit,
)
from descant.serve.worker.jobs import Jobs
from descant.serve.worker.loop import DecodeLoop

BEST = "base | best_of(0.5*reward_help + 0.5*reward_harm, n=4)"
EGGS, IDS = "How do I boil eggs?", [1, 9, 8]
CHAT = [{"role": "user", "content": EGGS}]
ASKED: dict[str, Any] = {"model": "arms", "max_tokens": 5, "seed": 1}


def test_a_completion_says_it(offline) -> None:
    session = offline.decoder("arms").session
    [request] = session.builder.requests(EGGS, max_new_tokens=2)
    answer = answer_to(request, session.bound, 0.0)
    assert answer.prompt_tokens == max(map(len, request.prompts)) and answer.cached_tokens == 0
    answer.cached_tokens = 5
    other = answer.copied(request)  # of a search
    for one in (answer, other):
        one.add(9)
        one.add(8)
        assert one.completion(1.0).cached_tokens == 5
    [completion] = offline("arms", EGGS, max_new_tokens=2)
    assert 0 <= completion.cached_tokens <= answer.prompt_tokens


def test_the_longest_prompt_counts_and_of_such_the_first(offline) -> None:
    session = offline.decoder("base@none + 0.5*base + 0.1*arm_help").session
    [request] = session.builder.requests(EGGS, max_new_tokens=2)
    lengths = [*map(len, request.prompts)]
    assert len(set(lengths)) == 2 and lengths.count(max(lengths)) == 2
    assert request.longest_term == lengths.index(max(lengths))


def test_choices_of_particles_have_their_weights(run_file) -> None:
    settings = {"max_new_tokens": 4, "temperature": 1.0, "seed": 1, "num_return_sequences": 2}
    submit = Submit(1, [EGGS], settings, 9, True, 0.0)
    formula = "base | particles(reward_help, n=2, length=2)"
    jobs, sent = decoded(run_file, [submit], lambda jobs, answers: None, formula)
    updates = [update for step in sent for _, update in step.rows]
    expected = jobs.formulas[1].alone().generate(EGGS, **settings)
    for update, completion in zip(sorted(updates, key=lambda u: u.row), expected, strict=True):
        for shape in (CompletionFormat("m", False, False), ChatFormat("m", False, False)):
            choice = shape.choice(update)
            assert choice["log_weight"] == pytest.approx(completion.log_weight, abs=1e-4)
            assert choice["log_normalizer"] == pytest.approx(completion.log_normalizer, abs=1e-4)
    plain = RowUpdate(0, "a", [5], finish_reason="length")
    assert "log_weight" not in CompletionFormat("m", False, False).choice(plain)


def decoded(
    run: Any,
    submits: list[Submit],
    after: Callable[[Jobs, list[Any]], None],
    formula: str = "base",
    max_model_len: int = 256,
) -> tuple[Jobs, list[StepUpdate]]:
    """What a decode process sends; ``after`` gets its jobs and the answers after each step."""
    limits = Limits(slots=4, max_model_len=max_model_len)
    jobs = Jobs(Start(run, limits, [Compile(1, formula, {})]))
    step = jobs.service.step

    def stepped() -> list[Any]:
        answers = step()
        after(jobs, answers)
        return answers

    jobs.service.step = stepped  # type: ignore[method-assign]
    commands: SimpleQueue[tuple[int, Command]] = SimpleQueue()
    sent: list[StepUpdate] = []
    loop = DecodeLoop(jobs, commands, sent.append)
    for number, submit in enumerate(submits, 1):
        commands.put((number, submit))
    loop.run_once()
    while jobs.service.busy:
        loop.run_once()
    return jobs, sent


@pytest.mark.parametrize("stream", [True, False])
def test_one_row_of_each_prompt_says_it_at_its_end(run_file, stream) -> None:
    settings = {"max_new_tokens": 4, "eos_token_id": [1023], "temperature": 1.0}
    many = Submit(1, [EGGS, IDS], {**settings, "num_return_sequences": 2}, 9, stream, 0.0)
    one = Submit(1, [IDS], {**settings, "seed": 1}, 9, stream, 0.0)

    def found(jobs: Jobs, answers: list[Any]) -> None:
        for answer in answers:
            answer.cached_tokens = answer.prompt_tokens - 1

    _, sent = decoded(run_file, [many, one], found)
    updates: dict[tuple[int, int], list[RowUpdate]] = {}
    for number, update in (pair for step in sent for pair in step.rows):
        updates.setdefault((number, update.row), []).append(update)
    said = {row: [each.cached_tokens for each in mine] for row, mine in updates.items()}
    counted = {row: sum(each) for row, each in said.items()}
    eggs = counted[1, 0]
    assert eggs > 3 and counted == {(1, 0): eggs, (1, 1): 0, (1, 2): 2, (1, 3): 0, (2, 0): 2}
    assert all(not any(each[:-1]) for each in said.values())
    queued = dict(pair for step in sent for pair in step.replies)
    assert queued[1].prompt_tokens == eggs + 1 + len(IDS) and queued[2].prompt_tokens == len(IDS)


@pytest.mark.parametrize("caching", [True, False])
def test_what_is_looked_up_in_a_step_is_counted_in_it(run_file, caching) -> None:
    """Of all lanes, as the engines count it; nothing is looked up where caching is off."""
    run = run_file.model_copy(update={"enable_prefix_caching": caching})
    submit = Submit(1, [IDS], {"max_new_tokens": 3, "eos_token_id": [1023]}, 9, True, 0.0)
    steps: list[int] = []

    def read(jobs: Jobs, answers: list[Any]) -> None:
        steps.append(len(answers))
        if len(steps) < 3:
            jobs.formulas[1].session.engine.stats.add_prompts(50, 20)

    jobs, sent = decoded(run, [submit], read)
    stats = jobs.formulas[1].session.engine.stats
    queries = sum(step.counts.prefix_cache_queries for step in sent)
    hits = sum(step.counts.prefix_cache_hits for step in sent)
    assert stats.prompt_tokens >= 100 and stats.cached_tokens >= 40
    assert (queries, hits) == ((stats.prompt_tokens, stats.cached_tokens) if caching else (0, 0))
    assert jobs.service.cache == CacheConfig(caching)
    metrics = Metrics(2)
    for step in sent:
        metrics.count(step.counts)
    text = metrics.text().decode()
    assert f"descant_prefix_cache_queries_total {queries:.1f}\n" in text
    assert f"descant_prefix_cache_hits_total {hits:.1f}\n" in text


def test_who_waits_again_is_counted_and_who_never_fits_is_refused(run_file, monkeypatch) -> None:
    """In pages of 16, of which there are just enough for one text."""
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr(engines, "room", lambda *_: 1)
    settings = {"max_new_tokens": 60, "eos_token_id": [], "temperature": 1.0, "seed": 1}
    submits = [Submit(1, [[*range(5, 50 + n)]], settings, 9, True, 0.0) for n in (0, 9)]
    jobs, sent = decoded(run_file, submits, lambda jobs, answers: None, max_model_len=120)
    ends = [update.finish_reason for step in sent for _, update in step.rows]
    assert [reason for reason in ends if reason] == ["length"] * 2
    metrics = Metrics(2)
    for step in sent:
        metrics.count(step.counts)
    assert jobs.service.preempted > 0
    text = f"descant_num_preemptions_total {jobs.service.preempted:.1f}\n"
    assert text in metrics.text().decode()
    search = Submit(1, [[*range(5, 50)]], settings, 9, True, 0.0)
    _, sent = decoded(run_file, [search], lambda *_: None, formula=BEST, max_model_len=120)
    [(_, reply)] = [pair for step in sent for pair in step.replies]
    assert isinstance(reply, Failed) and isinstance(reply.error, OutOfPages)
    refused = wrong_formula(reply.error)
    assert refused.status == 400
    assert re.search("takes 22 pages of .*'s cache, and there are 8\nshorten", refused.message)


@pytest.mark.parametrize("kind", [CompletionFormat, ChatFormat])
def test_usage_adds_up_the_prompts(kind) -> None:
    async def answered() -> Stream:
        stream = Stream(60)
        stream.rows = stream.running = 3
        stream.prompt_tokens = 30
        for row, cached in enumerate((0, 7, 4)):
            stream.queue.put_nowait(RowUpdate(row, "a", [5]))
            last = RowUpdate(row, "b", [6], finish_reason="stop", cached_tokens=cached)
            stream.queue.put_nowait(last)
        assert len([update async for update in stream.updates()]) == 6
        stream.timer.cancel()
        return stream

    usage = asyncio.run(answered()).usage(6)
    for response in (kind("m", False, False).response([], usage),
                     kind("m", False, False).chunk([], {"usage": usage})):  # fmt: skip
        found = CompletionUsage.model_validate(response["usage"])
        assert found.prompt_tokens_details is not None
        assert found.prompt_tokens_details.cached_tokens == 11
        assert (found.prompt_tokens, found.completion_tokens, found.total_tokens) == (30, 6, 36)


def checked(usage: Any) -> None:
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_the_openai_client_finds_it(served) -> None:
    client, asked = served.client(), {"stream": True, "stream_options": {"include_usage": True}}
    completions, chats = client.completions.create, client.chat.completions.create
    checked(completions(prompt=[EGGS, EGGS], n=2, **ASKED).usage)
    checked(chats(messages=CHAT, **ASKED).usage)
    [*others, last] = completions(prompt=EGGS, **asked, **ASKED)
    checked(last.usage)
    assert all(chunk.usage is None for chunk in others)
    [*others, last] = chats(messages=CHAT, **asked, **ASKED)
    checked(last.usage)
    text = served.server.metrics.text().decode()
    for name in ("queries", "hits"):
        assert f"# TYPE descant_prefix_cache_{name}_total counter" in text


def test_a_system_prompt_that_all_requests_share_is_read_once(tmp_path, demo_models) -> None:
    """In chats and completions, streamed or not; and the next turn finds the one before it."""
    system = {"role": "system", "content": "Say what is good to eat, and how it is cooked. " * 20}
    file = tmp_path / "serve.yaml"
    models = {name: demo_models[name] for name in ("base", "arm_help")}
    formulas = {"arms": "base + 0.5*arm_help"}
    file.write_text(json.dumps({"formulas": formulas, "models": models}), encoding="utf-8")
    with listening(read_run_file(file), Limits(slots=2, max_model_len=1024)) as server:
        create = server.client().chat.completions.create
        asked: dict[str, Any] = {"model": "arms", "max_tokens": 5, "seed": 1}
        talk = [system, {"role": "user", "content": EGGS}]
        first = create(messages=talk, **asked)
        assert first.usage.prompt_tokens > 300
        cached = [first.usage.prompt_tokens_details.cached_tokens]
        for question in ("And potatoes?", "Why?"):
            other = create(messages=[system, {"role": "user", "content": question}], **asked)
            cached.append(other.usage.prompt_tokens_details.cached_tokens)
        talk += [{"role": "assistant", "content": first.choices[0].message.content},
                 {"role": "user", "content": "Thank you."}]  # fmt: skip
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *_, last = create(messages=talk, **options, **asked)
        cached.append(last.usage.prompt_tokens_details.cached_tokens)
        prompt = server.client().completions.create(prompt=system["content"], **asked)
        cached.append(prompt.usage.prompt_tokens_details.cached_tokens)
        queries = server.metric("descant_prefix_cache_queries_total")
        hits = server.metric("descant_prefix_cache_hits_total")
        assert server.metric("descant_num_preemptions_total") == 0
    assert cached[0] == 0 and all(each > 280 for each in cached[1:4])
    assert cached[1] % 16 == 0 and cached[3] >= cached[1]
    assert sum(cached) < hits < queries  # of all models
