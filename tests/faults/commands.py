"""Every command: one that writes has a case here, and the others are said to write nothing.

A case prepares a folder, and runs in it with relative paths, so that cases in different folders are
alike to the last byte but for what a clock said.
"""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

from command_line import command
from sweeps import content

from descant.inputs.yaml import dump_yaml

WRITES_NOTHING = {
    "explain": "it prints; a GGUF file is described as in the case gguf",
    "doctor": "it looks",
    "docs": "it prints; pages for a browser go to a temporary folder",
    "serve": "its state is in memory; a GGUF file is unpacked as in the case gguf",
    "export": "trackers write their own files, and say what they cannot",
    "eval": "lm_eval writes its own results, and warns where it cannot",
}
CLOCKS = {  # keys and columns whose values a clock, a machine or the last start says
    "elapsed", "seconds", "tokens_per_second", "started", "finished", "git", "command", "load",
    "runs", "floor", "copy_bandwidth", "cost", "sha256", "bytes", "train_loss", "train_runtime",
    "train_samples_per_second", "train_steps_per_second", "eval_runtime",
    "eval_samples_per_second", "eval_steps_per_second",
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes:
        command: its name, as registered.
        arguments: with paths relative to the folder that it runs in.
        prepare: puts what it reads into that folder.
        around: what is to be in place in the process that runs it.
        resumes: whether its message says that the same command resumes.
        slow: whether it takes long.
        sample: of its files, one in so many is tried: more where another case's writers are its.
    """

    command: str
    arguments: tuple[str, ...]
    prepare: Callable[[Path], None]
    around: Callable[[Path], Any] | None = None
    resumes: bool = False
    slow: bool = False
    sample: int = 1

    def act(self, folder: Path) -> tuple[int, str, str]:
        """Run it: the exit code, what it printed, and its errors."""
        with (self.around or _nothing)(folder):
            done = command(self.command, *self.arguments, cwd=folder)
        return done.returncode, done.stdout, done.stderr


@contextmanager
def _nothing(folder: Path) -> Iterator[None]:
    yield


TINY = {"max_new_tokens": 3, "temperature": 1.0, "batch_size": 2}


def run_file(folder: Path, **changes: Any) -> None:
    """A run file over the demo models, with two prompts."""
    found = content(folder, **{"generate": TINY, "data": {"path": "prompts.jsonl", "limit": 2},
                               "sweep": None, "front": None, "score": None, **changes})  # fmt: skip
    (folder / "run.yaml").write_text(dump_yaml(found))


MERGING = {
    "formula": "soup",
    "merge": {"soup": "(1-a)*arm_help + a*arm_harm"},
    "sweep": {"a": [0.25, 1]},
    "score": {"help": "reward_help", "harm": "reward_harm"},
    "front": {"preference": "(1-a)*help + a*harm"},
    "tables": {"means": {"rows": "a", "values": ["help"]}},
}


def swept(folder: Path) -> None:
    run_file(folder, **{key: value for key, value in MERGING.items() if key != "tables"})


def finished(folder: Path) -> None:
    """A finished sweep of two formulas, without its pages."""
    run_file(folder, formula=None, formulas={"one": "base", "two": "base + arm_help"},
             score={"help": "reward_help", "harm": "reward_harm"},
             front={"objectives": ["help", "harm"]}, params=None)  # fmt: skip
    done = command("sweep", "run.yaml", "--output", "out", cwd=folder)
    assert done.returncode == 0, done.stderr
    for file in ("report.html", "front.png", "front.pdf"):
        (folder / "out" / file).unlink()


def fitting(folder: Path) -> None:
    rows = [{"prompt": f"How {i}?", "completion": "Take care, and wait."} for i in range(3)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_file(folder, formula="base + a*arm_help", params={"a": 0.2}, data=None,
             fit={"bounds": {"a": [0, 2]}, "data": {"path": "texts.jsonl"}})  # fmt: skip


def two_runs(folder: Path) -> None:
    for name, formula in (("one", "base"), ("two", "base + arm_help")):
        run_file(folder, formula=formula, params=None)
        assert command("run", "run.yaml", "--output", name, cwd=folder).returncode == 0


def training(folder: Path) -> None:
    from checkpoints import llama, tokenizer

    pairs = [
        {"prompt": f"{i}:", "chosen": " the river", "rejected": " a dog"} for i in range(8)
    ]  # fmt: skip
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    import torch

    torch.manual_seed(0)
    llama().save_pretrained(folder / "base")
    tokenizer().save_pretrained(folder / "base")


def trained(method: str, *sets: str) -> tuple[str, ...]:
    sets = ("max_steps=4", "save_steps=2", "use_cpu=true", "disable_tqdm=true", "logging_steps=1",
            "per_device_train_batch_size=4", *sets)  # fmt: skip
    words = (word for one in sets for word in ("--set", one))
    return (method, "--model", "base", "--data", "pairs.jsonl", "--output", "out", *words)


def labelled(folder: Path) -> None:
    training(folder)
    rows = [{"text": f"{i}: {'the river' if i % 2 else 'a dog'}", "label": i % 2} for i in range(9)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def measured(method: str, *sets: str) -> tuple[str, ...]:
    words = (word for one in sets for word in ("--set", one))
    return (method, "--model", "base", "--data", "pairs.jsonl", "--output", "out", *words)


def packed(folder: Path) -> None:
    import gguf_files
    import torch
    from checkpoints import llama, tokenizer

    torch.manual_seed(3)
    gguf_files.write(folder / "m.gguf", llama(), tokenizer(), split=8)
    [first] = folder.glob("*-00001-of-*.gguf")
    run_file(folder, formula="base", models={"base": {"path": first.name}}, params=None,
             generate={"max_new_tokens": 2})  # fmt: skip


@contextmanager
def own_cache(folder: Path) -> Iterator[None]:
    from huggingface_hub import cached_assets_path

    assets = partial(cached_assets_path, assets_dir=folder / "assets")
    with mock.patch("descant.models.checkpoint.gguf.cached_assets_path", assets):
        yield


class _Judge(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        message = {"role": "assistant", "content": "Verdict: A"}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m",
                           "choices": [choice]}).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@cache
def judge() -> str:
    """The address of a judge that always says A."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Judge)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}/v1"


def cases() -> dict[str, Case]:
    """Every case by its name."""
    out = ("run.yaml", "--output", "out")
    return {
        "run": Case("run", (*out, "--format", "alpaca_eval"), run_file, resumes=True),
        "sweep": Case("sweep", (*out, "--format", "hh_rlhf"), swept, resumes=True),
        "gguf": Case("run", out, packed, own_cache, resumes=True),
        "train": Case("train", trained("arm", "lora.r=2"), training, resumes=True),
        "train full": Case("train", trained("sft", "save_total_limit=1"), training, resumes=True,
                           slow=True, sample=2),
        "train reward": Case("train", trained("reward", "lora.r=2", "eval_share=0.3"), training,
                             resumes=True, slow=True, sample=3),
        "train vector": Case("train", measured("vector", "layers=0-1"), training, resumes=True),
        "train probe": Case("train", measured("probe", "layer=1"), labelled, resumes=True),
        "inspect": Case("inspect", ("run.yaml", "How?", "--output", "out"), run_file),
        "report": Case("report", ("out",), finished),
        "methods": Case("methods", ("out", "--output", "methods.md"), finished),
        "fit": Case("fit", out, fitting, resumes=True, sample=3),
        "compare": Case("compare", ("one", "two", "--by", "reward_help", "--output", "v.json"),
                        two_runs, resumes=True),
        "compare judge": Case("compare", ("one", "two", "--judge", "openai:m", "--base-url",
                                          judge(), "--max-calls", "99", "--output", "v.json"),
                              two_runs, resumes=True),
        "bench": Case("bench", ("--shape", "tiny", "--runs", "1", "--max-new-tokens", "2",
                                "--workload", "LoRA arms, rerank", "--output", "b.json"),
                      lambda folder: None),
        "demo": Case("demo", ("--output", "out", "--prompts", "1", "--max-new-tokens", "8"),
                     lambda folder: None, slow=True),
    }  # fmt: skip


def contents(folder: Path) -> dict[str, Any]:
    """What a folder holds, without locks and without what a clock said; every file is whole."""
    return {
        str(file.relative_to(folder)): _content(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".lock" not in file.name and file.parent.name != "digests"
    }


def _content(file: Path) -> Any:
    if file.suffix == ".jsonl":
        data = file.read_bytes()
        assert not data or data.endswith(b"\n"), f"{file} is torn"
        return sorted(json.dumps(_timeless(json.loads(line))) for line in data.splitlines())
    if file.suffix == ".json":
        return _timeless(json.loads(file.read_text(encoding="utf-8")))
    if file.suffix == ".csv":
        rows = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
        return [_timeless(row) for row in rows]
    if file.suffix == ".parquet":
        import pandas

        return [_timeless(row) for row in pandas.read_parquet(file).to_dict("records")]
    if file.suffix == ".html":
        text = file.read_text(encoding="utf-8")
        assert text.rstrip().endswith("</html>"), f"{file} is torn"
        return "a page"
    if file.suffix in (".pt", ".pth", ".bin"):  # pickles in a zip: as tensors they are compared
        import zipfile

        with zipfile.ZipFile(file) as archive:
            assert archive.testzip() is None, f"{file} is torn"
            return sorted(name.partition("/")[2] for name in archive.namelist())
    return file.read_bytes()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in CLOCKS}
    if isinstance(value, list):
        return [_timeless(one) for one in value]
    return repr(value)
