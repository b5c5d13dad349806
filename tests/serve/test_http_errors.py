"""What is wrong with a request is said in OpenAI's shape: status, field, and a cure."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from descant.serve.protocol.schema import ChatRequest, CompletionRequest

TEXT, CHATS, SCORE = "/v1/completions", "/v1/chat/completions", "/v1/score"
USER = [{"role": "user", "content": "Hello"}]
ANSWERED = [{"role": "assistant", "content": "Hi"}]
EXCLUDED = "top_k(base, 1) + top_k(-1*base, 1)"  # the best token and the worst: none is both


def said(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and set(response.json()) == {"error"}
    return error


WRONG = [
    (TEXT, {"prompt": "x"}, "model", "model is missing"),
    (TEXT, {"model": "base"}, "prompt", "prompt is missing"),
    (TEXT, {"prompt": "x", "temprature": 1}, "temprature", "did you mean temperature?"),
    (TEXT, {"prompt": "x", "temperature": -1}, "temperature", "must be at least 0"),
    (TEXT, {"prompt": "x", "temperature": "1"}, "temperature", "must be a number"),
    (TEXT, {"prompt": "x", "top_p": 0}, "top_p", "must be above 0"),
    (TEXT, {"prompt": "x", "n": 0}, "n", "must be at least 1"),
    (TEXT, {"prompt": "x", "n": True}, "n", "must be a whole number"),
    (TEXT, {"prompt": "x", "seed": 2**63}, "seed", "must be below 9223372036854775808"),
    (TEXT, {"prompt": "x", "max_tokens": -1}, "max_tokens", "must be at least 0"),
    (TEXT, {"prompt": "x", "max_tokens": 201}, "max_tokens", "at most 200"),
    (TEXT, {"prompt": "x", "stop": ""}, "stop", "must not be empty"),
    (TEXT, {"prompt": ""}, "prompt", "must not be empty"),
    (TEXT, {"prompt": []}, "prompt", "must be a list of at least 1"),
    (TEXT, {"prompt": [1, "x"]}, "prompt", "prompt.1 must be a whole number"),
    (TEXT, {"prompt": [1, -1]}, "prompt", "prompt.1 must be at least 0"),
    (TEXT, {"prompt": [10**6]}, None, "the vocabulary has 1024 tokens"),
    (TEXT, {"prompt": "x", "echo": 1}, "echo", "true or false"),
    (TEXT, {"prompt": "x", "prompt_logprobs": 1, "stream": True}, None, "not for stream: true"),
    (TEXT, {"prompt": "x", "prompt_logprobs": -1}, "prompt_logprobs", "must be at least 0"),
    (TEXT, {"model": "best", "prompt": "x", "prompt_logprobs": 1}, "prompt_logprobs", "best_of"),
    (TEXT, {"prompt": "x", "truncate_prompt_tokens": 300}, "truncate_prompt_tokens", "256"),
    (TEXT, {"prompt": "x", "suffix": "y"}, "suffix", "leave it out"),
    (TEXT, {"prompt": "x", "best_of": 4}, None, "best_of(reward, n=4)"),
    (TEXT, {"prompt": "x", "logprobs": 21}, "logprobs", "at most 20"),
    (TEXT, {"prompt": "x", "logprobs": True}, "logprobs", "a whole number"),
    (TEXT, {"prompt": "x", "logprobs_mode": "raw_logits"}, "logprobs_mode", "raw_logprobs"),
    (TEXT, {"prompt": "x", "sample_components": 2}, "sample_components", "true or false"),
    (TEXT, {"prompt": "x", "sample_components": True}, "sample_components", "no single mix"),
    (TEXT, {"prompt": "x", "presence_penalty": 2.5}, "presence_penalty", "at most 2"),
    (TEXT, {"prompt": "x", "top_k": -2}, "top_k", "at least -1"),
    (TEXT, {"prompt": "x", "logit_bias": {"5": 101}}, "logit_bias", "at most 100"),
    (TEXT, {"prompt": "x", "logit_bias": {"the": 1}}, "logit_bias", ""),
    (TEXT, {"prompt": "x", "logit_bias": {"99999": 1}}, None, "logit_bias has the token id 99999"),
    (TEXT, {"prompt": "x", "logit_bias": {str(i): 1 for i in range(301)}}, "logit_bias",
     "at most 300"),
    (TEXT, {"prompt": "x", "max_tokens": 3, "min_tokens": 4}, None, "above max_tokens, 3"),
    (TEXT, {"prompt": "x", "stop_token_ids": [99999]}, None, "stop_token_ids is 99999"),
    (TEXT, {"prompt": "x", "stream_options": {}}, None, "stream: true"),
    (TEXT, {"prompt": "x", "params": {"b": 1}}, None, "no parameter b"),
    (TEXT, {"prompt": "x", "params": {"a": "1"}}, "params", "params.a must be a number"),
    (TEXT, {"prompt": ["x"] * 300}, "n", "300 rows"),
    (TEXT, {"prompt": "x " * 120}, None, "a text may have 256"),
    (TEXT, {"model": "arms", "prompt": "x", "params": {"a": 1e39}}, "params",
     "not a finite number"),
    (CHATS, {}, "messages", "is missing"),
    (CHATS, {"messages": []}, "messages", "a list of at least 1"),
    (CHATS, {"messages": [{"role": "user"}]}, "messages", "is missing"),
    (CHATS, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages",
     "image_url is missing"),
    (CHATS, {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages",
     "'text'"),
    (CHATS, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
    (CHATS, {"messages": USER, "top_logprobs": 2}, None, "logprobs: true"),
    (CHATS, {"messages": USER, "tools": [{"type": "function"}]}, "tools", "is missing"),
    (CHATS, {"messages": USER, "response_format": {"type": "xml"}}, "response_format",
     "text, json_object or json_schema"),
    (CHATS, {"messages": USER, "max_tokens": 3, "max_completion_tokens": 4}, None, "differ"),
    (CHATS, {"messages": USER, "continue_final_message": True,
             "add_generation_prompt": True}, None, "both true"),
    (CHATS, {"messages": USER + ANSWERED * 2}, None, "make them one"),
    (CHATS, {"messages": USER, "priority": 1}, "priority", "in their order"),
    (CHATS, {"messages": USER, "length_penalty": 0.8}, "length_penalty", "blockwise"),
    (TEXT, {"prompt": "x", "skip_special_tokens": 0}, "skip_special_tokens", "true or false"),
    (CHATS, {"messages": USER * 2}, None, "takes one user message"),
    (CHATS, {"messages": [{**USER[0], "name": "bob"}]}, "messages", "the names of speakers"),
    (CHATS, {"messages": [{**USER[0], "tool_calls": [{}]}]}, "messages", "is missing"),
    (CHATS, {"messages": USER, "reasoning_effort": "high"}, "reasoning_effort", "leave it out"),
    (TEXT, {"prompt": None}, "prompt", "prompt must be text or a list"),
    (TEXT, {"prompt": [[1, 2], ""]}, "prompt", "prompt.1 must not be empty"),
    (TEXT, {"prompt": [1.5]}, "prompt", "prompt.0 must be a whole number, text or a list"),
    (TEXT, {"prompt": "x", **dict.fromkeys("abcdefghijk", 1)}, "a", "and 3 fields more"),
    (SCORE, {"model": "reward_help", "messages": USER}, "messages", "a list of at least 2"),
    (SCORE, {"model": "reward_help", "text_1": "x"}, None, "text_1 and text_2, or messages"),
    (SCORE, {"model": "reward_help", "text_1": ["x"] * 2, "text_2": ["y"] * 3}, None, "2 prompts"),
    (SCORE, {"model": "reward_help", "messages": USER * 2}, None, "the assistant's"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "body", "field", "message"), WRONG)
def test_a_wrong_body(served, path, body, field, message) -> None:
    error = said(served.post(path, {"model": "base", **body} if field != "model" else body), 400)
    assert (error["param"], error["type"]) == (field, "invalid_request_error")
    assert message in error["message"]


NEUTRAL = {
    CompletionRequest: {
        "prompt": "x", "echo": False, "best_of": 1, "suffix": None, "top_k": -1,
        "frequency_penalty": 0, "logit_bias": {}, "user": "u", "prompt_cache_key": "k",
        "min_tokens": 0, "ignore_eos": False, "stop_token_ids": [],
    },
    ChatRequest: {
        "messages": USER, "top_logprobs": 0, "tools": [], "tool_choice": "none", "store": False,
        "response_format": {"type": "text"}, "presence_penalty": 0.0, "metadata": None,
        "reasoning_effort": None, "verbosity": "medium", "safety_identifier": "u", "priority": 0,
        "add_generation_prompt": True, "continue_final_message": False, "stream_options": None,
        "skip_special_tokens": True, "echo": False, "length_penalty": 1.0, "user": "u",
        "max_tokens": 4, "max_completion_tokens": 4, "include_stop_str_in_output": False,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", NEUTRAL)
def test_what_asks_for_nothing_is_taken(kind) -> None:
    assert kind.model_validate({"model": "base", **NEUTRAL[kind]})


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[" * 100_000, b'{"model": NaN}', b"\xff\xfe", b'"x"']
)
def test_a_body_that_is_no_object(served, content) -> None:
    headers = {"content-type": "application/json"}
    said(httpx.post(f"{served.url}{TEXT}", content=content, headers=headers), 400)


def test_numbers_that_are_none(served) -> None:
    content = '{"model": "base", "prompt": "x", "temperature": NaN}'
    headers = {"content-type": "application/json"}
    error = said(httpx.post(f"{served.url}{TEXT}", content=content, headers=headers), 400)
    assert error["param"] == "temperature"


def test_a_page_of_another_site_cannot_post(served) -> None:
    body = json.dumps({"model": "base", "prompt": "x"})
    for headers in ({"content-type": "text/plain"}, {}):
        found = httpx.post(f"{served.url}{TEXT}", content=body, headers=headers)
        assert "application/json" in said(found, 400)["message"]


def test_paths_and_methods(served) -> None:
    assert (
        "there is no GET /v1/nothing" in said(httpx.get(f"{served.url}/v1/nothing"), 404)["message"]
    )
    assert "does not take GET" in said(httpx.get(f"{served.url}{TEXT}"), 405)["message"]
    error = said(httpx.get(f"{served.url}/v1/models/arsm"), 404)
    assert error["code"] == "model_not_found" and "did you mean arms?" in error["message"]
    assert said(httpx.get(f"{served.url}/v1/models/"), 404)["param"] == "model"
    assert said(httpx.get(f"{served.url}/metrics/"), 404)["code"] == "not_found"
    for path in ("/", "/health", "/v1/models"):  # as monitors ask
        assert httpx.head(f"{served.url}{path}").status_code == 200


def test_the_schema_says_how_errors_look(served) -> None:
    schema = httpx.get(f"{served.url}/openapi.json").json()
    for path in (TEXT, CHATS, SCORE):
        answers = schema["paths"][path]["post"]["responses"]
        assert set(answers) == {"200", "4XX", "5XX"}
        form = answers["4XX"]["content"]["application/json"]["schema"]["$ref"]
        assert form == "#/components/schemas/ErrorResponse"


def test_a_word_that_names_nothing_is_no_model(served) -> None:
    error = said(served.post(TEXT, {"model": "arm", "prompt": "x"}), 404)
    assert error["code"] == "model_not_found" and "did you mean arms?" in error["message"]
    assert served.post(TEXT, {"model": "arm_help", "prompt": "x"}).status_code == 200


def test_a_text_is_scored_within_the_servers_length(served) -> None:
    body = {"model": "reward_help", "text_1": "x", "text_2": "word " * 300}
    assert "reads at most 256" in said(served.post(SCORE, body), 400)["message"]


def test_a_formula_is_marked_at_the_place(served) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        served.client().completions.create(model="base + 0.5*bsae", prompt="x")
    assert found.value.code == "formula_error" and found.value.param == "model"
    assert found.value.body["message"] == (
        "bsae is not declared\n  base + 0.5*bsae\n             ^^^^\ndid you mean base?"
    )


@pytest.mark.parametrize(
    "formula", ["(" * 2000 + "base" + ")" * 2000, "base + " * 20000 + "base", "9**9**9*base",
                "base | best_of(reward_help, n=5)", "base | rerank(reward_help, k=2000)"]
)  # fmt: skip
def test_a_hostile_formula_fails_fast(served, formula) -> None:
    found = served.post(TEXT, {"model": formula, "prompt": "x", "max_tokens": 1})
    said(found, 400)
    assert found.elapsed.total_seconds() < 5


def test_a_row_that_fails_is_its_own_affair(served, offline) -> None:
    client, body = served.client(), {"model": EXCLUDED, "prompt": "Hello", "temperature": 0}
    other = client.completions.create(
        model="base", prompt="Hello", max_tokens=20, temperature=0, stream=True
    )
    text = next(other).choices[0].text
    error = said(served.post(TEXT, body), 422)
    assert error["code"] == "formula_error"
    assert "every token is excluded" in error["message"] and "^^^" in error["message"]
    with pytest.raises(openai.APIError, match="every token is excluded"):
        list(client.completions.create(**body, stream=True))
    text += "".join(chunk.choices[0].text for chunk in other)
    assert text == offline("base", "Hello", max_new_tokens=20)[0].text


def test_rewards_are_scored(served, run_file) -> None:
    import descant

    prompt, answers = "How do I boil eggs?", ["Boil them.", "No.", "Use a pan of water."]
    expected = descant.score("reward_help", [prompt] * 3, answers, models=run_file.models)
    body = {"model": "reward_help", "text_1": prompt, "text_2": answers}
    found = served.post(SCORE, body).json()
    assert found["id"].startswith("score-") and found["object"] == "list" and found["created"]
    assert [one["index"] for one in found["data"]] == [0, 1, 2]
    assert [one["score"] for one in found["data"]] == pytest.approx(expected, abs=1e-4)
    chat = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answers[2]}]
    found = served.post(SCORE, {"model": "reward_help", "messages": chat}).json()
    assert found["data"][0]["score"] == pytest.approx(expected[2], abs=1e-4)
    many = served.post(SCORE, {**body, "text_1": [prompt] * 21, "text_2": answers * 7}).json()
    assert [one["score"] for one in many["data"]] == pytest.approx(expected * 7, abs=1e-4)
    error = said(served.post(SCORE, {**body, "model": "base"}), 404)
    assert "reward_harm, reward_help" in error["message"]
