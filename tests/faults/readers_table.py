"""The table of readers of strangers' files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from bad_files import Reader

import descant
from descant.inputs.prompts import command_line_prompt, read_items
from descant.inputs.runfile import Data, read_run_file
from descant.train.examples import read_examples
from descant.train.trainfile import Data as TrainData
from descant.train.trainfile import read_train_file

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
ROWS = [{"id": i, "prompt": f"What is {i}, naïve one?"} for i in range(40)]
PAIRS = [{"prompt": "Why?", "chosen": f"Because {i}.", "rejected": "No."} for i in range(20)]


def written(name: str, content: bytes | str) -> Any:
    def make(folder: Path) -> Path:
        file = folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    return make


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def table(rows: list[Any], sign: str) -> str:
    return "\n".join([sign.join(rows[0]), *(sign.join(f'"{v}"' for v in r.values()) for r in rows)])


def parquet(rows: list[Any], compression: str) -> Any:
    def make(folder: Path) -> Path:
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, folder / "a.parquet", compression=compression)
        return folder / "a.parquet"

    return make


def items(file: Path) -> Any:
    return [(item.id, item.prompt) for item in read_items(Data(path=str(file)))]


def examples(file: Path) -> Any:
    return [
        (e.prompt, e.chosen, e.rejected) for e in read_examples(TrainData(path=str(file)), "dpo")[0]
    ]


READERS = [
    Reader("run file", written("run.yaml", json.dumps(RUN)), read_run_file, keys=True),
    Reader(
        "train file",
        written("train.yaml", json.dumps(TRAIN)),
        lambda f: read_train_file("dpo", f),
        keys=True,
    ),
    Reader("JSONL", written("a.jsonl", lines(ROWS)), items, knows_its_end=False),
    Reader("JSON", written("a.json", json.dumps(ROWS)), items),
    Reader("CSV", written("a.csv", table(ROWS, ",")), items, knows_its_end=False),
    Reader("TSV", written("a.tsv", table(ROWS, "\t")), items, knows_its_end=False),
    Reader("text", written("a.txt", lines(ROWS)), items, knows_its_end=False),
    Reader(
        "gzip",
        written("a.jsonl.gz", gzip.compress(lines(ROWS).encode(), mtime=0)),
        items,
        text=False,
    ),
    Reader("parquet, snappy", parquet(ROWS, "snappy"), items, text=False),
    Reader("parquet, zstd", parquet(ROWS, "zstd"), items, text=False),
    Reader(
        "prompt",
        written("p.json", json.dumps([{"role": "user", "content": "Why?"}])),
        lambda f: command_line_prompt(str(f), False),
        keys=True,
    ),
    Reader("pairs, JSONL", written("a.jsonl", lines(PAIRS)), examples, knows_its_end=False),
    Reader("pairs, JSON", written("a.json", json.dumps(PAIRS)), examples),
    Reader("pairs, CSV", written("a.csv", table(PAIRS, ",")), examples, knows_its_end=False),
]


ZOO = None


def zoo() -> Any:
    global ZOO
    if ZOO is None:
        import tempfile

        from checkpoints import Checkpoints

        ZOO = Checkpoints(Path(tempfile.mkdtemp()))
    return ZOO


def in_checkpoint(name: str, of: str = "base", **options: Any) -> Any:
    def make(folder: Path) -> Path:
        import shutil

        shutil.copytree(zoo().path(of), folder / "m")
        if options:
            from checkpoints import fresh

            (folder / "m" / "model.safetensors").unlink()
            fresh(zoo().path(of)).save_pretrained(folder / "m", **options)
        found = sorted((folder / "m").glob(name))
        return found[len(found) // 2]

    return make


CHAT = [{"role": "user", "content": "a small stone"}]


def answer(file: Path) -> Any:
    decoder = descant.compile("m", {"m": str(file.parent)})
    return decoder.generate(CHAT, max_new_tokens=3, progress=False)[0].token_ids


def rewarded(file: Path) -> Any:
    decoder = descant.compile(
        "b | rerank(m, k=2, w=1)", {"m": str(file.parent), "b": zoo().model("base")}
    )
    return decoder.generate([1, 50, 60], max_new_tokens=2, progress=False)[0].token_ids


def with_adapter(merge: bool) -> Any:
    def read(file: Path) -> Any:
        models = {
            "b": {"model": zoo().model("base")},
            "m": {"adapter": str(file.parent), "on": "b", "merge": merge},
        }
        decoder = descant.compile("m", models)
        return decoder.generate([1, 50, 60], max_new_tokens=3, progress=False)[0].token_ids

    return read


def gguf(folder: Path) -> Path:
    import gguf_files
    import torch
    from checkpoints import llama, tokenizer

    torch.manual_seed(5)
    return gguf_files.write(folder / "m.gguf", llama().eval(), tokenizer())


def gguf_answer(file: Path) -> Any:
    decoder = descant.compile("m", {"m": str(file)})
    return decoder.generate(CHAT, max_new_tokens=3, progress=False)[0].token_ids


READERS += [
    Reader("config.json", in_checkpoint("config.json"), answer, keys=True),
    Reader("reward's config.json", in_checkpoint("config.json", "rm"), rewarded, keys=True),
    Reader(
        "generation_config.json",
        in_checkpoint("generation_config.json"),
        answer,
        keys=True,
        optional=True,
    ),
    Reader("tokenizer.json", in_checkpoint("tokenizer.json"), answer, keys=True),
    Reader("tokenizer_config.json", in_checkpoint("tokenizer_config.json"), answer, keys=True),
    Reader(
        "chat_template.jinja",
        in_checkpoint("chat_template.jinja"),
        answer,
        optional=True,
        knows_its_end=False,
    ),
    Reader("safetensors", in_checkpoint("model.safetensors"), answer, text=False),
    Reader(
        "a shard", in_checkpoint("model-*.safetensors", max_shard_size="20KB"), answer, text=False
    ),
    Reader(
        "index",
        in_checkpoint("model.safetensors.index.json", max_shard_size="20KB"),
        answer,
        keys=True,
    ),
    Reader(
        "adapter_config.json",
        in_checkpoint("adapter_config.json", "lora4"),
        with_adapter(False),
        keys=True,
    ),
    Reader(
        "adapter's weights",
        in_checkpoint("adapter_model.safetensors", "lora4"),
        with_adapter(False),
        text=False,
    ),
    Reader(
        "merged adapter_config.json",
        in_checkpoint("adapter_config.json", "lora4"),
        with_adapter(True),
        keys=True,
    ),
    Reader(
        "merged adapter's weights",
        in_checkpoint("adapter_model.safetensors", "lora4"),
        with_adapter(True),
        text=False,
    ),
    Reader("GGUF", gguf, gguf_answer, text=False),
]
