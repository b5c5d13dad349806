"""The loop of the decode process, a turn at a time: rows come and go, jobs wait their turn."""

from __future__ import annotations

import multiprocessing
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from descant.errors import ArgumentError
from descant.grammar import FormulaError, Span
from descant.inputs.runfile import RunFile
from descant.models import ModelError, make_spec
from descant.serve.frontend.metrics import Metrics
from descant.serve.frontend.worker_link import WorkerLink
from descant.serve.protocol.limits import Limits
from descant.serve.protocol.messages import (
    AddModel,
    Cancel,
    Command,
    Compile,
    Failed,
    Forget,
    InspectJob,
    InternalError,
    PlanJob,
    Queued,
    RemoveModel,
    RowUpdate,
    ScoreJob,
    Start,
    StepCounts,
    StepUpdate,
    Stop,
    Submit,
)
from descant.serve.worker.jobs import Jobs
from descant.serve.worker.loop import DecodeLoop, portable

EGGS, IDS = "How do I boil eggs?", [1, 9, 8]
LONG = {"max_new_tokens": 60, "temperature": 0.0, "stop_strings": ["\0"], "eos_token_id": [1023]}


class Decoding:
    """A loop of which every turn is made by the test."""

    def __init__(self, run: RunFile) -> None:
        self.jobs = Jobs(Start(run, Limits(slots=2, max_model_len=256), ()))
        self.commands: SimpleQueue[tuple[int, Command]] = SimpleQueue()
        self.heard: list[StepUpdate] = []
        self.loop = DecodeLoop(self.jobs, self.commands, self.heard.append)
        self.numbers = 0

    def send(self, message: Command) -> int:
        self.numbers += 1
        self.commands.put((self.numbers, message))
        return self.numbers

    def turn(self) -> StepCounts:
        self.loop.run_once()
        return self.heard[-1].counts

    def reply(self, number: int) -> Any:
        """The reply to a message, after as many turns as it takes."""
        for _ in range(500):
            replies = [dict(said.replies) for said in self.heard]
            for one in replies:
                if number in one:
                    return one[number]
            self.turn()
        raise AssertionError("there is no reply")

    def ask(self, message: Command) -> Any:
        return self.reply(self.send(message))

    def submit(self, formula: int, prompts: list[Any], pieces: bool = True, **more: Any) -> int:
        return self.send(Submit(formula, prompts, {**LONG, **more}, 200, pieces, 0.0))

    def told(self, number: int) -> list[RowUpdate]:
        return [piece for said in self.heard for one, piece in said.rows if one == number]


@pytest.fixture
def decoding(run_file) -> Decoding:
    found = Decoding(run_file)
    assert found.ask(Compile(1, "base + (1-a)*arm_help", {"a": 0.5})).pickled
    return found


def test_the_slot_of_a_request_that_is_cancelled_is_free_before_the_next_step(decoding) -> None:
    one, other = decoding.submit(1, [IDS]), decoding.submit(1, [IDS])
    waiting = decoding.submit(1, [EGGS])
    assert [decoding.reply(number) for number in (one, other)] == [Queued(1, len(IDS))] * 2
    while (counts := decoding.turn()).running < 2:
        assert counts.seconds is not None
    decoding.turn()
    assert len(decoding.told(one)) == len(decoding.told(other)) > 0
    decoding.send(Cancel(waiting))
    assert (decoding.turn().waiting, decoding.heard[-1].counts.running) == (0, 2)
    decoding.send(Cancel(one))
    told = len(decoding.told(one))
    assert decoding.turn().running == 1 and len(decoding.told(one)) == told
    while decoding.told(other)[-1].finish_reason is None:
        assert decoding.turn().seconds is not None
    assert not decoding.jobs.service.busy
    assert not decoding.loop._rows


def test_of_the_jobs_one_goes_on_between_two_steps(decoding) -> None:
    row = decoding.submit(1, [EGGS])
    ids = [5] * 7
    arguments = {"params": {"a": 0.5}, "temperature": 0.0, "seed": 1, "token_ids": ids, "n": 3}
    inspection = decoding.send(InspectJob(1, EGGS, arguments))
    plan = decoding.send(PlanJob(1))
    score = decoding.send(ScoreJob("reward_help", [EGGS], ["In water."]))
    first = len(decoding.heard)
    found = decoding.reply(inspection)
    between = decoding.heard[first:]
    assert found["token_ids"] == ids and len(between) >= len(ids)
    assert all(said.counts.seconds is not None and len(said.replies) <= 2 for said in between)
    assert "arm_help" in decoding.reply(plan) and isinstance(decoding.reply(score)[0], float)
    assert decoding.told(row) and decoding.jobs.service.busy


def test_a_job_that_is_cancelled_goes_no_further(decoding) -> None:
    arguments = {"params": {}, "temperature": 0.0, "seed": 1, "token_ids": [5] * 50}
    inspection = decoding.send(InspectJob(1, EGGS, arguments))
    never = decoding.send(Compile(7, "base", {}))
    decoding.loop.run_once()
    for number in (inspection, never):
        decoding.send(Cancel(number))
    assert decoding.ask(PlanJob(1)) and 7 not in decoding.jobs.formulas
    assert not any(number == inspection for said in decoding.heard for number, _ in said.replies)


def test_a_model_is_removed_when_the_formulas_behind_it_in_the_line_are_forgotten(decoding) -> None:
    hidden = next(iter(decoding.jobs.service.weights.values())).config.hidden_size
    spec = make_spec("mood", {"vector": {1: torch.ones(hidden)}, "on": "base"})
    assert decoding.ask(AddModel("mood", spec)) is None
    for number, formula in ((2, "mood"), (3, "base + mood")):
        assert decoding.ask(Compile(number, formula, {})).pickled
    removed = decoding.send(RemoveModel("mood"))
    for number in (2, 3):
        decoding.send(Forget(number))
    assert decoding.reply(removed) is None and "mood" not in decoding.jobs.service.specs


def test_no_two_commands_have_the_same_number() -> None:
    link, sent = WorkerLink(Metrics(2)), []
    link._connection = SimpleNamespace(send=sent.append)
    for number in (1, 2):
        link.send(Forget(number))
    link.send(Forget(3), next(link._numbers))
    assert len({number for number, _ in sent}) == 3


def test_a_formula_is_forgotten_when_its_rows_have_ended(decoding) -> None:
    decoders = decoding.jobs.service._decoders
    assert decoding.ask(Compile(2, "base | top_k(4)", {})).pickled and len(decoders) == 2
    row = decoding.submit(2, [EGGS], max_new_tokens=20)
    while not decoding.told(row):
        decoding.turn()
    forgetting = decoding.send(Forget(2))
    decoding.turn()
    assert len(decoders) == 2
    assert decoding.reply(forgetting) is None and len(decoders) == 1
    assert decoding.told(row)[-1].finish_reason == "length"
    assert isinstance(decoding.reply(decoding.submit(2, [EGGS])), Failed)


def test_what_cannot_be_queued_leaves_nothing(decoding) -> None:
    number = decoding.submit(1, [EGGS, [1] * 250])
    failed = decoding.reply(number)
    assert isinstance(failed.error, ModelError) and "250 tokens" in failed.error.problem
    service = decoding.jobs.service
    assert not service.busy and service.waiting == 0 and not decoding.loop._rows


def test_what_breaks_a_step_ends_the_loop(decoding) -> None:
    def step() -> None:
        raise MemoryError("no room")

    decoding.jobs.service.step = step
    decoding.submit(1, [EGGS])
    with pytest.raises(MemoryError):
        decoding.loop.run()


def test_a_row_that_cannot_be_told_ends_alone(decoding, monkeypatch) -> None:
    from descant.serve.worker.pending import PendingRow

    good, bad = decoding.submit(1, [EGGS]), decoding.submit(1, [EGGS])
    update = PendingRow.update

    def fails(row: PendingRow, answer: Any) -> RowUpdate | None:
        if row.command == bad and len(answer.tokens) == 3:
            raise KeyError("no such piece")
        return update(row, answer)

    monkeypatch.setattr(PendingRow, "update", fails)
    while not (told := decoding.told(good)) or told[-1].finish_reason is None:
        decoding.turn()
    last = decoding.told(bad)[-1]
    assert last.finish_reason == "error" and isinstance(last.error, InternalError)
    assert "KeyError" in str(last.error) and "in fails" in last.error.__notes__[0]
    assert decoding.ask(PlanJob(1))  # a later update does not say it again
    assert [error.id for said in decoding.heard for error in said.failures] == [last.error.id]
    assert len([id for piece in told for id in piece.token_ids]) == 60
    assert not decoding.jobs.service.busy and not decoding.loop._rows


def test_stop_ends_it(decoding) -> None:
    decoding.submit(1, [EGGS])
    decoding.turn()
    decoding.send(Stop())
    decoding.loop.run()
    assert decoding.jobs.service.busy


class Odd(Exception):
    """Cannot be made again from its words, as some of other packages cannot."""

    def __init__(self, one: int, *, other: int) -> None:
        super().__init__(f"{one} and {other}")


def over(error: Exception) -> Exception:
    """An error as it is at the other end."""
    here, there = multiprocessing.Pipe()
    try:
        raise error
    except Exception as raised:
        here.send(Failed(portable(raised)))
    return there.recv().error


def test_errors_cross_whole() -> None:
    marked = FormulaError("no model is named bse", "bse + arm", Span(0, 3), "did you mean base?")
    model = ModelError("too large", "take a smaller one", "base", "memory")
    for error in (marked, model, ArgumentError("n is 0")):
        found = over(error)
        assert type(found) is type(error) and str(found) == str(error)
        assert found.__dict__ == error.__dict__
    assert "^^^" in str(over(marked)) and over(marked).span == Span(0, 3)
    unreadable = over(PermissionError(13, "Permission denied", "model.safetensors"))
    assert (unreadable.errno, unreadable.filename) == (13, "model.safetensors")
    assert isinstance(over(MemoryError("no room")), ModelError)
    for error in (Odd(1, other=2), ValueError("of others")):
        found = over(error)
        assert type(found) is InternalError and str(error) in str(found)
        assert "Traceback" in found.__notes__[0] and "in over" in found.__notes__[0]
