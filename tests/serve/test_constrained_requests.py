"""Constraints of clients: the answers of ``generate``, and nobody waits for a hostile one."""

from __future__ import annotations

import json
import re
import threading
import time
from typing import Any

import pytest
from hostile_constraints import COMPILED, REFUSED
from servers import YARD

pytest.importorskip("llguidance")
jsonschema = pytest.importorskip("jsonschema")
CHAT = [{"role": "user", "content": "Tell me of the hens."}]
FORMAT = {"type": "json_schema", "json_schema": {"name": "yard", "schema": YARD, "strict": True}}
LETTERS = {"regex": "[a-z]{3} [0-9]{2}"}


def reason(response: Any) -> tuple[int, str, str]:
    error = response.json()["error"]
    return response.status_code, error["param"], error["message"]


@pytest.mark.parametrize("formula", ["arms", "safe", "best", "base | top_k(40)"])
def test_a_chat_is_the_offline_one_and_fits(served, offline, formula) -> None:
    found = served.client().chat.completions.create(
        model=formula, messages=CHAT, max_tokens=60, seed=3, response_format=FORMAT
    )
    [expected] = offline(
        formula, CHAT, max_new_tokens=60, seed=3, temperature=1.0, structured_outputs={"json": YARD}
    )
    [choice] = found.choices
    assert choice.message.content == expected.text and choice.finish_reason == "stop"
    jsonschema.validate(json.loads(choice.message.content), YARD)


def test_a_stream_adds_up(served, offline) -> None:
    pieces = served.client().completions.create(
        model="arms", prompt="Hens", max_tokens=40, seed=5, stream=True, n=2,
        extra_body={"structured_outputs": LETTERS},
    )  # fmt: skip
    texts, reasons = ["", ""], ["", ""]
    for piece in pieces:
        for choice in piece.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert all(re.fullmatch(LETTERS["regex"], text) for text in texts)
    assert reasons == ["stop", "stop"]
    options = {"max_new_tokens": 40, "seed": 5, "temperature": 1.0, "num_return_sequences": 2}
    expected = offline("arms", "Hens", structured_outputs=LETTERS, **options)
    assert texts == [each.text for each in expected]


def test_a_cut_answer_says_so_and_text_is_free(served) -> None:
    create = served.client().chat.completions.create
    cut = create(model="base", messages=CHAT, max_tokens=3, response_format=FORMAT)
    assert cut.choices[0].finish_reason == "length"
    free = create(model="base", messages=CHAT, max_tokens=3, response_format={"type": "text"})
    assert not free.choices[0].message.content.startswith("{")


def test_a_formula_of_a_request_names_what_the_run_file_declares(served) -> None:
    found = served.client().completions.create(
        model="base | json(yard)", prompt="Hens", max_tokens=60, seed=1
    )
    jsonschema.validate(json.loads(found.choices[0].text), YARD)
    wrong = served.post("/v1/completions", {"model": "base | json(yart)", "prompt": "x"})
    status, param, message = reason(wrong)
    assert (status, param) == (400, "model") and "did you mean yard?" in message
    checked = served.post("/playground/check", {"formula": "base | json(yard)", "declared": {}})
    assert "error" not in checked.json()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("structured_outputs", {"json": {"$ref": "http://localhost/x"}}, "nothing is fetched"),
        ("structured_outputs", {"jsn": {}}, "did you mean json?"),
        ("structured_outputs", {"regex": "a("}, "the regex cannot be compiled"),
        ("structured_outputs", {"structural_tag": {}}, "write the whole answer as a grammar"),
        ("response_format", {"type": "json_schema"}, "it has no schema"),
        ("response_format", {"type": "json_schema", "json_schema": {
            "name": "x", "schema": {"type": "array", "uniqueItems": True}}}, "uniqueItems"),
        ("guided_json", {"type": "object"}, 'write structured_outputs: {"json": …}'),
        ("guided_choice", ["a"], 'write structured_outputs: {"choice": …}'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(served, field, value, message) -> None:
    body = {"model": "base", "prompt": "x", "max_tokens": 2, field: value}
    status, param, told = reason(served.post("/v1/completions", body))
    assert (status, param) == (400, field) and message in told and len(told) < 400


def test_both_at_once_are_refused(served) -> None:
    body = {"model": "base", "prompt": "x", "response_format": FORMAT,
            "structured_outputs": LETTERS}  # fmt: skip
    status, _, told = reason(served.post("/v1/completions", body))
    assert status == 400 and "leave one out" in told


def test_others_are_decoded_while_a_hostile_one_is_compiled(served) -> None:
    """Fields and formulas of a client alike; then what compiles is decoded."""
    slow = REFUSED["slow"]["json"]
    formula = f"base | json('{json.dumps(slow, separators=(',', ':'))}')"
    answers: list[Any] = []

    def hostile(**field: Any) -> None:
        body = {"model": "base", "prompt": "x", "max_tokens": 2, **field}
        answers.append(served.post("/v1/completions", body))

    fields = ({"structured_outputs": {"json": slow}}, {"model": formula})
    threads = [threading.Thread(target=hostile, kwargs=field) for field in fields]
    for thread in threads:
        thread.start()
    times = []
    while any(thread.is_alive() for thread in threads):
        start = time.perf_counter()
        ok = served.post("/v1/completions", {"model": "base", "prompt": "x", "max_tokens": 2})
        assert ok.status_code == 200
        times.append(time.perf_counter() - start)
    assert sorted(times)[len(times) // 2] < 0.5 and len(times) > 2
    assert sorted(reason(answer)[:2] for answer in answers) == [
        (400, "model"), (400, "structured_outputs"),
    ]  # fmt: skip
    for form in COMPILED.values():
        body = {"model": "base", "prompt": "x", "max_tokens": 3, "structured_outputs": form}
        assert served.post("/v1/completions", body).status_code in (200, 422)
    assert served.post("/v1/completions", {"model": "base", "prompt": "x"}).status_code == 200
