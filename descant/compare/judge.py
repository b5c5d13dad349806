"""A judge: a language model behind an OpenAI-compatible server that picks the better answer.

Verdicts are cached in a file; a budget of calls and tokens is never exceeded, whatever the server
does. It knows nothing of runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from ..disk import make_folder, resumable, sync
from ..extras import require
from ..inputs.runfile import RunFileError
from ..results.folder import Journal

FIRST, SECOND, TIE, UNREADABLE = "first", "second", "tie", "unreadable"
SYSTEM = (
    "You compare two answers to one request. Judge how well each does what is asked: whether it is "
    "helpful, correct, clear and safe. Its length and its place count for nothing. Give one or two "
    "sentences of reasons, and end with one line: 'Verdict: A', 'Verdict: B', or 'Verdict: tie'."
)
ASK = "Request:\n{prompt}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}"
_VERDICT = re.compile(r"verdict\W*\b(A|B|tie)\b", re.IGNORECASE)
_MEANS = {"a": FIRST, "b": SECOND, "tie": TIE}
_FIELDS = {"key": (str,), "verdict": (str,)}  # of every line of a cache
_OVERHEAD = 64  # tokens that a chat template may add


@dataclass(frozen=True)
class Budget:
    """What may be spent: calls, and tokens sent and received; None is no limit."""

    calls: int | None = None
    tokens: int | None = None

    def __post_init__(self) -> None:
        if self.calls is None and self.tokens is None:
            raise RunFileError("a judge costs money: set a limit with --max-calls or --max-tokens")


@dataclass(frozen=True)
class Question:
    """Two answers to one request, in the judge's order."""

    prompt: str
    first: str
    second: str

    def messages(self) -> list[dict[str, str]]:
        """The judge's prompt."""
        text = ASK.format(prompt=self.prompt, first=self.first, second=self.second)
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


@dataclass
class Judge:
    """A model of an OpenAI-compatible server.

    Attributes:
        model: its name there.
        cache: a ``.jsonl`` file that keeps the verdicts.
        budget: of this judge in all.
        base_url: of the server; left out, OpenAI's. The key is ``OPENAI_API_KEY``'s; a local server
            needs none.
        answer: tokens that an answer may have.
        retries: of a call that the server fails; each counts.
        timeout: seconds for one call.
        at_once: concurrent calls.
        pause: seconds before the first retry; doubled for each one after it.
        calls: made so far; ``tokens``: that they took, or at most took where one failed.
    """

    model: str
    cache: Path
    budget: Budget
    _: KW_ONLY
    base_url: str | None = None
    answer: int = 256
    retries: int = 3
    timeout: float = 60.0
    at_once: int = 4
    pause: float = 0.5

    def __post_init__(self) -> None:
        self.calls, self.tokens, self._reserved = 0, 0, 0
        require("a judge", "openai")
        import openai

        key = os.environ.get("OPENAI_API_KEY") or ("none" if self.base_url else None)
        if key is None:
            raise RunFileError("the judge needs a key: set OPENAI_API_KEY, or give --base-url")
        self._client: Any = openai.OpenAI(
            api_key=key, base_url=self.base_url, timeout=self.timeout, max_retries=0
        )
        self._settings: dict[str, Any] = {"max_tokens": self.answer, "temperature": 0.0}
        self._lock = threading.Lock()
        self._failed: Exception | None = None  # the last failure of the server
        make_folder(self.cache.parent)
        self._journal = Journal(self.cache.parent, self.cache.stem, fields=_FIELDS)
        self._journal.gather(lambda line: line["key"])
        lines = self._journal.records()
        self._known: dict[str, str] = {line["key"]: line["verdict"] for line in lines}

    def verdicts(
        self, questions: Sequence[Question], tell: Callable[[], None] = lambda: None
    ) -> list[str | None]:
        """The verdict on each question; None where the budget is spent.

        ``tell`` is called after each question.

        Raises:
            RunFileError: the judge does not answer; the verdicts until then are kept.
        """
        stop = threading.Event()

        def ask(question: Question) -> str | None:
            if stop.is_set():
                return None
            try:
                return self._verdict(question, stop)
            except BaseException:
                stop.set()
                raise
            finally:
                tell()

        with resumable(), ThreadPoolExecutor(self.at_once) as pool:
            try:
                verdicts = list(pool.map(ask, questions))
            except BaseException:  # an interrupt, too: no further calls
                stop.set()
                raise
        sync(self._journal.file)
        if self._failed is not None and questions and not any(verdicts):
            raise self._error(self._failed, self.calls)  # failures spent the budget
        return verdicts

    def _verdict(self, question: Question, stop: threading.Event) -> str | None:
        messages = question.messages()
        request = json.dumps([self.base_url, self.model, self.answer, messages], ensure_ascii=False)
        key = hashlib.blake2b(request.encode(), digest_size=16).hexdigest()
        with self._lock:
            if key in self._known:
                return self._known[key]
        answer = self._complete(messages, stop)
        if answer is None:
            return None
        text, used = answer
        verdicts = _VERDICT.findall(text)
        verdict = _MEANS[verdicts[-1].lower()] if verdicts else UNREADABLE
        line = {"key": key, "model": self.model, "verdict": verdict, "tokens": used, "said": text}
        with self._lock:
            self._known[key] = verdict
            self._journal.add([line])
        return verdict

    def _complete(
        self, messages: list[dict[str, str]], stop: threading.Event
    ) -> tuple[str, int] | None:
        """The judge's answer, and the tokens that it took; None where the budget is spent."""
        import openai

        most = sum(len(m["content"].encode()) for m in messages) + _OVERHEAD + self.answer
        failures = 0
        while True:
            if not self._reserve(most):
                return None
            settings, used = dict(self._settings), most
            try:
                answer = self._client.chat.completions.create(
                    model=self.model, messages=messages, **settings
                )
                used = answer.usage.total_tokens if answer.usage else most
                return answer.choices[0].message.content or "", used
            except openai.BadRequestError as error:
                if not self._adapted(str(error), settings):
                    raise self._error(error, 1) from error
            except (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError,
                    openai.APIResponseValidationError) as error:  # fmt: skip
                failures += 1
                self._failed = error
                if failures > self.retries or stop.is_set():
                    raise self._error(error, failures) from error
                stop.wait(self.pause * 2 ** (failures - 1))
            except openai.OpenAIError as error:
                raise self._error(error, failures + 1) from error
            finally:
                with self._lock:
                    self._reserved -= most
                    self.tokens += used

    def _adapted(self, message: str, settings: dict[str, Any]) -> bool:
        """Whether the refused setting could be renamed or dropped."""
        with self._lock:
            if self._settings != settings:
                return True  # another call has done it
            if "max_completion_tokens" in message and "max_tokens" in self._settings:
                self._settings["max_completion_tokens"] = self._settings.pop("max_tokens")
                return True
            return "temperature" in message and self._settings.pop("temperature", None) is not None

    def _reserve(self, tokens: int) -> bool:
        """Reserve a call and the most tokens that it can cost, if the budget allows."""
        with self._lock:
            budget = self.budget
            if budget.calls is not None and self.calls + 1 > budget.calls:
                return False
            if budget.tokens is not None and self.tokens + self._reserved + tokens > budget.tokens:
                return False
            self.calls += 1
            self._reserved += tokens
            return True

    def _error(self, error: Exception, times: int) -> RunFileError:
        timed_out = type(error).__name__ == "APITimeoutError"
        reason = str(error).splitlines()[0]
        reason = f"no answer within {self.timeout:g} s" if timed_out else reason
        return RunFileError(
            f"the judge {self.model} failed {times} times: {reason}; {len(self._known)} verdicts "
            f"are kept in {self._journal.file}, and the same command resumes there"
        )
