"""What the playground asks of its server, over HTTP."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from playground_site import ARMS, STEER, WORDS, run_file
from servers import spent, wait

httpx = pytest.importorskip("httpx", reason="pip install httpx")


@pytest.fixture
def client(site):
    with httpx.Client(base_url=site.url, timeout=60) as made:
        yield made


def told(client, **body):
    answer = client.post("/playground/check", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_page_and_its_files_come_with_their_policy(client) -> None:
    from descant.serve.http.playground import FILES

    assert client.get("/").text == FILES["index.html"].read_text(encoding="utf-8")
    for name in FILES:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200 and answer.headers["x-content-type-options"] == "nosniff"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy and "*" not in policy and "http" not in policy
    assert client.get("/page/main.js").headers["content-type"].startswith("text/javascript")
    for other in ("playground.py", "report.js", "..%2Fplayground.py", "%2e%2e/app.py", "nothing"):
        assert client.get(f"/page/{other}").status_code == 404
    page = FILES["index.html"].read_text(encoding="utf-8")
    for inline in ("<style", "style=", "onclick", "http://", "https://", "javascript:"):
        assert inline not in page


WAYS = (
    "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function",
    "DOMParser", "srcdoc", "createContextualFragment",
)  # fmt: skip


def test_no_script_of_the_page_makes_markup_of_text() -> None:
    from descant.serve.http.playground import FILES

    for name, file in FILES.items():
        found = [way for way in WAYS if way in file.read_text(encoding="utf-8")]
        assert not found, f"{name} has {found}"


def test_a_formula_is_looked_at_without_weights(client) -> None:
    assert told(client, formula="base + a*arm_help | top_p(a)")["params"] == [
        {"name": "a", "value": 0.5, "low": 0.01, "high": 1.0, "step": 0.01}
    ]
    own = told(
        client, formula="base + b*arm_help | rerank(reward_help, k=c)", declared={"b": -3, "c": 5}
    )
    assert [(one["low"], one["high"], one["step"]) for one in own["params"]] == [
        (-6.0, 1.0, 0.1), (1.0, 11.0, 1.0),
    ]  # fmt: skip
    assert told(client, formula="base@child + arm_help") == {"params": []}


@pytest.mark.parametrize(
    ("formula", "params", "marked", "says"),
    [
        ("base + arm_hel", {}, "arm_hel", "did you mean arm_help?"),
        ("base +", {}, "+", "nothing on its right"),
        (
            "base@'\N{GRINNING FACE}' + base*arm_help",
            {},
            "base*arm_help",
            "not multiply two models",
        ),
        ("base | top_p(a)", {"a": 7}, "a", "must be at most 1"),
        ("base + a*arm_help", {"a": 1e300}, "a", "not a finite number"),
        ("base\n  | rerank(reward_help, k=0)", {}, "0", "at least 1"),
    ],
)
def test_errors_have_their_span_as_browsers_count(client, formula, params, marked, says) -> None:
    error = told(client, formula=formula, params=params)["error"]
    units = formula.encode("utf-16-le")
    found = units[2 * error["start"] : 2 * error["end"]].decode("utf-16-le")
    assert marked in found or found in marked
    assert says in f"{error['problem']} {error['cure']}"


def test_names_that_could_be_parameters_are_told(client) -> None:
    assert told(client, formula="base + b*arm_help")["error"]["declare"] == "b"
    assert told(client, formula="base + b*c*arm_help")["error"]["declare"] == "b"
    for never in ("base + max", "base@nobody", "base * arm_help", "base + 0.5*", "base | foo"):
        assert told(client, formula=never)["error"]["declare"] is None
    answer = client.post("/playground/check", json={"formula": "base", "declared": {"base": 1}})
    assert answer.status_code == 400 and "declared both" in answer.json()["error"]["message"]


def test_hostile_drafts_are_answered_soon(client) -> None:
    told(client, formula="base")
    for formula in ("(" * 4000, "base + " * 500 + "base", "\ud800", "x" * 50_000, "base**" * 600):
        start = time.perf_counter()
        answer = client.post(
            "/playground/check", content='{"formula": "\\ud800"}' if formula == "\ud800" else None,
            json=None if formula == "\ud800" else {"formula": formula},
        )  # fmt: skip
        assert answer.status_code in (200, 400), answer.text
        assert time.perf_counter() - start < 3


def test_the_plan_is_the_decoders_own(client, alone) -> None:
    plan = client.post("/playground/plan", json={"model": "steer", "params": {"a": 0.5}}).json()[
        "plan"
    ]
    own = str(alone(STEER).plan)
    said = [line for line in own.splitlines() if not line.startswith(("floor", "note"))]
    assert [line for line in said if line not in plan] == []
    wrong = client.post("/playground/plan", json={"model": "base +", "params": {}})
    assert wrong.status_code == 400 and "^" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("chat", [False, True])
def test_an_answer_is_explained_as_it_was_shown(client, alone, chat) -> None:
    prompt = [{"role": "user", "content": WORDS}] if chat else WORDS
    asked = {"messages" if chat else "prompt": prompt, "temperature": 1.0, "seed": 3}
    body = {"model": "arms", "params": {"a": 0.25}, **asked}
    way = "chat/completions" if chat else "completions"
    answer = client.post(f"/v1/{way}", json={**body, "max_tokens": 12, "return_token_ids": True})
    ids = answer.json()["choices"][0]["token_ids"]
    found = client.post("/playground/inspect", json={**body, "token_ids": ids}).json()
    own = alone(ARMS).inspect(
        prompt, n=8, params={"a": 0.25}, max_new_tokens=12, temperature=1.0, seed=3
    )
    assert own.completion.token_ids == ids == found["token_ids"]
    assert same_but_for_rounding(found["tokens"], own.as_dict()["tokens"])


def same_but_for_rounding(one: Any, other: Any) -> bool:
    """Whether two values of JSON are the same, their numbers within rounding."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(
            same_but_for_rounding(one[key], other[key]) for key in one
        )
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same_but_for_rounding, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=1e-5, abs=1e-6)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize(
    ("change", "status", "says"),
    [
        ({"token_ids": [5, 4000]}, 400, "the token id 4000, and the vocabulary has 1024"),
        ({"token_ids": []}, 400, "token_ids"),
        ({"token_ids": [5] * 1025}, 400, "at most 1024"),
        ({"token_ids": ["5"]}, 400, "token_ids"),
        ({"messages": [{"role": "user", "content": "x"}]}, 400, "give prompt or messages"),
        ({"params": {"z": 1}}, 400, "z"),
        ({"model": "nobody"}, 404, "there is no model 'nobody'"),
        ({"more": 1}, 400, "there is no field more"),
    ],
)
def test_what_cannot_be_explained_is_refused(client, change, status, says) -> None:
    body = {
        "model": "arms",
        "params": {},
        "prompt": WORDS,
        "temperature": 0,
        "seed": 1,
        "token_ids": [5],
    }
    answer = client.post("/playground/inspect", json={**body, **change})
    assert answer.status_code == status and says in answer.json()["error"]["message"]


def test_others_go_on_while_an_answer_is_explained(client) -> None:
    body = {"model": "arms", "params": {}, "prompt": WORDS, "temperature": 0, "seed": 1}
    ids = [5] * 150
    took: dict[str, float] = {}

    def explain() -> None:
        start = time.perf_counter()
        assert (
            client.post("/playground/inspect", json={**body, "token_ids": ids}).status_code == 200
        )
        took["inspect"] = time.perf_counter() - start

    thread = threading.Thread(target=explain)
    thread.start()
    start = time.perf_counter()
    client.post("/v1/completions", json={"model": "arms", "prompt": WORDS, "max_tokens": 5})
    took["completion"] = time.perf_counter() - start
    thread.join()
    assert took["completion"] < took["inspect"] / 2


def test_an_explanation_that_nobody_waits_for_stops(client, site, monkeypatch) -> None:
    from descant.serve.protocol.messages import Cancel, InspectJob

    link, told = site.server.link, []
    send = link.send
    monkeypatch.setattr(link, "send", lambda *command: told.append(command[0]) or send(*command))
    body = {"model": "arms", "params": {}, "prompt": WORDS, "temperature": 0, "seed": 1}
    start = spent(link.process.pid)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/playground/inspect", json={**body, "token_ids": [5] * 200}, timeout=0.3)
    wait(lambda: not site.server.busy)
    assert [type(one) for one in told] == [InspectJob, Cancel]
    time.sleep(0.1)  # for the step that it was at
    before = spent(link.process.pid)
    time.sleep(0.3)
    assert before - start > 0.05 > spent(link.process.pid) - before
    client.post("/playground/inspect", json={**body, "token_ids": [5] * 3}).raise_for_status()


def test_keys_are_asked_for_all_but_the_page(tmp_path) -> None:
    from starlette.testclient import TestClient

    from descant.serve.frontend.server import Server
    from descant.serve.http.app import application

    kept = Server(run_file(tmp_path), keys=["secret"])  # never started: nobody gets that far
    client = TestClient(application(kept))
    assert client.get("/").status_code == 200 == client.get("/page/main.js").status_code
    for path in ("known", "check", "plan", "inspect"):
        ask = client.get if path == "known" else client.post
        assert ask(f"/playground/{path}").status_code == 401
    known = client.get("/playground/known", headers={"Authorization": "Bearer secret"})
    assert known.json()["keys"] is True and known.json()["allow_formulas"] is False
    assert known.json()["formulas"]["arms"] == ARMS
