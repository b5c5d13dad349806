"""Chat templates are programs of strangers: transformers renders them, here within bounds.

jinja's sandbox keeps a template from what is not its own, and bounds ``range``; it bounds neither
time nor memory. Two things do here. A watch ends what renders for longer than ``SECONDS``, or takes
more than ``MEMORY`` meanwhile. And what no watch can end, since it is one step of the interpreter
(``'x' * 10**10``), is refused before it is done. What is rendered is what transformers renders.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import mmap
import re
import threading
import time
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS, MEMORY = 5.0, 1 << 30
SIZE = 1 << 24  # characters or items that one step may make
BITS = 1 << 16  # of a number
LONGEST = 1 << 25  # characters of what is rendered: what no model reads
_TICK, _IDLE = 0.05, 1.0  # seconds between two looks; without work, until the watch sleeps
_WIDE = re.compile(r"%[^%a-zA-Z]*\d{8}|:[^{}:]*\d{8}|\{[^{}]*:[^{}]*\{|%[^%a-zA-Z]*\*")
_KEPT = ("_compile_jinja_template", "_cached_compile_jinja_template")  # since 5.23, and before
_SIZED = ("center", "indent", "wordwrap", "batch", "slice", "tojson", "replace", "format", "join")


class TooMuch(Exception):
    """A template that takes too long, or too much."""


class _Bounded(ImmutableSandboxedEnvironment):
    """The sandbox of transformers; a step that would make something huge is refused."""

    intercepted_binops = frozenset(("*", "**", "%"))

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.filters = _Filters(self.filters)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            _check_bits(_bits(left) * (abs(right) if isinstance(right, int) else 1))
        elif operator == "*":
            _check_bits(_bits(left) + _bits(right))
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and hasattr(other, "__len__"):
                    _check_size(len(other) * one)
        elif isinstance(left, str):
            _check_format(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(function, "__wrapped__", function)
        if isinstance(text := getattr(method, "__self__", None), str):
            _check_method(text, method.__name__, args, kwargs)
        return super().call(context, function, *args, **kwargs)


class _Filters(dict[str, Any]):
    """Filters; those that pad or repeat look at their arguments first."""

    def __init__(self, filters: dict[str, Any]) -> None:
        super().__init__()
        for name, function in filters.items():
            self[name] = function

    def __setitem__(self, name: str, function: Any) -> None:
        if name in _SIZED:

            @functools.wraps(function)
            def checked(*args: Any, **kwargs: Any) -> Any:
                sized = [arg for arg in (*args, *kwargs.values()) if hasattr(arg, "__len__")]
                if name in ("join", "wordwrap") and len(sized) > 1:
                    _check_size(len(sized[0]) * len(sized[-1]))
                elif name != "join":
                    text = next((arg for arg in sized if isinstance(arg, str)), "")
                    _check_method(text, name, args[1:], kwargs)
                return function(*args, **kwargs)

            super().__setitem__(name, checked)
        else:
            super().__setitem__(name, function)


def _check_method(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name in ("format", "format_map"):
        _check_format(text)
        return
    values = [*args, *kwargs.values()]
    if name == "replace":
        texts = [arg for arg in values if isinstance(arg, str)][-2:]
        if len(texts) == 2:
            _check_size((text.count(texts[0]) + 1) * len(texts[1]))
    elif name == "join" and values and hasattr(values[0], "__len__"):
        _check_size(len(values[0]) * len(text))
    elif name not in ("find", "rfind", "index", "rindex", "count", "startswith", "endswith"):
        for number in values:
            if isinstance(number, int):
                _check_size(number * (text.count("\t") if name == "expandtabs" else 1))


def _check_format(text: str) -> None:
    if _WIDE.search(text[:SIZE]):
        raise SecurityError("it formats with a width that is too large, or computed")


def _check_size(size: int) -> None:
    if size > SIZE:
        raise SecurityError(f"one step of it makes more than {SIZE} characters or items")


def _check_bits(bits: int) -> None:
    if bits > BITS:
        raise SecurityError(f"it computes a number of more than {BITS} bits")


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def rendered(tokenizer: Any, messages: Any, template: str | None = None, **options: Any) -> str:
    """What transformers makes of messages, as ``apply_chat_template``, within the bounds.

    Args:
        tokenizer: of the model.
        messages: a chat.
        template: the text of a chat template; None is the tokenizer's own.
        options: of ``apply_chat_template``.

    Raises:
        TooMuch: it takes too long, or too much memory; a template may raise anything besides.
    """
    template = tokenizer.get_chat_template() if template is None else template
    work = _Work(threading.get_ident())
    try:
        try:
            _WATCH.begin(work)
            _compile_bounded(template)
            text: str = tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, **options
            )
        finally:
            _WATCH.end(work)
    except TooMuch:
        _WATCH.end(work)  # it may have been raised before the end was noted
        raise TooMuch(work.reason) from None
    if len(text) > LONGEST:
        raise TooMuch(f"its template writes more than {LONGEST} characters")
    return text


@functools.lru_cache(maxsize=64)
def _compile_bounded(template: str) -> None:
    """Have transformers compile a template in our environment; it keeps what it has compiled.

    A transformers that compiles in another way leaves the watch alone.
    """
    utils: Any = importlib.import_module("transformers.utils.chat_template_utils")
    compiled = getattr(utils, "_compile_jinja_template", lambda template: None)
    with _COMPILING:
        utils.ImmutableSandboxedEnvironment = _Bounded
        try:
            if not isinstance(getattr(compiled(template), "environment", None), _Bounded):
                for name in _KEPT:  # compiled before, and not by us
                    getattr(getattr(utils, name, None), "cache_clear", lambda: None)()
                compiled(template)
        finally:
            utils.ImmutableSandboxedEnvironment = ImmutableSandboxedEnvironment


class _Work:
    """One rendering, by its thread."""

    def __init__(self, thread: int) -> None:
        self.thread, self.end, self.over = thread, time.monotonic() + SECONDS, False
        self.memory: int | None = None  # of the process, when the watch looked first
        self.reason = ""


class _Watch:
    """A thread that looks at what renders, and raises ``TooMuch`` in the thread of what exceeds."""

    def __init__(self) -> None:
        self._works: dict[int, _Work] = {}
        self._lock, self._awake = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, work: _Work) -> None:
        with self._lock:
            self._works[work.thread] = work
            if self._thread is None or not self._thread.is_alive():  # also after a fork
                self._thread = threading.Thread(target=self._look, daemon=True)
                self._thread.start()
        if not self._awake.is_set():
            self._awake.set()

    def end(self, work: _Work) -> None:
        with self._lock:
            if not work.over:
                work.over = True
                self._works.pop(work.thread, None)
                if work.reason:
                    _raise_in(work.thread, None)  # nothing may come later

    def _look(self) -> None:
        idle = 0.0
        while True:
            self._awake.wait()
            time.sleep(_TICK)
            with self._lock:
                for work in self._works.values():
                    if reason := _exceeded(work):
                        work.reason = reason
                        _raise_in(work.thread, TooMuch)
                idle = 0.0 if self._works else idle + _TICK
                if idle > _IDLE:
                    self._awake.clear()


def _exceeded(work: _Work) -> str:
    memory = _memory()
    work.memory = memory if work.memory is None else min(work.memory, memory)
    if time.monotonic() > work.end:
        return f"its template takes longer than {SECONDS:g} seconds"
    if memory - work.memory > MEMORY:
        return f"its template takes more than {MEMORY >> 20} MB of memory"
    return ""


def _memory() -> int:
    """The memory of the process in bytes: now, or at most so far, or 0, as the system says."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except OSError:
        pass
    try:
        resource: Any = importlib.import_module("resource")
    except ImportError:
        return 0
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread, at its next step; with None, take back one that is to come."""
    raised = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCH, _COMPILING = _Watch(), threading.Lock()
