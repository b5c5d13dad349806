"""``descant doctor`` where things are missing: packages, weights, a driver that torch cannot use.

Where a process shows it, they are really missing: another interpreter gets a folder of packages
with some left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
import torch
from command_line import command
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from safetensors.torch import load_file, save_file

from descant import demo
from descant.doctor import packages as installed
from descant.doctor.packages import PYTHON, UNIONS
from descant.doctor.trial import EXPECTED
from descant.extras import ENABLES, PACKAGES, MissingExtra, require

ROOT = Path(__file__).parents[2]
ROOMS = ("descant", "grammar", "formula", "models", "runtime")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SECRET = "hf_thisIsNoTokenAtAll"


def packages(folder: Path, without: tuple[str, ...] = ()) -> Path:
    """A folder with links to every installed package but descant and some."""
    folder.mkdir()
    gone = {part for name in ("descant", *without) for part in parts(name)}
    for site in [Path(place) for place in sys.path if place.endswith("-packages")]:
        for entry in site.iterdir():
            link = folder / entry.name
            if entry.name not in gone and entry.suffix != ".pth" and not link.is_symlink():
                link.symlink_to(entry)
    return folder


def parts(name: str) -> set[str]:
    """What a distribution has put into its folder of packages."""
    try:
        return {file.parts[0] for file in distribution(name).files or ()} - {".."}
    except ModuleNotFoundError:
        return set()


def code(folder: Path) -> Path:
    """A copy of descant, to be damaged."""
    for room in (*ROOMS, "docs"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, folder)
    return folder


def doctor(site: Path, *arguments: str, at: Path = ROOT, **environment: str):
    """The command in an interpreter that knows these packages and no others."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "descant", "doctor", *arguments],
        capture_output=True, text=True, timeout=200, cwd=site,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (at, site))), **environment},
    )  # fmt: skip


def found(done) -> dict[str, dict]:
    assert "Traceback" not in done.stderr, done.stderr
    said = json.loads(done.stdout)
    assert said["works"] == (done.returncode == 0) and said["schema"] == 1
    named = {finding["name"]: finding for finding in said["findings"]}
    assert len(named) == len(said["findings"])
    return named


def test_what_is_missing_has_a_cure_and_no_secret_is_shown(tmp_path):
    site = packages(tmp_path / "site", ("matplotlib", "peft"))
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'A Large GPU, 999.1'\n")
    program.chmod(0o755)
    done = doctor(
        site, "--json", HF_TOKEN=SECRET, HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"),
        HF_ENDPOINT=f"https://me:{SECRET}@localhost", WORLD_SIZE="2", RANK="1",
        PATH=f"{program.parent}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    said = found(done)
    assert done.returncode == 0, done.stdout
    assert said["descant[report]"]["state"] == "missing"
    assert "missing: matplotlib>=3.9" in said["descant[report]"]["said"]
    assert said["descant[report]"]["cure"] == f'pip install -e "{ROOT}[report]"'
    assert said["descant[train]"]["data"]["missing"] == ["peft>=0.17"]
    assert "datasets" in said["descant[train]"]["data"]["installed"]
    assert said["transformers"]["state"] == said["account"]["state"] == "ok"
    assert SECRET not in done.stdout + done.stderr
    assert (
        said["environment"]["data"]["offline"] and "HF_HUB_OFFLINE" in said["environment"]["cure"]
    )
    assert said["cache"]["data"]["folder"] == str(tmp_path / "hf" / "hub")
    unpacked = {"folder": str(tmp_path / "hf/assets/descant/gguf"), "files": 0, "bytes": 0}
    assert said["GGUF files"]["data"] == unpacked
    assert "process 1 of 2" in said["processes"]["said"]
    assert said["torch build"]["data"]["driver"] == {"name": "A Large GPU", "driver": "999.1"}
    if torch.version.cuda is None:
        assert "there is a GPU: install a CUDA build" in said["torch build"]["cure"]
    assert said["trial on cpu"]["data"]["token_ids"] == list(EXPECTED)


def test_a_plain_install_works_and_says_what_it_lacks(tmp_path):
    """Installed, without a checkout: what is required is read from the package's own metadata."""
    optional = {
        Requirement(line).name
        for extra, lines in PROJECT["optional-dependencies"].items() if extra != "all"
        for line in lines
    }  # fmt: skip
    asked = map(Requirement, requires("huggingface_hub") or ())  # httpx, before its version 2
    needed = {one.name for one in asked if "extra" not in str(one.marker)}
    site = packages(tmp_path / "site", tuple(optional - {"descant"} - needed))
    at = code(tmp_path / "code")
    (at / "built").mkdir()
    build = "from setuptools.build_meta import *; prepare_metadata_for_build_wheel('built')"
    command = [sys.executable, "-c", build]
    subprocess.run(command, cwd=at, check=True, capture_output=True, timeout=100)
    shutil.copytree(at / "built", site, dirs_exist_ok=True)
    (at / "pyproject.toml").unlink()
    done = doctor(site, "--json", at=at)
    said = found(done)
    assert done.returncode == 0, done.stdout
    assert {line["name"] for line in said.values() if line["area"] == "packages"} == {
        "Python", "descant", *(Requirement(line).name for line in PROJECT["dependencies"])
    }  # fmt: skip
    extras = {name: line for name, line in said.items() if name.startswith("descant[")}
    declared = {name for name in PROJECT["optional-dependencies"] if name not in UNIONS}
    assert set(extras) == {f"descant[{name}]" for name in declared}
    for name in ("report", "train", "eval", "dev"):
        line = extras[f"descant[{name}]"]
        assert line["state"] == "missing" and not set(line["data"]["installed"]) - needed
        assert line["cure"] == f'pip install "{ROOT}[{name}]"'


def test_what_a_plain_install_needs_is_missing_or_too_old(monkeypatch):
    def version(name: str) -> str:
        if name == "lark":
            raise PackageNotFoundError(name)
        return "4.57.1" if name == "transformers" else installed_version(name)

    installed_version = installed.installed_version
    monkeypatch.setattr(installed, "installed_version", version)
    done = command("doctor", "--json")
    said = found(done)
    assert done.returncode == 1
    assert (said["lark"]["state"], said["lark"]["said"]) == ("broken", "is not installed")
    assert said["lark"]["cure"] == 'pip install "lark>=1.2"'
    assert said["transformers"]["state"] == "broken"
    assert said["transformers"]["said"].startswith("4.57.1, and descant is made for")
    assert said["trial"]["said"].startswith("not tried")
    assert said["typer"]["state"] == "ok"


def test_without_torch_the_rest_is_still_said(tmp_path):
    site = packages(tmp_path / "site", ("torch",))
    shutil.rmtree(site / "torch", ignore_errors=True)
    done = doctor(site)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    for part in ("is not installed", 'pip install "torch>=2.9"', "cannot be looked at", "hub"):
        assert part in done.stdout
    assert "descant does not work here yet" in done.stdout


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_demo_weights_that_are_not_as_they_were(tmp_path, monkeypatch, damage):
    shutil.copytree(demo.WEIGHTS, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(demo, "models", partial(demo.models, tmp_path))
    file = tmp_path / "base/model.safetensors"
    if damage == "gone":
        file.unlink()
    else:
        save_file({name: -tensor for name, tensor in load_file(file).items()}, file)
    done = command("doctor")
    assert done.returncode == 1
    said = " ".join(done.stdout.split())  # however it is wrapped
    assert "failed: " in said
    assert ("missing: base/model.safetensors" in said) == (damage == "gone")
    assert (str(EXPECTED) in said) == (damage == "other")


def test_every_extra_says_what_it_enables():
    optional = PROJECT["optional-dependencies"]
    assert set(ENABLES) == set(optional) - set(UNIONS)
    for extra, modules in PACKAGES.items():
        declared = {Requirement(line).name.replace("-", "_") for line in optional[extra]}
        declared |= {"mlflow"} if "mlflow_skinny" in declared else set()
        assert {module.replace(".", "_") for module in modules} <= declared


def test_what_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "moocore", None)
    with pytest.raises(MissingExtra) as error:
        require("a front", "matplotlib", "moocore")
    assert str(error.value) == f'a front needs moocore: pip install -e "{ROOT}[report]"'


def test_the_page_on_installing_says_what_is_declared():
    page = (ROOT / "docs/installing.md").read_text(encoding="utf-8").replace("`", "")
    for extra, enables in ENABLES.items():
        assert f'| pip install ".[{extra}]" | {enables} |' in page, extra
    needs = {one.name: one for one in map(Requirement, PROJECT["dependencies"])}
    assert needs["torch"].specifier == SpecifierSet(">=2.9") and "torch 2.9 or later" in page
    assert needs["transformers"].specifier == SpecifierSet(">=5.17,<6")
    assert "transformers from 5.17 on, below 6" in page
    assert PROJECT["requires-python"] == ">=3.11" and "Python 3.11 or later" in page
    assert PYTHON == (3, 11)
