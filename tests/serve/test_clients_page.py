"""The clients of the page on clients, each as its users have it: what they get is the offline one.

Each library runs in a process of its own, with what the page says and no network.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import pytest
from command_line import command
from doc_pages import ROOT, Page
from servers import ENVIRONMENT, started

import descant
from descant.inputs.runfile import read_run_file

PAGE = Page("docs/clients.md")
WRITTEN = "http://127.0.0.1:8000"  # the address of the page
RUN = "examples/clients.yaml"
END = "\x1e\n"  # of what a block prints
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
    "HTTPS_PROXY": "http://127.0.0.1:9",  # whoever asks elsewhere, fails
    "NO_PROXY": "127.0.0.1",
}
STEP = {
    "type": "object", "required": ["verb", "minutes"], "additionalProperties": False,
    "properties": {"verb": {"enum": ["add", "cut", "heat"]},
                   "minutes": {"type": "integer", "minimum": 1, "maximum": 60}},
}  # fmt: skip
CALLED = "timer {'what': 'bread', 'minutes': 5}\nThe timer for the bread rings in 5 minutes.\n"
EGGS = [{"role": "user", "content": "How do I boil eggs?"}]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    [line] = PAGE.code("sh", "descant serve")
    _, _, file, *options = shlex.split(line)
    assert file == RUN
    with started(*options, file=ROOT / file) as (url, _):
        yield url


@pytest.fixture(scope="module")
def offline() -> Callable[..., Any]:
    """``offline(formula)``: its decoder, without a server."""
    run, made = read_run_file(ROOT / RUN), {}

    def decoder(formula: str) -> Any:
        if formula not in made:
            text = run.named.get(formula, formula)
            made[formula] = descant.compile(text, run.models, params=run.params)
        return made[formula]

    return decoder


@pytest.fixture
def printed(address, tmp_path) -> Callable[[str], list[str]]:
    """``printed(section)``: what its Python prints, block by block, compared with the page."""

    def run(section: str, package: str) -> list[str]:
        pytest.importorskip(package)
        blocks = [block for block in PAGE.blocks("python") if block.title == section]
        assert blocks
        code = f"\nprint({END!r}, end='')\n".join(block.code for block in blocks)
        own = {name: str(tmp_path) for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "HOME")}
        done = subprocess.run(
            [sys.executable, "-c", code.replace(WRITTEN, address)],
            env={**ENVIRONMENT, **OFFLINE, **own, "INSPECT_LOG_DIR": str(tmp_path)},
            cwd=ROOT, capture_output=True, text=True, timeout=150,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        outs = done.stdout.replace(address, WRITTEN).split(END)
        PAGE.compare([*zip(blocks, outs, strict=True)])
        return outs

    return run


@pytest.fixture
def harness(monkeypatch, tmp_path_factory) -> Any:
    """lm-evaluation-harness at the repository's root, without the index of its own tasks.

    Its cache of data sets is thrown away.
    """
    datasets = pytest.importorskip("datasets")
    lm_eval = pytest.importorskip("lm_eval")
    lm_eval.tasks = import_module("lm_eval.tasks")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    tasks = partial(lm_eval.tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", tasks)
    return lm_eval


def evaluated(harness: Any, model: Any, tasks: list[str], **more: Any) -> dict[str, Any]:
    """What the harness says of a model."""
    manager = harness.tasks.TaskManager(include_path="examples/evaluation")
    options = {"task_manager": manager, "bootstrap_iters": 0, **more}
    results: dict[str, Any] = harness.simple_evaluate(model, tasks=tasks, **options)
    return results


def test_lm_evals_commands(harness, address) -> None:
    """They print the tables of the page, whose rows are those of ``descant eval``."""
    from lm_eval.__main__ import cli_evaluate

    printed = []
    for block in (block for block in PAGE.blocks("sh") if block.code.startswith("lm_eval ")):
        words = shlex.split(block.code.replace("\\\n", " ").replace(WRITTEN, address))
        out = io.StringIO()
        with contextlib.redirect_stdout(out), mock.patch.object(sys, "argv", words):
            cli_evaluate()
        printed.append((block, out.getvalue().replace(address, WRITTEN).rstrip() + "\n"))
    PAGE.compare(printed)
    assert len(printed) == 2
    names = ["descant_helpful", "descant_replies"]
    own = command("eval", RUN, "--tasks", *names, "--include_path", "examples/evaluation",
                  "--batch_size", 4, "--model_args", "formula=helpful")  # fmt: skip
    assert own.returncode == 0, own.stderr
    rows = [line for line in own.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 6 and rows == [x for x in printed[0][1].splitlines() if x[0] == "|"]


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "text"])
def test_lm_evals_answers_are_those_of_descant_eval(harness, address, ids) -> None:
    """Each likelihood, and each text, of requests that the server has side by side."""
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    from descant.harness.model import DescantLM

    names = ["descant_helpful", "descant_replies", "descant_steps"] if ids else ["descant_helpful"]
    ours = DescantLM(RUN, formula="helpful", batch_size=8)
    theirs = LocalCompletionsAPI(
        model="helpful", base_url=f"{address}/v1/completions", add_bos_token=True, num_concurrent=3,
        tokenizer="descant/demo/weights/base", tokenized_requests=ids, batch_size=2 if ids else 1,
    )  # fmt: skip
    both = [evaluated(harness, model, names, limit=8) for model in (ours, theirs)]
    if ids:
        names.append("descant_chat")
        chats = LocalChatCompletion(model="helpful", base_url=f"{address}/v1/chat/completions")
        for results, model in zip(both, (ours, chats), strict=True):
            told = evaluated(harness, model, ["descant_chat"], apply_chat_template=True)
            results["samples"] |= told["samples"]
    for name in names:
        pairs = zip(*(results["samples"][name] for results in both), strict=True)
        for one, other in pairs:
            for [expected], [said] in zip(one["resps"], other["resps"], strict=True):
                if isinstance(said, tuple):
                    assert said[0] == pytest.approx(expected[0], abs=1e-4)
                    assert said[1] == expected[1]
                else:
                    assert said == (
                        expected if isinstance(said, str) else pytest.approx(expected, abs=1e-3)
                    )


def test_lm_evals_longest_texts(harness, address, offline) -> None:
    """They fill the window to the last token, and longer ones lose their beginning."""
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    client = LocalCompletionsAPI(
        model="helpful", base_url=f"{address}/v1/completions", max_retries=1, num_concurrent=2,
        tokenizer="descant/demo/weights/base", max_length=512,
    )  # fmt: skip
    ids = client.tok_encode("How do I boil eggs? " * 80)[:600]
    asked = [(None, ids[:500], ids[500:]), (None, ids[:50], ids[50:60])]
    found = client._loglikelihood_tokens(asked)
    kept = ids[-511:]  # and a token that is drawn
    parts = [(kept[:-100], kept[-100:]), (ids[:50], ids[50:60])]
    likely = offline("helpful").loglikelihood(*map(list, zip(*parts, strict=True)))
    for (total, greedy), own in zip(found, likely, strict=True):
        assert total == pytest.approx(own.total, abs=1e-3) and greedy == own.is_greedy


def test_inspect_ai(printed, offline) -> None:
    scores, called = printed("inspect_ai", "inspect_ai")
    with open(ROOT / "examples" / "prompts.jsonl", encoding="utf-8") as file:
        chats = [[{"role": "user", "content": json.loads(line)["prompt"]}] for line in file]
    for line in scores.splitlines():
        name, _, score = line.removeprefix("openai-api/descant/").rpartition(" ")
        answers = offline(name).generate(chats, max_new_tokens=48, progress=False)
        right = sum(any(map(str.isdigit, answer.text)) for answer in answers)
        assert float(score) == right / len(chats)
    assert len(scores.splitlines()) == 3
    assert called == CALLED


def test_litellm(printed, offline) -> None:
    out, call = printed("litellm", "litellm")
    text, logprob, streamed = out.splitlines()
    settings = {"max_new_tokens": 24, "progress": False}
    [one] = offline("helpful").generate(EGGS, params={"a": 1.5}, logprobs=True, **settings)
    assert text == one.text
    assert float(logprob) == pytest.approx(sum(one.logprobs), abs=1e-3)
    assert call == CALLED.splitlines(keepends=True)[0]
    assert streamed == offline("base + 2*arm_help | top_k(20)").generate(EGGS, **settings)[0].text


def test_langchain(printed, offline) -> None:
    out, called = printed("langchain-openai", "langchain_openai")
    texts, decoder = out.splitlines(), offline("helpful")
    settings = {"max_new_tokens": 120, "params": {"a": 1.5}, "progress": False}
    prompts = ["How do I boil eggs?"] * 2 + ["How do I bake bread?", "How do I clean the oven?"]
    for text, prompt in zip(texts[:4], prompts, strict=True):
        chat = [{"role": "user", "content": prompt}]
        assert text == decoder.generate(chat, stop_strings=["."], **settings)[0].text
    *_, verb, minutes = re.split(r"verb='(\w+)' minutes=(\d+)", texts[4])[:3]
    kind = {"json": STEP, "disable_any_whitespace": False}
    [answer] = decoder.generate(EGGS, structured_outputs=kind, **settings)
    assert json.loads(answer.text) == {"verb": verb, "minutes": int(minutes)}
    assert called == CALLED
