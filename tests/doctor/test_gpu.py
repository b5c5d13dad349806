"""``descant doctor --gpu``: what it says without a GPU, and that each of its checks can fail.

The checks of a GPU run here, too: kernels by torch's versions of them, recordings as tapes.
"""

from __future__ import annotations

import json

import pytest
import torch
from command_line import command
from plain_varlen import documented
from tape import Tape, on_tape
from torch.nn.attention import varlen

from descant import api
from descant.doctor import gpu, kernels, layers, steps
from descant.doctor.findings import BROKEN, MISSING, OK, Finding
from descant.models.kernels import chunk_varlen, live_attention
from descant.runtime import Decoder

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@without_gpu
def test_without_a_gpu_it_says_so_and_checks_the_rest() -> None:
    done = command("doctor", "--gpu", "--json")
    assert done.returncode == 0, done.stderr
    findings = {one["name"]: one for one in json.loads(done.stdout)["findings"]}
    assert findings["GPU"]["state"] == MISSING and "not checked" in findings["GPU"]["said"]
    assert findings["versions"]["data"]["torch"] == torch.__version__
    compiled = "compiled for sm_90 (H100 and H200)"
    for name in (
        "the reference, against transformers", "one model: eager, against transformers", compiled,
        "grouped heads, a sliding window: eager, against transformers",
    ):  # fmt: skip
        if name == compiled and findings["versions"]["data"]["triton"] is None:
            assert findings[name]["state"] == MISSING
        else:
            assert findings[name]["state"] == OK, findings[name]


def test_a_table_to_paste_and_an_exit_code(monkeypatch) -> None:
    def broken():
        yield Finding("first", OK, "a | b")
        raise RuntimeError("CUDA error: an illegal memory access\nmore lines")

    monkeypatch.setattr(gpu, "checks", lambda: [("second", broken)])
    monkeypatch.setattr(gpu, "versions", lambda: iter([Finding("long", OK, "x" * 999)]))
    done = command("doctor", "--gpu")
    assert done.returncode == 1 and not done.stderr
    head, rule, *lines, empty, ending = done.stdout.splitlines()
    assert [cell.strip() for cell in head.split("|")] == ["", "check", "result", "what", ""]
    assert set(rule) == {"|", "-"} and not empty and ending == "1 of 4 failed"
    assert [line.replace(" ", "").rstrip("|") for line in lines[1:3]] == [
        r"|first|pass|a\|b",
        "|second|FAIL|cannotbelookedat:RuntimeError:CUDAerror:anillegalmemoryaccess",
    ]
    assert {len(line) for line in (head, rule, *lines)} == {len(head)} and len(head) < 200


def test_what_is_checked_on_a_gpu(monkeypatch) -> None:
    """Every dtype, every formula; names are those of the findings."""
    monkeypatch.setattr(gpu, "on_gpu", lambda: True)
    named = dict(gpu.checks())
    assert {f"{name}: recorded, against eager" for name in steps.TRIALS} <= set(named)
    for dtype in ("bfloat16", "float16", "float32"):
        [finding] = kernels.live(dtype, "ten candidates", "cpu")
        assert finding.name in named
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    for dtype in ("bfloat16", "float16"):
        [finding] = kernels.chunk(dtype, "a prompt", "cpu")
        assert finding.name in named


@pytest.mark.parametrize("name", kernels.CASES)
def test_a_kernel_is_held_against_a_mask(name, monkeypatch) -> None:
    [finding] = kernels.live("bfloat16", name, "cpu")
    assert finding.state == OK and 0 < finding.data["apart"] < 0.01
    right = live_attention.live_attention

    def planted(query, *arguments, **options):
        out = right(query, *arguments, **options)
        out[0, -1] *= 1.1
        return out

    monkeypatch.setattr(live_attention, "live_attention", planted)
    [finding] = kernels.live("bfloat16", name, "cpu")
    assert (
        finding.state == BROKEN and "of the largest output apart; at most 0.02" in finding.message
    )
    monkeypatch.setattr(
        live_attention, "live_attention", lambda *a, **o: right(*a, **o).fill_(torch.nan)
    )
    [finding] = kernels.live("bfloat16", name, "cpu")
    assert finding.state == BROKEN and finding.message.startswith("inf of the largest")


@pytest.mark.parametrize("dtype", layers.DTYPES)
def test_the_kernels_of_a_layer_are_held_against_torch(dtype, monkeypatch) -> None:
    """Each of them, and what they write."""
    monkeypatch.setattr(gpu, "on_gpu", lambda: True)
    [finding] = layers.layers(dtype, "odd sizes", "cpu")
    assert finding.state == OK and len(finding.data) == 4 and finding.name in dict(gpu.checks())
    right, shape = layers.calls, layers.SHAPES["odd sizes"]
    for name, (kernel, plain, arguments) in right(shape, torch.float32, "cpu").items():

        def planted(*given, kernel=kernel):
            found = kernel(*given)
            some = found if isinstance(found, torch.Tensor) else found[-1]
            some[0, 0] *= 1.1
            return found

        calls = {name: (planted, plain, arguments)}
        monkeypatch.setattr(layers, "calls", lambda *_, calls=calls: calls)
        [finding] = layers.layers(dtype, "odd sizes", "cpu")
        assert finding.state == BROKEN and finding.message.startswith(name)


def test_what_no_query_sees_is_not_read(monkeypatch) -> None:
    """A kernel that reads one key too many is found."""
    right = live_attention.live_attention

    def one_more(query, key, value, tables, *places, **options):
        return right(query, key, value, tables, *(place + 1 for place in places), **options)

    monkeypatch.setattr(live_attention, "live_attention", one_more)
    [finding] = kernels.live("float32", "a token, grouped heads", "cpu")
    assert finding.state == BROKEN


def test_neighbours_that_change_a_bit_are_found(monkeypatch) -> None:
    assert [finding.state for finding in kernels.bits("cpu")] == [OK]
    right = live_attention.live_attention

    def of_the_batch(query, *arguments):
        return right(query, *arguments) + (len(query) > 1) * 2**-7

    monkeypatch.setattr(live_attention, "live_attention", of_the_batch)
    [finding] = kernels.bits("cpu")
    assert finding.state == BROKEN and "rows of 1, 256, 513, 1900 tokens" in finding.message


def test_pages_that_change_a_bit_are_found(monkeypatch) -> None:
    right = live_attention.live_attention

    def of_the_pages(query, key, *arguments):
        return right(query, key, *arguments) * (1 + (key.shape[2] < 64) * 2**-7)

    monkeypatch.setattr(live_attention, "live_attention", of_the_pages)
    [finding] = kernels.bits("cpu")
    assert finding.state == BROKEN and "alone or in other pages" in finding.message


def test_draws_are_held_against_torch(monkeypatch) -> None:
    [finding] = kernels.sampled_tokens(1000, "cpu")
    assert (finding.state, finding.data["below"]) == (OK, 0)
    wrong = lambda scores, *settings: (scores.argmin(dim=1), scores.amin(dim=1))  # noqa: E731
    monkeypatch.setattr("descant.models.kernels.draw.draw", wrong)
    [finding] = kernels.sampled_tokens(1000, "cpu")
    assert finding.state == BROKEN and "below the best score" in finding.message


@pytest.mark.parametrize("name", kernels.CHUNKS)
def test_a_chunk_is_held_against_a_mask(name, monkeypatch) -> None:
    monkeypatch.setattr(varlen, "varlen_attn", documented)
    [finding] = kernels.chunk("bfloat16", name, "cpu")
    assert finding.state == OK and finding.data["apart"] > 0
    right = chunk_varlen.varlen_chunk
    monkeypatch.setattr(chunk_varlen, "varlen_chunk", lambda *given: right(*given[:-1], 0) * 1.1)
    [finding] = kernels.chunk("bfloat16", name, "cpu")
    assert finding.state == BROKEN


def test_what_a_kernel_cannot_do_is_a_note() -> None:
    [finding] = kernels.chunk("float32", "a prompt", "cpu")
    assert finding.state == "note" and "prompts go by masks: keys in float32" in finding.message


@pytest.fixture
def taped(monkeypatch) -> None:
    """What ``compile`` makes records its steps on tapes, without masks."""
    live, compile = on_tape(monkeypatch), api.compile
    monkeypatch.setattr(varlen, "varlen_attn", lambda q, *a, **o: documented(q, *a, **o).to(q))
    monkeypatch.setattr(api, "compile", lambda *a, **o: live(compile(*a, **o)))


@pytest.mark.parametrize("name", steps.TRIALS)
def test_recorded_steps_are_held_against_eager_ones(name, taped) -> None:
    finding, *notes = steps.recorded(name, "cpu")
    assert finding.state == OK, finding
    recordings, of_logprobs = finding.data["recordings"], int("bfloat16" in name)
    assert recordings == [len(Tape.made) - of_logprobs, 0] and recordings[0] > 1
    assert finding.data["eager"] == []
    says = "log-probabilities are 0" if of_logprobs else "4 rows of 24 tokens are equal"
    assert finding.message.startswith(says)
    assert [note.message for note in notes] == []


def test_a_replay_that_differs_is_found(taped, monkeypatch) -> None:
    replay = Tape.replay

    def planted(self):
        replay(self)
        self._tape[-1][1][0].add_(1)

    monkeypatch.setattr(Tape, "replay", planted)
    [finding] = steps.recorded("one model", "cpu")
    assert finding.state == BROKEN
    assert "the forward of base is eager: a replay gives other numbers" in finding.message


def test_another_token_is_found(taped, monkeypatch) -> None:
    decode = steps.decode

    def planted(decoder, trial):
        completions = decode(decoder, trial)
        if decoder.session.engine.graphs.on:
            completions[2].token_ids[7] += 1
        return completions

    monkeypatch.setattr(steps, "decode", planted)
    [finding] = steps.recorded("two models, drawn", "cpu")
    assert finding.state == BROKEN and finding.message.startswith("row 2, token 7 is ")


def test_other_logprobs_are_found(taped, monkeypatch) -> None:
    generate = Decoder.generate

    def planted(self, *arguments, **options):
        completions = generate(self, *arguments, **options)
        if self.session.engine.graphs.on and options.get("logprobs"):
            completions[1].top_logprobs[0] = {
                token: value - 0.1 for token, value in completions[1].top_logprobs[0].items()
            }
        return completions

    monkeypatch.setattr(Decoder, "generate", planted)
    [finding] = steps.recorded("one model, bfloat16", "cpu")
    assert finding.state == BROKEN and finding.message.startswith("log-probabilities are 0.1")


def test_recordings_that_do_not_outlive_a_run_are_found(taped, monkeypatch) -> None:
    decode = steps.decode

    def planted(decoder, trial):
        for lane in decoder.session.bound.lanes:
            if lane.recordings is not None:
                lane.recordings.clear()
        return decode(decoder, trial)

    monkeypatch.setattr(steps, "decode", planted)
    [finding] = steps.recorded("one model", "cpu")
    assert finding.state == BROKEN
    assert finding.message == "1 recordings in the second run, where 0 are right"


def test_masks_are_said_once(taped, monkeypatch) -> None:
    monkeypatch.setattr(gpu, "on_gpu", lambda: False)
    trials = [("a", lambda: steps.recorded("one model", "cpu"))] * 2
    monkeypatch.setattr(gpu, "checks", lambda: trials)
    compile = api.compile

    def masked(*arguments, **options):
        decoder = compile(*arguments, **options)
        for lane in decoder.session.bound.lanes:
            lane.live.why_chunks_masked = "its code changes masks"
        return decoder

    monkeypatch.setattr(api, "compile", masked)
    notes = [finding for finding in gpu.examined() if finding.state == "note"]
    assert [(note.name, note.message) for note in notes] == [
        ("prompts, float32", "by masks, for its code changes masks")
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_passes() -> None:
    done = command("doctor", "--gpu")
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "nothing failed"
