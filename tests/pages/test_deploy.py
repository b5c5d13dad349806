"""The files of examples/deploy: what their own tools say of them, and that they name what is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from descant.serve.frontend.metrics import Metrics

FOLDER = Path(__file__).parents[2] / "examples" / "deploy"
BIN = Path(sys.executable).parent


def run(tool: str, *arguments: str) -> str:
    path = shutil.which(tool, path=str(BIN))
    if path is None:
        pytest.skip(f"{tool} is not installed")
    found = subprocess.run([path, *arguments], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout + found.stderr


def test_the_dockerfile_is_as_its_linter_wants() -> None:
    run("hadolint", str(FOLDER / "Dockerfile"))


def test_what_the_images_install_is_there() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    extras = {name for found in re.findall(r'"\.\[([\w,]+)\]"', text) for name in found.split(",")}
    pyproject = (FOLDER.parents[1] / "pyproject.toml").read_text()
    assert extras and all(f"\n{extra} = [" in pyproject for extra in extras)
    [torch] = set(re.findall(r"torch==[\d.]+", text))
    assert torch in (FOLDER.parents[1] / "constraints.txt").read_text()


def test_the_compose_file_is_one() -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(FOLDER / "compose.yaml"))
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source == "models" or (FOLDER / source).is_file()


def test_the_manifest_is_kubernetes() -> None:
    run("kubernetes-validate", "--strict", str(FOLDER / "kubernetes.yaml"))


def test_options_are_those_of_serve_and_time_is_enough() -> None:
    from typer.main import get_command

    from descant.cli import app

    known = {name for each in get_command(app).commands["serve"].params for name in each.opts}
    documents = [*yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())]
    [pod] = [each["spec"]["template"]["spec"] for each in documents if each["kind"] == "Deployment"]
    arguments = pod["containers"][0]["args"]
    said = [each for each in arguments if str(each).startswith("--")]
    assert {*said} <= known
    shutdown = int(arguments[arguments.index("--shutdown-timeout") + 1])
    assert pod["terminationGracePeriodSeconds"] > shutdown + 5


def test_the_run_file_of_the_manifest_is_read(tmp_path) -> None:
    from descant.inputs.runfile import read_run_file

    documents = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    [config] = [each for each in documents if each["kind"] == "ConfigMap"]
    (tmp_path / "run.yaml").write_text(config["data"]["run.yaml"])
    assert [*read_run_file(tmp_path / "run.yaml").named] == ["helpful"]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    text = Metrics(1).text().decode()
    known = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    panels = json.loads((FOLDER / "grafana" / "descant.json").read_text())["panels"]
    expressions = [target["expr"] for panel in panels for target in panel["targets"]]
    asked = {name for each in expressions for name in re.findall(r"descant_\w+", each)}
    assert {name.removesuffix("_bucket") for name in asked} <= known
    assert len(asked) >= 12
