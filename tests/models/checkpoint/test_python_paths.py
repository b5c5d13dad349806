"""Python code is no model of a run file, and what to write instead is said."""

from __future__ import annotations

import pytest
import yaml

from descant import ModelError
from descant.inputs.runfile import RunFileError, read_run_file
from descant.models import make_spec

CODE = ["rewards.py", "my/rewards.py", "rewards.py:score", "my.module:score", "rewards:score"]
OTHERS = ["org/model", "gpt2", "./folder", "C:\\models\\base", "model.gguf", "org/model:2", "a:b.c"]


@pytest.mark.parametrize("path", CODE)
def test_code_is_refused_by_name(path):
    with pytest.raises(ModelError, match=r"is Python code.*descant\.reward"):
        make_spec("mine", {"path": path})


@pytest.mark.parametrize("path", OTHERS)
def test_what_is_no_code_is_taken(path):
    assert make_spec("mine", {"path": path}).path == path


def test_a_folder_may_be_called_so(tmp_path):
    (tmp_path / "model.py").mkdir()
    assert make_spec("mine", {"path": str(tmp_path / "model.py")}).path


@pytest.mark.parametrize("score", ["rewards.py", "rewards.py:score", {"reward": "my.module:fn"}])
def test_so_is_a_score_of_a_run(tmp_path, score):
    content = {"formula": "base", "models": {"base": "gpt2"}, "score": {"short": score}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content), "utf-8")
    with pytest.raises(RunFileError, match=r"is Python code.*descant\.score\(descant\.reward"):
        read_run_file(tmp_path / "run.yaml")
