"""Drafts over HTTP: the same answers, in fewer steps; the fields, the defaults, the metrics."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest
from servers import FILE, listening

from descant.inputs.runfile import RunFileError, read_run_file
from descant.runtime import service
from descant.serve.frontend.server import Server
from descant.serve.protocol import schema
from descant.serve.protocol.limits import Limits

ASKED: dict[str, Any] = {
    "model": "arms", "prompt": "How do I boil eggs?", "max_tokens": 24, "seed": 3, "logprobs": 1,
    "return_token_ids": True,
}  # fmt: skip


def counted(served, name: str) -> float:
    text = httpx.get(f"{served.url}/metrics").text
    found = re.search(rf"^descant_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def drafted(served) -> list[float]:
    names = ("num_drafts", "num_draft_tokens", "num_accepted_tokens")
    return [counted(served, f"spec_decode_{name}_total") for name in names]


def choice(served, **more: Any) -> dict[str, Any]:
    response = served.post("/v1/completions", {**ASKED, **more})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def check_same(answer: dict[str, Any], expected: dict[str, Any]) -> None:
    """Text, tokens, and how likely they were, but for what float32 loses in other batches."""
    for key in ("text", "token_ids", "finish_reason"):
        assert answer[key] == expected[key]
    own, other = (each["logprobs"]["token_logprobs"] for each in (answer, expected))
    assert own == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize("draft", ["base", "prompt", "auto", "base + arm_help"])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.8}, {"temperature": 0}])
def test_an_answer_is_the_same(served, draft, more) -> None:
    answer = choice(served, draft=draft, draft_length=4, **more)
    check_same(answer, choice(served, **more))


def test_what_was_drafted_is_counted(served) -> None:
    before, tokens = drafted(served), counted(served, "generation_tokens_total")
    answer = choice(served, draft="base", draft_length=4, temperature=0)
    rounds, proposed, kept = (now - then for now, then in zip(drafted(served), before, strict=True))
    assert rounds > 0 and proposed >= kept and proposed >= rounds
    generated = len(answer["token_ids"])
    assert counted(served, "generation_tokens_total") - tokens == generated
    assert kept < generated


def test_streams_have_every_token_once(served) -> None:
    """Several tokens come in one chunk; a stop string may end amid them."""
    expected = choice(served, temperature=0)
    text = expected["text"]
    stop = text[len(text) // 2 :][:3]
    for ends in ({}, {"stop": stop}):
        body = {**ASKED, **ends, "temperature": 0, "draft": "base", "draft_length": 8}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces, ids, logprobs, usage = "", [], [], {}
        with httpx.stream("POST", f"{served.url}/v1/completions", json=body) as lines:
            for line in lines.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                usage = chunk.get("usage") or usage
                for part in chunk["choices"]:
                    pieces += part["text"]
                    ids += part.get("token_ids") or []
                    logprobs += (part.get("logprobs") or {}).get("token_logprobs") or []
        own = choice(served, temperature=0, **ends)
        assert (pieces, ids) == (own["text"], own["token_ids"])
        assert logprobs == pytest.approx(own["logprobs"]["token_logprobs"], abs=1e-3)
        assert usage["completion_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("more", "field", "says"),
    [
        ({"draft": "bse"}, "draft", "bse"),
        ({"draft": "base +"}, "draft", ""),
        ({"draft": "base | best_of(reward_help, n=2)"}, "draft", "chooses among texts"),
        ({"draft": ""}, "draft", ""),
        ({"draft": "base", "draft_length": 17}, "draft_length", "16"),
        ({"draft": "base", "draft_length": "four"}, "draft_length", ""),
        ({"draft_length": 4}, "draft_length", "give draft, too"),
    ],
)
def test_what_is_wrong_is_said_of_its_field(served, more, field, says) -> None:
    response = served.post("/v1/completions", {**ASKED, **more})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field), error
    assert says in error["message"]


def test_the_run_file_has_defaults_and_null_is_nobody() -> None:
    settings = ["generate.draft=base", "generate.draft_length=3", "generate.eos_token_id=[1023]"]
    with listening(read_run_file(FILE, settings), Limits(slots=2, max_model_len=128)) as own:
        expected = choice(own, draft=None)
        assert drafted(own) == [0, 0, 0]
        check_same(choice(own), expected)
        rounds, *_ = drafted(own)
        assert 0 < rounds < 24
        answer = own.post("/v1/completions", {**ASKED, "draft": "base + base"})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "draft")


def test_a_default_that_is_too_long_is_refused_at_once() -> None:
    run = read_run_file(FILE, ["generate.draft=base", "generate.draft_length=40"])
    with pytest.raises(RunFileError, match="draft_length is 40; a server drafts at most 16"):
        Server(run)


def test_the_limit_is_the_services_own() -> None:
    """The front door says it again, for it loads no torch."""
    assert schema.SERVED_LENGTH == service.DRAFTED
