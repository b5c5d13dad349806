"""What is checked outside of the decode process: as it would be there, and at most for so long."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from servers import Served, listening

import descant
from descant.demo import models
from descant.errors import ArgumentError
from descant.formula import Names
from descant.inputs.runfile import RunFile, validated
from descant.serve.frontend import check_queue
from descant.serve.frontend.check_queue import Checks
from descant.serve.protocol.limits import Limits
from descant.serve.worker.checks import CheckFormula, EncodePrompts
from descant.serve.worker.encoders import EncoderPickles

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
CHAT = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}\n{% endfor %}<|assistant|>\n"
KEYS = ("one", "two")
NAMES = Names(frozenset(("base",)), frozenset("a"))
SLOW = "base*(a+1)" + "*(a+1)" * 180  # to plan
EGGS = "How do I boil eggs?"


@pytest.fixture(scope="module")
def checks() -> Iterator[Checks]:
    made = Checks()
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def run_file() -> RunFile:
    """Models that read prompts in every way, and one whose template never ends."""
    base = models()["base"] | {"template": None}
    specs: dict[str, Any] = {
        "raw": base, "kind": base | {"template": "{system}|{prompt}:", "system": "Be kind."},
        "chat": base | {"template": CHAT}, "begun": base | {"template": CHAT, "prefix": "So: "},
        "ids": base | {"prefix": [4, 204]}, "loops": base | {"template": LOOPS},
        "text": models()["reward_help"] | {"read": "text", "template": "{system} Q: {prompt}\nA: "},
        "reward": models()["reward_harm"] | {"template": "{system}{prompt}"},
    }  # fmt: skip
    formulas = {
        "all": 'raw + kind + 0.5*kind@"{prompt} is text" + 0.2*chat + begun - 0.3*raw@none '
        "| rerank(0.5*text + reward, k=4)",
        "ids": "raw + ids", "loops": "loops", "raw": "raw",
    }  # fmt: skip
    return validated({"formulas": formulas, "models": specs}, "here")


@pytest.fixture(scope="module")
def served(run_file) -> Iterator[Served]:
    limits = Limits(slots=4, max_model_len=128)
    with listening(run_file, limits, keys=KEYS, allow_formulas=True) as server:
        yield server


CHATS = [
    [{"role": "user", "content": EGGS}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " été \n漢字 "}],
]


@pytest.mark.parametrize("name", ["all", "ids"])
def test_every_term_reads_as_in_the_decode_process(checks, run_file, name) -> None:
    bound = descant.compile(run_file.named[name], run_file.models).session.bound
    pickles = EncoderPickles()
    prompts = [EGGS, "a", " two  spaces", "été 漢字 \U0001f95a", "<s>begun</s>", *CHATS]
    expected = [[term.reads(prompt) for term in bound.all_terms] for prompt in prompts]
    for _ in range(2):  # the second finds the tokenizers there
        found = pickles.of(bound.encoders)
        check = EncodePrompts(found.pickled, found.parts, prompts, 128)
        read = asyncio.run(checks.run(check))
        assert [each.readings for each in read] == expected
        assert [each.prompt for each in read] == prompts
        assert found.pickled is not None and len(found.pickled) < 8192
    if sys.platform == "linux":
        assert "libtorch" not in Path(f"/proc/{checks.short.process.pid}/maps").read_text()


def post(served: Served, key: str, path: str, timeout: float = 60, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(served.url + path, json=body, headers=headers, timeout=timeout)


def test_a_template_that_never_ends_is_refused_and_others_go_on(served) -> None:
    answers: list[httpx.Response] = []
    chat = {"model": "loops", "messages": CHATS[0], "max_tokens": 2}
    asking = threading.Thread(
        target=lambda: answers.append(post(served, "one", "/v1/chat/completions", **chat))
    )
    asking.start()
    found = post(served, "two", "/v1/completions", model="raw", prompt="x", max_tokens=4)
    assert found.status_code == 200
    asking.join()
    [answer] = answers
    assert answer.status_code == 400 and "too long" in answer.json()["error"]["message"]
    again = post(served, "one", "/v1/completions", model="raw", prompt="x", max_tokens=4)
    assert again.json()["choices"][0]["text"]


@pytest.mark.parametrize("prompt", ["egg " * 250_000, [{"role": "user", "content": "é" * 99_000}]])
def test_a_prompt_of_a_megabyte_is_refused(served, prompt) -> None:
    chat = isinstance(prompt, list)
    path, field = ("/v1/chat/completions", "messages") if chat else ("/v1/completions", "prompt")
    answer = post(served, "one", path, model="raw" if not chat else "all", **{field: prompt})
    assert answer.status_code == 400 and len(answer.content) < 400
    assert "shorten it" in answer.json()["error"]["message"]


def test_what_is_abandoned_costs_nothing_more(checks) -> None:
    """Checks that nobody waits for are let go, and the one that runs is ended."""

    async def abandoned() -> float:
        many = [checks.run(CheckFormula(SLOW + f"*{i}", NAMES, {"a": 1}, {})) for i in range(20)]
        tasks = [asyncio.ensure_future(each) for each in many]
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert not checks.long._line.waiting
        start = time.perf_counter()
        checked = await checks.run(CheckFormula("base*a", NAMES, {"a": 1}, {}))
        assert [each["name"] for each in checked["params"]] == ["a"]
        return time.perf_counter() - start

    took = asyncio.run(abandoned())
    assert took < 10  # twenty of them would take longer


def test_clients_take_turns(checks) -> None:
    async def two() -> list[str]:
        ended: list[str] = []

        async def one(client: str, number: int) -> None:
            await checks.run(CheckFormula(f"base*{number}", NAMES, {"a": 1}, {}), client)
            ended.append(client)

        first = [asyncio.ensure_future(one("many", i)) for i in range(12)]
        await asyncio.sleep(0)
        await asyncio.gather(*first, one("few", 0))
        return ended

    assert "few" in asyncio.run(two())[:4]


def test_one_that_takes_too_long_is_ended_and_says_so(checks, monkeypatch) -> None:
    monkeypatch.setattr(check_queue, "WALL", 0.0)
    slow = CheckFormula(SLOW, NAMES, {"a": 1}, {})
    with pytest.raises(ArgumentError, match="takes too long"):
        asyncio.run(checks.run(slow))
    monkeypatch.undo()
    assert asyncio.run(checks.run(CheckFormula("base", NAMES, {"a": 1}, {}))) == {"params": []}


def test_many_rows_of_one_client_let_another_in(served) -> None:
    """A search of all slots and many rows run; the row of another client ends before them."""
    search = "raw | reject(reward, target=99, retries=64, samples=4, longest=2)"
    ended: list[str] = []

    def ask(key: str, **body: Any) -> None:
        answer = post(served, key, "/v1/completions", prompt=EGGS, seed=1, **body)
        assert answer.status_code == 200
        ended.append(body["model"])

    bodies = [{"model": search, "max_tokens": 16}, {"model": "raw", "n": 64, "max_tokens": 64}]
    threads = [threading.Thread(target=ask, args=("one",), kwargs=body) for body in bodies]
    for thread in threads:
        thread.start()
    served.wait(lambda: served.metric("descant_num_requests_running") == 4)
    answer = post(served, "two", "/v1/completions", model="all", prompt="x", max_tokens=4)
    assert answer.status_code == 200 and not ended
    for thread in threads:
        thread.join()
    assert len(ended) == 2


def test_a_client_with_too_many_models_is_refused(served) -> None:
    formula = "raw" + " | rerank(reward, k=2)" * 9
    answer = post(served, "one", "/v1/completions", model=formula, prompt="x")
    assert answer.status_code == 400 and "9 reward models" in answer.json()["error"]["message"]
