"""Comparing two runs: by a reward, and by a judge behind a server that speaks the real protocol."""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sweeps import SPECS, run_of

import descant
from descant.compare.compare import by_judge, by_reward, compared, pairs_of, side_of
from descant.compare.judge import SYSTEM, Budget, Judge, Question
from descant.compare.recorded import by_scores
from descant.inputs.runfile import RunFileError
from descant.results.folder import COMPLETIONS, RESOLVED, Journal
from descant.runs.resume import prepare

pytest.importorskip("openai")
TOKENS = 100  # that every call is said to have taken


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server whose model prefers the longer answer, and may be unwell."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict] = []
        self.ills: list[str] = []  # what the next calls suffer from
        self.lock = threading.Lock()
        self.says = lambda a, b: "A" if len(a) > len(b) else "B" if len(b) > len(a) else "tie"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(body)
            ill = self.server.ills.pop(0) if self.server.ills else ""
        if ill == "slow":
            time.sleep(1.5)
        if ill == "down":
            return self.answer(503, {"error": {"message": "overloaded"}})
        if ill == "key":
            return self.answer(401, {"error": {"message": "Incorrect API key"}})
        if ill == "strict" or (ill == "" and "max_tokens" in body and body["model"] == "strict"):
            said = "Unsupported parameter: use 'max_completion_tokens' instead of 'max_tokens'"
            return self.answer(400, {"error": {"message": said}})
        assert self.path == "/v1/chat/completions"
        text = body["messages"][1]["content"]
        first = text.split("Answer A:\n")[1].split("\n\nAnswer B:\n")[0]
        second = text.split("Answer B:\n")[1]
        verdict = self.server.says(first, second)
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {
                "role": "assistant",
                "content": f"B is odd, A is even.\nVerdict: {verdict}",
            },
        }
        usage = {"prompt_tokens": TOKENS - 10, "completion_tokens": 10, "total_tokens": TOKENS}
        self.answer(
            200,
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            },
        )

    def answer(self, status: int, body: dict) -> None:
        said = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server():
    one = Server()
    yield one
    one.shutdown()
    one.server_close()


def folder(tmp_path, name, texts, formula="base"):
    """A run's folder that says these texts, two samples to each prompt."""
    place = tmp_path / name
    place.mkdir()
    prepare(run_of(place, formula=formula, sweep=None, front=None), place)
    Journal(place, COMPLETIONS).add(
        {
            "schema": 1,
            "formula": "formula",
            "point": 0,
            "params": {},
            "id": i // 2,
            "sample": i % 2,
            "prompt": f"Question {i // 2}?",
            "text": text,
            "token_ids": [1] * len(text.split()),
            "finish_reason": "eos",
            "seed": i,
            "elapsed": 0.5,
        }
        for i, text in enumerate(texts)
    )
    return str(place)


@pytest.fixture
def sides(tmp_path):
    ours = folder(tmp_path, "ours", ["long answer here", "b", "same", "one two three"])
    theirs = folder(tmp_path, "theirs", ["short", "bb", "same", "x"], "base + arm_help")
    return side_of(ours), side_of(theirs)


def judge(server, tmp_path, calls=100, tokens=None, **more):
    more = {"timeout": 5.0, "pause": 0.01, "base_url": server.url, **more}
    return Judge("some-model", tmp_path / "verdicts.jsonl", Budget(calls, tokens), **more)


def test_a_judge_sees_both_orders(server, sides, tmp_path):
    found = by_judge(*sides, judge(server, tmp_path))
    assert (found.wins, found.ties, found.losses, found.left) == (2, 1, 1, 0)
    assert found.rate.mean == pytest.approx((0.5 + 0.75) / 2) and found.rate.n == 4
    assert found.cost == {"calls": 6, "tokens": 6 * TOKENS}  # equal answers cost nothing
    asked = [body["messages"][1]["content"] for body in server.seen]
    assert sum("Answer A:\nlong" in text for text in asked) == 1
    assert sum("Answer B:\nlong" in text for text in asked) == 1
    assert server.seen[0]["messages"][0]["content"] == SYSTEM


def test_a_judge_that_likes_a_place_says_nothing(server, sides, tmp_path):
    server.says = lambda a, b: "A"
    found = by_judge(*sides, judge(server, tmp_path))
    assert (found.wins, found.ties, found.losses) == (0, 4, 0)
    assert found.rate.mean == 0.5


def test_verdicts_are_asked_for_once(server, sides, tmp_path):
    first = by_judge(*sides, judge(server, tmp_path))
    again = by_judge(*sides, judge(server, tmp_path, calls=1))
    assert again.rate == first.rate and again.cost == {"calls": 0, "tokens": 0}
    assert len(server.seen) == 6


@pytest.mark.parametrize("at_once", [1, 8])
def test_a_budget_of_calls_is_never_exceeded(server, sides, tmp_path, at_once):
    server.ills = ["", "down", "down"]
    found = by_judge(*sides, judge(server, tmp_path, calls=5, at_once=at_once))
    assert len(server.seen) == 5 == found.cost["calls"]
    assert found.left + found.wins + found.ties + found.losses == 4 and found.left >= 1


def test_a_budget_of_tokens_is_never_exceeded(server, sides, tmp_path):
    """What a call could cost at most must fit, and a failed call counts as that."""
    one = judge(server, tmp_path, calls=None, tokens=2000, answer=100, at_once=4)
    found = by_judge(*sides, one)
    most = len(SYSTEM.encode()) + 100 + 64
    assert one.tokens <= 2000 and 0 < len(server.seen) <= (2000 - most) // TOKENS + 1
    assert found.cost["tokens"] == one.tokens


def test_a_judge_that_is_unwell_is_asked_again(server, sides, tmp_path):
    server.ills = ["down", "", "down"]
    found = by_judge(*sides, judge(server, tmp_path, at_once=1))
    assert (found.wins, found.ties, found.losses, found.cost["calls"]) == (2, 1, 1, 8)


def test_a_judge_that_times_out_is_said_and_nothing_is_lost(server, sides, tmp_path):
    server.ills = ["", "", *["slow"] * 3]
    slow = judge(server, tmp_path, at_once=1, timeout=0.2, retries=2)
    with pytest.raises(RunFileError, match=r"failed 3 times: no answer within 0.2 s; 2 verdicts"):
        by_judge(*sides, slow)
    after = judge(server, tmp_path)
    by_judge(*sides, after)
    assert after.calls == 4


def test_a_judge_that_never_answers_is_no_verdict(server, sides, tmp_path):
    """A budget that failures took up is not one that was spent on pairs."""
    server.ills = ["down"] * 9
    with pytest.raises(RunFileError, match=r"the judge some-model failed 3 times: .*overloaded"):
        by_judge(*sides, judge(server, tmp_path, calls=3))


def test_a_key_asks_nothing_more(server, sides, tmp_path):
    server.ills = ["slow"] * 9
    one = judge(server, tmp_path, at_once=1)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        by_judge(*sides, one)
    timer.join()
    assert one.calls == 1
    server.ills = []
    found = by_judge(*sides, judge(server, tmp_path))
    assert found.left == 0


def test_a_wrong_key_is_not_tried_twice(server, sides, tmp_path):
    server.ills = ["key"] * 3
    with pytest.raises(RunFileError, match=r"failed 1 times: .*Incorrect API key"):
        by_judge(*sides, judge(server, tmp_path, at_once=1))
    assert len(server.seen) == 1


def test_a_server_with_other_names_for_settings(server, tmp_path):
    strict = Judge("strict", tmp_path / "v.jsonl", Budget(9), base_url=server.url, at_once=1)
    assert strict.verdicts([Question("q", "aa", "b"), Question("q", "a", "bb")]) == [
        "first", "second",
    ]  # fmt: skip
    assert "max_completion_tokens" in server.seen[-1] and strict.calls == 3


def test_a_verdict_that_cannot_be_read_is_left_out(server, sides, tmp_path):
    server.says = lambda a, b: "both" if "b" in a else "A" if len(a) > len(b) else "B"
    found = by_judge(*sides, judge(server, tmp_path))
    assert (found.wins, found.ties, found.losses, found.left) == (2, 1, 0, 1)


def test_a_budget_has_to_be_stated_and_a_key_to_be_there(tmp_path, monkeypatch):
    with pytest.raises(RunFileError, match="set a limit with --max-calls or --max-tokens"):
        Budget()
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(RunFileError, match="set OPENAI_API_KEY"):
        Judge("m", tmp_path / "v.jsonl", Budget(1))


def test_texts_are_not_templates():
    asked = Question("{first}", "{second}", "x").messages()[1]["content"]
    assert "Request:\n{first}" in asked and "Answer A:\n{second}" in asked


def test_by_a_reward(sides):
    found = by_reward(*sides, "reward_help")
    said = [
        descant.score(SPECS["reward_help"], [a["prompt"] for a in side.answers.values()],
                      [a["text"] for a in side.answers.values()])
        for side in sides
    ]  # fmt: skip
    pairs = list(zip(*said, strict=True))
    assert found.wins == sum(a > b for a, b in pairs)
    assert (found.ties, found.losses) == (1, 3 - found.wins)
    assert found.ahead.mean == pytest.approx(sum(a - b for a, b in pairs) / 4)
    first, second = ((sum(own[0]) - sum(own[1])) / 2 for own in (
        list(zip(*pairs[i : i + 2], strict=True)) for i in (0, 2)
    ))  # fmt: skip
    assert found.d_z == pytest.approx((first + second) / 2 / statistics.stdev((first, second)))
    assert found.p == (1.0 if first * second < 0 else 0.5)  # of four ways, two or all are as far


def test_what_cannot_be_compared_is_said(sides, tmp_path):
    ours, _ = sides
    other = folder(tmp_path, "other", ["x"])
    file = tmp_path / "other" / "completions.jsonl"
    file.write_text(file.read_text().replace("Question 0?", "Another?"))
    with pytest.raises(RunFileError, match=r"prompt 0 of .* is another"):
        pairs_of(ours, side_of(other))
    file.write_text(file.read_text().replace('"id": 0', '"id": 9'))
    with pytest.raises(RunFileError, match="no prompt and sample in common"):
        pairs_of(ours, side_of(other))
    with pytest.raises(RunFileError, match="no such point; name one"):
        side_of(other + "#arms:3")
    with pytest.raises(RunFileError, match="holds no run"):
        side_of(str(tmp_path))
    with pytest.raises(RunFileError, match="not both"):
        compared(None, ("a", "b"), "reward_help", "openai:some-model")
    with pytest.raises(RunFileError, match="no score in common; say by what: --by"):
        by_scores(ours.name, side_of(folder(tmp_path, "third", ["x"])).name)
    with pytest.raises(RunFileError, match="write openai:MODEL"):
        compared(None, (other, other), None, "gpt")
    assert (tmp_path / "other" / RESOLVED).is_file()


def test_the_command_shows_and_writes_the_verdict(server, sides, tmp_path, capsys):
    from rich.console import Console

    ours, theirs = sides
    file = tmp_path / "verdict.json"
    compared(
        Console(width=160), (ours.name, theirs.name + "#formula:0"), None, "openai:some-model",
        base_url=server.url, calls=50, output=file,
    )  # fmt: skip
    said = capsys.readouterr().out
    for part in ("0.625", "1 ties", "6 calls, 600 tokens", "tokens/s", "seconds"):
        assert part in said
    assert json.loads(file.read_text())["rate"]["mean"] == 0.625
    assert len(Journal(tmp_path / "ours", "verdicts").records()) == 6
