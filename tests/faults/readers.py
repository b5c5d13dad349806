"""Every reader of a stranger's file: how a good file is made, and how a user reads it.

A new reader joins by a line of ``READERS``.
"""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bad_files import SUSPECT, Reader

import descant
from descant import DescantError

RUN = {
    "formula": "base + a*arm", "models": {"base": {"path": "org/base"}, "arm": "org/arm"},
    "params": {"a": 0.5}, "generate": {"max_new_tokens": 8, "temperature": 1.0, "seed": 0},
    "data": {"path": "prompts.jsonl", "limit": 3}, "sweep": {"a": [0, 0.5]},
    "score": {"good": "arm"}, "prompts": {"child": "You are a child."}, "output": "out",
}  # fmt: skip
TRAIN = {
    "method": "dpo", "model": "org/base", "data": {"path": "pairs.jsonl"}, "beta": 0.1,
    "lora": {"r": 4, "target_modules": ["q_proj"]}, "training": {"learning_rate": 1e-4},
    "output": "out",
}  # fmt: skip
VECTOR = {
    "method": "vector", "model": "org/base", "data": {"path": "pairs.jsonl"}, "layers": [3, 8],
    "direction": "mean", "tokens": "last", "normalize": True, "batch_size": 4, "output": "out",
}  # fmt: skip
ROWS = [{"id": i, "prompt": f"What is {i}, naïve one?"} for i in range(40)]
PAIRS = [{"prompt": "Why?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(20)]
LABELLED = [{"text": f"It is {i}.", "label": i % 2} for i in range(20)]
CHAT = [{"role": "user", "content": "a small stone"}]
IDS = [1, 50, 60]
Make = Callable[[Path], Path]


def file_of(name: str, content: Any) -> Make:
    """A file with this content: bytes, text, or what is written as JSON."""
    if not isinstance(content, bytes):
        text = content if isinstance(content, str) else json.dumps(content)
        content = text.encode()

    def make(folder: Path) -> Path:
        file = folder / name
        file.write_bytes(content)
        return file

    return make


def lines(rows: Iterable[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[Any], sign: str) -> str:
    cells = (sign.join(f'"{value}"' for value in row.values()) for row in rows)
    return "\n".join([sign.join(rows[0]), *cells])


def parquet(compression: str) -> Make:
    def make(folder: Path) -> Path:
        pyarrow = pytest.importorskip("pyarrow", reason="pip install descant[report]")
        from pyarrow import parquet

        file = folder / "a.parquet"
        parquet.write_table(pyarrow.Table.from_pylist(ROWS), file, compression=compression)
        return file

    return make


def items(file: Path) -> Any:
    from descant.inputs.prompts import read_items
    from descant.inputs.runfile import Data

    return [(item.id, item.prompt) for item in read_items(Data(path=str(file)))]


def examples(file: Path) -> Any:
    from descant.train.examples import read_examples
    from descant.train.trainfile import Data

    found, _ = read_examples(Data(path=str(file)), "dpo")
    return [(example.prompt, example.chosen, example.rejected) for example in found]


def run_file(file: Path) -> Any:
    from descant.inputs.runfile import read_run_file

    return read_run_file(file)


def train_file(file: Path) -> Any:
    from descant.train import read_train_file

    return read_train_file("dpo", file)


def vector_train_file(file: Path) -> Any:
    from descant.train import read_train_file

    return read_train_file("vector", file)


def labelled(file: Path) -> Any:
    from descant.train.examples import read_examples
    from descant.train.trainfile import Data

    found, _ = read_examples(Data(path=str(file)), "probe")
    return [(example.chosen, example.label) for example in found]


def prompt(file: Path) -> Any:
    from descant.inputs.prompts import command_line_prompt

    return command_line_prompt(str(file), chat=False)


def vector(name: str) -> Make:
    """A steering vector of two layers, in the format that a name ends with."""

    def make(folder: Path) -> Path:
        if name.endswith(".gguf"):
            pytest.importorskip("gguf", reason="pip install descant[gguf]")
        from descant.models.adapters.vector_files import write_vector

        directions = {1: [0.5, -2.0, 1.0], 3: [4.0, 1.5, -0.25]}
        write_vector(folder / name, directions, {"model_hint": "llama"})
        return folder / name

    return make


def steering(file: Path) -> Any:
    from descant.models.adapters.vector_files import read_vector

    return {layer: tensor.tolist() for layer, tensor in read_vector(SUSPECT, str(file)).items()}


FILES = [
    Reader("a run file", file_of("run.yaml", RUN), run_file, keys=True),
    Reader("a train file", file_of("train.yaml", TRAIN), train_file, keys=True),
    Reader("a prompt", file_of("prompt.json", CHAT), prompt, keys=True),
    Reader("JSONL", file_of("a.jsonl", lines(ROWS)), items, lines=True),
    Reader("JSON", file_of("a.json", ROWS), items),
    Reader("CSV", file_of("a.csv", table(ROWS, ",")), items, lines=True),
    Reader("TSV", file_of("a.tsv", table(ROWS, "\t")), items, lines=True),
    Reader("text", file_of("a.txt", lines(ROWS)), items, lines=True, plain=True),
    Reader("gzip", file_of("a.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)), items,
           text=False),
    Reader("parquet, snappy", parquet("snappy"), items, text=False),
    Reader("parquet, zstd", parquet("zstd"), items, text=False),
    Reader("pairs in JSONL", file_of("a.jsonl", lines(PAIRS)), examples, lines=True),
    Reader("pairs in JSON", file_of("a.json", PAIRS), examples),
    Reader("pairs in CSV", file_of("a.csv", table(PAIRS, ",")), examples, lines=True),
    Reader("a vector's train file", file_of("train.yaml", VECTOR), vector_train_file, keys=True),
    Reader("labelled rows in JSONL", file_of("a.jsonl", lines(LABELLED)), labelled, lines=True),
    Reader("a steering vector", vector("v.safetensors"), steering, text=False),
    Reader("a steering vector in GGUF", vector("v.gguf"), steering, text=False),
]  # fmt: skip


def ids(formula: str, models: Mapping[str, Any], prompt: Any) -> Any:
    decoder = descant.compile(formula, models)
    return decoder.generate(prompt, max_new_tokens=3, progress=False)[0].token_ids


def model_readers(zoo: Any) -> list[Reader]:
    """The readers of checkpoints and adapters; ``zoo`` makes the good ones."""

    def of(model: str, file: str, **shards: Any) -> Make:
        """A file of a checkpoint, which is written in shards where that is wanted."""

        def make(folder: Path) -> Path:
            copy = folder / "model"
            shutil.copytree(zoo.path(model), copy)
            if shards:
                (copy / "model.safetensors").unlink()
                zoo.model(model).save_pretrained(copy, **shards)
            found = sorted(copy.glob(file))
            return found[len(found) // 2]

        return make

    def chat(file: Path) -> Any:
        return ids(SUSPECT, {SUSPECT: str(file.parent)}, CHAT)

    def templated(file: Path) -> Any:
        try:
            return chat(file)
        except DescantError as error:
            if "shorten it" not in str(error):
                raise
            return "rendered"  # to more than this model reads

    def reward(file: Path) -> Any:
        models = {SUSPECT: str(file.parent), "base": zoo.model("base")}
        return ids(f"base | rerank({SUSPECT}, k=2, w=1)", models, IDS)

    def adapter(file: Path, merge: bool) -> Any:
        spec = {"adapter": str(file.parent), "on": "base", "merge": merge}
        return ids(SUSPECT, {"base": {"model": zoo.model("base")}, SUSPECT: spec}, IDS)

    def gguf(folder: Path) -> Path:
        import gguf_files
        from checkpoints import tokenizer

        return gguf_files.write(folder / "m.gguf", zoo.model("base"), tokenizer())

    def gguf_chat(file: Path) -> Any:
        return ids(SUSPECT, {SUSPECT: str(file)}, CHAT)

    rows, merged = partial(adapter, merge=False), partial(adapter, merge=True)
    config, weights = "adapter_config.json", "adapter_model.safetensors"
    shards = {"max_shard_size": "20KB"}
    return [
        Reader("config.json", of("base", "config.json"), chat, keys=True),
        Reader("a reward's config.json", of("rm", "config.json"), reward, keys=True),
        Reader("generation_config.json", of("base", "generation_config.json"), chat, keys=True,
               optional=True),
        Reader("tokenizer.json", of("base", "tokenizer.json"), chat, keys=True),
        Reader("tokenizer_config.json", of("base", "tokenizer_config.json"), chat, keys=True,
               optional=True),
        Reader("chat_template.jinja", of("base", "chat_template.jinja"), templated, lines=True,
               plain=True),
        Reader("safetensors", of("base", "model.safetensors"), chat, text=False),
        Reader("a shard", of("base", "model-*.safetensors", **shards), chat, text=False),
        Reader("the index of shards", of("base", "*.index.json", **shards), chat, keys=True),
        Reader("an adapter's configuration", of("lora4", config), rows, keys=True),
        Reader("an adapter's weights", of("lora4", weights), rows, text=False),
        Reader("a merged adapter's configuration", of("lora4", config), merged, keys=True),
        Reader("a merged adapter's weights", of("lora4", weights), merged, text=False),
        Reader("GGUF", gguf, gguf_chat, text=False),
    ]  # fmt: skip


MODELS = [reader.name for reader in model_readers(None)]
