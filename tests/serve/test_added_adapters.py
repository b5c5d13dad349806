"""Adapters that clients load while the server runs: what they say is what they say offline."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from servers import listening

import descant
from descant.inputs.runfile import RunFile
from descant.models.adapters.vector_files import write_vector
from descant.serve.protocol.limits import Limits

PROMPT = {"prompt": "the quick brown", "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def run(zoo) -> RunFile:
    models = {"base": {"path": zoo.path("base")}, "arm": {"path": zoo.path("arm")}}
    return RunFile.model_validate({"formula": "base + arm", "models": models})


@pytest.fixture(scope="module")
def client(zoo, run, tmp_path_factory) -> Any:
    folder = tmp_path_factory.mktemp("adapters")
    write_vector(folder / "calm.safetensors", {1: 5 * torch.ones(32)})
    (folder / "broken").mkdir()
    (folder / "broken" / "adapter_config.json").write_text("{}")
    folders = str(folder), str(Path(zoo.adapter("lora4")["adapter"]).parent)
    limits = Limits(slots=4, max_model_len=128, runtime_lora_dirs=folders)
    with listening(run, limits, allow_formulas=True) as served:
        yield httpx.Client(base_url=served.url, timeout=120)


def load(client: Any, name: str, path: str, base: str | None = "base") -> httpx.Response:
    body = {"lora_name": name, "lora_path": path, "base_model_name": base}
    return client.post("/v1/load_lora_adapter", json=body)


def unload(client: Any, name: str) -> httpx.Response:
    return client.post("/v1/unload_lora_adapter", json={"lora_name": name})


def text(client: Any, model: str) -> str:
    response = client.post("/v1/completions", json={"model": model, **PROMPT})
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


def offline(run: RunFile, formula: str, **models: Any) -> str:
    decoder = descant.compile(formula, {**run.models, **models})
    return decoder.generate(PROMPT["prompt"], max_new_tokens=12)[0].text


def test_an_adapter_comes_is_named_in_formulas_and_goes(client, run, zoo) -> None:
    before, adapter = text(client, "formula"), zoo.adapter("lora4")
    response = load(client, "lora4", Path(adapter["adapter"]).name)
    assert (response.status_code, response.text) == (
        200, "Success: LoRA adapter 'lora4' added successfully."
    )  # fmt: skip
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["formula", "lora4"]
    assert text(client, "lora4") == offline(run, "lora4", lora4=adapter)
    combined = "base + 2*lora4 - base[0.5*lora4]"
    assert text(client, combined) == offline(run, combined, lora4=adapter)
    assert text(client, "formula") == before
    twice = load(client, "lora4", Path(adapter["adapter"]).name)
    assert twice.status_code == 400 and "already" in twice.text
    assert unload(client, "lora4").text == "Success: LoRA adapter 'lora4' removed successfully."
    for model in ("lora4", combined):
        response = client.post("/v1/completions", json={"model": model, **PROMPT})
        assert response.status_code in (400, 404) and "lora4" in response.text
    assert unload(client, "lora4").status_code == 404
    assert text(client, "formula") == before


def test_a_vector_is_told_by_its_file_and_one_of_a_name_may_be_another(client, run) -> None:
    assert load(client, "mood", "calm.safetensors").status_code == 200
    calm = {"vector": {1: 5 * torch.ones(32)}, "on": "base"}
    assert text(client, "mood") == offline(run, "mood", mood=calm)
    assert unload(client, "mood").status_code == 200
    assert load(client, "mood", "calm.safetensors", "arm").status_code == 200
    assert text(client, "mood") == offline(run, "mood", mood={**calm, "on": "arm"})
    assert unload(client, "mood").status_code == 200


def test_one_that_is_needed_stays_until_its_requests_end(client) -> None:
    assert load(client, "held", "calm.safetensors").status_code == 200
    body = {"model": "held", **PROMPT, "max_tokens": 100, "stream": True}
    begun, go_on = threading.Event(), threading.Event()

    def read() -> None:
        with client.stream("POST", "/v1/completions", json=body) as response:
            for _ in response.iter_lines():
                begun.set()
                go_on.wait(60)

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    statuses = [unload(client, "held").status_code]
    go_on.set()
    reader.join()
    while statuses[-1] == 409 and len(statuses) < 200:  # its slot is free a moment later
        time.sleep(0.05)
        statuses.append(unload(client, "held").status_code)
    assert statuses[-1] == 200


@pytest.mark.parametrize(
    ("name", "path", "base", "why"),
    [
        ("x", "../../etc", "base", "nothing is there"),
        ("x", "/etc/hostname", "base", "nothing is there"),
        ("x", "nowhere", "base", "nothing is there"),
        ("x", "broken", "base", "lora"),
        ("x", "calm.safetensors", None, "base_model_name is one of base, arm"),
        ("x", "calm.safetensors", "nobody", "there is no 'nobody'"),
        ("step", "calm.safetensors", "base", "built-in"),
        ("a b", "calm.safetensors", "base", "cannot be written"),
        ("base", "calm.safetensors", "base", "already"),
    ],
)  # fmt: skip
def test_wrong_ones_are_refused_and_nothing_is_left(client, name, path, base, why) -> None:
    response = load(client, name, path, base)
    assert response.status_code == 400 and why.lower() in response.text.lower(), response.text
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["formula"]


def test_nobody_loads_where_no_folder_is_allowed(served) -> None:
    with httpx.Client(base_url=served.url) as client:
        assert load(client, "x", "calm.safetensors").status_code == 403
        assert unload(client, "x").status_code == 403
