"""A request that a model cannot read is refused, and the others go on; a model's window is said."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Served, listening
from transformers import AutoTokenizer

from descant.demo import models as demo
from descant.inputs.runfile import RunFile
from descant.models import ModelSpec
from descant.serve.frontend.server import Server
from descant.serve.protocol.limits import Limits

WORD = "<extra1>"
CHAT = [{"role": "user", "content": f"Hello {WORD}"}]


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Iterator[Served]:
    """A server whose tokenizer has one token more than the embeddings have rows."""
    folder: Path = tmp_path_factory.mktemp("extended") / "base"
    shutil.copytree(demo()["base"]["path"], folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([WORD])
    tokenizer.save_pretrained(folder)
    models = {"base": ModelSpec(path=str(folder))}
    with listening(RunFile(formulas={"base": "base"}, models=models), Limits()) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": f"Hello {WORD}"}),
        ("/v1/completions", {"prompt": ["Hello", f"Hello {WORD}"]}),
        ("/v1/completions", {"prompt": f"Hello {WORD}", "stream": True}),
        ("/v1/completions", {"prompt": [5, 1024]}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/playground/inspect",
         {"prompt": WORD, "params": {}, "seed": 0, "temperature": 0.0, "token_ids": [5]}),
    ],
)  # fmt: skip
def test_a_token_without_an_embedding_is_the_requests_own_error(extended, path, body) -> None:
    refused = extended.post(path, {"model": "base", **body})
    assert refused.status_code == 400, refused.text
    message = refused.json()["error"]["message"]
    assert "1024" in message and (WORD in message or body.get("prompt") == [5, 1024])
    answered = extended.post("/v1/completions", {"model": "base", "prompt": "Hi", "max_tokens": 2})
    assert answered.status_code == 200 and extended.post("/health").status_code != 503


def test_the_window_is_the_models_where_that_is_less(extended) -> None:
    [model] = extended.client().models.list().data
    assert model.max_model_len == 512 < Limits().max_model_len
    assert extended.client().models.retrieve("base").max_model_len == 512


def test_the_window_is_the_servers_where_that_is_less(served) -> None:
    assert {one.max_model_len for one in served.client().models.list().data} == {256}


def test_ends_that_no_formula_has_are_refused_at_the_start(run_file) -> None:
    run = run_file.model_copy(update={"generate": run_file.generate.model_copy()})
    run.generate.eos_token_id = 99999
    server = Server(run)
    with pytest.raises(ValueError, match="eos_token_id is 99999, and the vocabulary has 1024"):
        server.start()
    server.stop()
