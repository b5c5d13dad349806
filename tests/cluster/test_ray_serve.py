"""The example of a deployment on Ray Serve: two replicas answer as the formula does."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweeps import ROOT, SPECS, run_of, written

from descant.runs.run import compiled

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
pytest.importorskip("fastapi")


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    from ray import serve

    run = written(tmp_path, formula="base + 0.5*arm_help", sweep=None, front=None, score=None)
    changes = {"RUN": str(run), "GPUS": "0", "MIN_REPLICAS": "2", "MAX_REPLICAS": "2"}
    for name, value in changes.items():
        monkeypatch.setenv(f"DESCANT_{name}", value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    folder = str(ROOT / "examples" / "deploy")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
            object_store_memory=100 * 2**20,
        )  # fmt: skip
        sys.modules.pop("ray_serve", None)
        import ray_serve

        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(ray_serve.app)
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()
        sys.modules.pop("ray_serve", None)


@pytest.mark.slow
def test_replicas_answer_as_the_formula_does(url: str, tmp_path: Path) -> None:
    import httpx

    run = run_of(
        tmp_path, formula="base + 0.5*arm_help", models=SPECS, sweep=None, front=None, score=None
    )
    prompt = "The river was"
    settings = {"temperature": 1.0, "seed": 3, "max_tokens": 12}
    [alone] = compiled(run).generate(prompt, temperature=1.0, seed=3, max_new_tokens=12)
    body = {"model": "formula", "prompt": prompt, **settings}
    answers = [httpx.post(f"{url}/v1/completions", json=body, timeout=60) for _ in range(6)]
    assert {answer.json()["choices"][0]["text"] for answer in answers} == {alone.text}
    streamed = httpx.post(f"{url}/v1/completions", json={**body, "stream": True}, timeout=60)
    assert streamed.text.rstrip().endswith("data: [DONE]")
    wrong = httpx.post(f"{url}/v1/completions", json={**body, "model": "bese"}, timeout=60)
    assert wrong.status_code == 404 and "bese" in wrong.json()["error"]["message"]
