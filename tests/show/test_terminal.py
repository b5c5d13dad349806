"""What a model or a user wrote does nothing to a terminal, and is kept as it is in a file."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command_line import command as in_this_process
from rich.table import Table
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from descant.show.terminal import Screen, visible

HOSTILE = "\x1b]0;title\x07\x1b[2J [bold]b[/bold] :smile: \r\b\x9b31m \u202eabc\t."


def screen(terminal: bool) -> tuple[Screen, io.StringIO]:
    file = io.StringIO()
    return Screen(file=file, force_terminal=terminal, width=200, color_system=None), file


def test_what_a_terminal_obeys_is_shown_on_it() -> None:
    found, file = screen(terminal=True)
    found.print(HOSTILE)
    found.write(HOSTILE)
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    found.print(table)
    written = file.getvalue()
    assert not set("\x1b\x07\r\b\x9b\u202e") & set(written)
    assert (
        written.count(r"\x1b]0;title\x07\x1b[2J [bold]b[/bold] :smile: \r\x08\x9b31m \u202eabc")
        == 5
    )


def test_a_file_gets_the_text_as_it_is() -> None:
    found, file = screen(terminal=False)
    found.write(HOSTILE)
    assert file.getvalue() == HOSTILE + "\n"


@pytest.mark.parametrize(
    "text", ["plain", "zwj 👩‍👩‍👧", "é\u0301 ü 中文 עברית", "two\nlines\tand a tab"]
)
def test_other_text_is_shown_as_it_is(text) -> None:
    assert visible(text) == text


def wicked(folder: Path) -> Path:
    """A run file whose model can write nothing but what a terminal obeys."""
    words = ["<unk>", "hello", "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "\u202e"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    file = folder / "run.yaml"
    run = {"formula": "m", "models": {"m": str(folder)}, "generate": {"max_new_tokens": 24}}
    file.write_text(json.dumps(run), encoding="utf-8")
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_run_and_inspect_on_a_real_terminal_and_into_a_file(tmp_path) -> None:
    file = wicked(tmp_path)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm"}
    run = [sys.executable, "-m", "descant", "run", str(file), "--prompt", "hello"]
    inspect = [*run[:3], "inspect", str(file), "hello", "--output", str(tmp_path / "out")]
    for command in ([*run, "--prompt", "hello \x1b[2J [/x]"], inspect):
        process = subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment)
        written = b""
        while process.poll() is None or select.select([ours], [], [], 0.1)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                written += os.read(ours, 65536)
        assert process.returncode == 0
        assert not any(mark in written for mark in (b"\x1b]0", b"\x1b[2J", "\u202e".encode()))
        assert rb"\x1b[2J" in written
    os.close(theirs)
    os.close(ours)
    piped = in_this_process(*run[3:]).stdout  # no terminal
    assert "\x1b[2J" in piped
    assert "\\x1b" not in piped
