"""One writer per output: a second process is refused, and one that is killed holds nothing."""

from __future__ import annotations

import errno
import json
import logging
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import command
from sweeps import ROOT, lines, written

from descant.inputs.runfile import RunFileError
from descant.results.lock import PAGES, check_free, is_lock, lock_of, writing

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}
LONG = {"max_new_tokens": 60, "temperature": 1.0, "batch_size": 1, "num_return_sequences": 2}


def wait(condition: Callable[[], bool], process: Any = None) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def started(*arguments: Any) -> subprocess.Popen[str]:
    """A command in a process of its own."""
    words = [sys.executable, "-m", "descant", *map(str, arguments)]
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )


def refused(found: Any, process: subprocess.Popen[str], output: Path) -> None:
    """Check that a command was told whose the output is."""
    assert found.returncode == 2, found.stderr
    holder = f"process {process.pid} on {socket.gethostname()}, since 20"
    assert f"another process writes to {output}: {holder}" in found.stderr
    assert "wait for its end, or give another output" in found.stderr


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_second_process_is_refused_until_the_first_is_killed(name, tmp_path) -> None:
    only = {"sweep": None, "front": None, "score": None}
    file, out = written(tmp_path, **only, generate=LONG), tmp_path / "out"
    arguments = name, file, "--output", out
    first = started(*arguments)
    journal = out / "completions.jsonl"
    wait(lambda: journal.exists() and journal.stat().st_size > 0, first)
    first.send_signal(signal.SIGSTOP)  # it writes nothing while the second one tries
    before = journal.read_bytes()
    refused(command(*arguments), first, out)
    assert journal.read_bytes() == before
    first.kill()
    first.wait()
    assert (out / ".lock.holder").exists(), "the killed process could tidy nothing up"
    found = command(*arguments)
    assert found.returncode == 0, found.stderr
    keys = [(line["id"], line["sample"]) for line in lines(out)]
    assert keys == [(row, sample) for row in range(4) for sample in range(2)]
    assert not (out / ".lock.holder").exists()


def test_two_trainings_of_one_folder(zoo, tmp_path) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "arm"
    pairs = [{"prompt": f"{i}:", "chosen": " the river", "rejected": " a dog"} for i in range(8)]
    data.write_text("".join(json.dumps(row) + "\n" for row in pairs), "utf-8")
    sets = ["use_cpu=true", "disable_tqdm=true", "lora.r=2", "max_steps={}"]
    words = [part for one in sets for part in ("--set", one)]
    arguments = ["train", "arm", "--model", zoo.path("base"), "--data", data, "--output", out]
    first = started(*arguments, *[word.format(100_000) for word in words])
    wait((out / "train.yaml").exists, first)
    refused(command(*arguments, *[word.format(2) for word in words]), first, out)
    first.kill()
    first.wait()
    found = command(*arguments, *[word.format(2) for word in words])
    assert found.returncode == 0, found.stderr
    assert (out / "training.json").exists()


def held(output: Path, ready: Any) -> None:
    with writing(output):
        ready.set()
        time.sleep(60)


def test_a_rank_that_lives_on_holds_its_own_lines(tmp_path) -> None:
    """Of several processes that share a folder the first may be killed, and another go on."""
    from sweeps import run_of

    from descant.sweep import sweep

    run, out = run_of(tmp_path, score=None, front=None, sweep=None), tmp_path / "out"
    out.mkdir()
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    rank = context.Process(target=held, args=(out / "completions.1.jsonl", ready))
    rank.start()
    assert ready.wait(60)
    with pytest.raises(RunFileError, match=rf"completions.1.jsonl: process {rank.pid} on "):
        sweep(run, out)
    rank.kill()
    rank.join()
    assert sweep(run, out)


def test_a_file_and_a_folder_have_locks_of_their_own(tmp_path) -> None:
    folder, file = tmp_path, tmp_path / "verdicts.jsonl"
    with writing(folder), writing(file), writing(folder / PAGES):
        for output in (folder, file, folder / PAGES):
            with pytest.raises(RunFileError, match=f"process {os.getpid()} on"):
                check_free(output)
    for output in (folder, file, folder / PAGES):
        check_free(output)
        assert lock_of(output).name in (".lock", ".verdicts.jsonl.lock", ".pages.lock")
    assert all(map(is_lock, folder.iterdir()))
    assert not any(map(is_lock, [folder / "lock", folder / "a.lock", folder / ".locked"]))


def test_a_short_write_waits_for_another(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    other = context.Process(target=held, args=(tmp_path / PAGES, ready))
    other.start()
    assert ready.wait(60)
    with pytest.raises(RunFileError, match="another process writes to"), writing(tmp_path / PAGES):
        pass
    other.kill()
    with writing(tmp_path / PAGES, wait=30):
        pass
    other.join()


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_file_system_without_locks_is_said(code, tmp_path, monkeypatch, caplog) -> None:
    import fcntl

    def flock(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), writing(tmp_path):
        assert f"{tmp_path} is on a file system without locks" in caplog.text
        with writing(tmp_path):  # nothing is held, and nothing stays behind that would hold it
            pass
