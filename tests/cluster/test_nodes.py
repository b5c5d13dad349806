"""``--ray`` on two nodes of this machine, one of which is killed; ranks on one node."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import command
from sweeps import content, lines, run_of, written

from descant.cluster.cluster import Cluster
from descant.cluster.options import RayOptions, rows_of_task, share_of
from descant.errors import ArgumentError, StateError
from descant.grammar import FormulaError
from descant.inputs.runfile import RunFileError
from descant.runs.run import compiled, rows_to_folder, run_to_folder
from descant.sweep import sweep

pytest.importorskip("ray")
ONLY = {"sweep": None, "front": None, "score": None}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two nodes with a processor each."""
    import ray
    from ray.cluster_utils import Cluster as Nodes

    environment = pytest.MonkeyPatch()
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    store = {"object_store_memory": 100 * 2**20}
    nodes = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, **store},
    )
    try:
        nodes.add_node(num_cpus=1, num_gpus=0, **store)
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()
        environment.undo()


@pytest.mark.slow
def test_a_node_that_dies_loses_and_doubles_nothing(nodes, tmp_path, caplog) -> None:
    generate = {"max_new_tokens": 40, "temperature": 1.0, "num_return_sequences": 4}
    run, out = run_of(tmp_path, **ONLY, generate={**generate, "batch_size": 1}), tmp_path / "out"
    list(run_to_folder(run, compiled(run), tmp_path / "one"))
    with Cluster(RayOptions(nodes.address, rows=4), run, sweeps=False) as cluster:
        assert cluster.device == "ray: 2 decoders with 1 CPUs each"
        dead = None
        for _ in rows_to_folder(run, cluster.complete, out):
            if dead is None and sum(group.task is not None for group in cluster._groups) == 2:
                dead = nodes.list_all_nodes()[1]
                nodes.remove_node(dead, allow_graceful=False)
    assert dead is not None and "a decoder has ended, and its rows go to others" in caplog.text
    assert lines(out) == lines(tmp_path / "one") and len(lines(out)) == 16


@pytest.mark.slow
def test_a_sweep_by_ranks_of_one_node_is_that_of_one_process(nodes, tmp_path, caplog) -> None:
    """Two formulas, one with a prompt that is skipped; each decoder is two ranks, for two GPUs.

    The node has two by its word: where torch finds none the ranks decode on the CPU, over gloo.
    """
    node = nodes.add_node(num_cpus=2, num_gpus=2, object_store_memory=100 * 2**20)
    nodes.wait_for_nodes()
    changes = {
        "formula": None,
        "formulas": {"fused": "base + a*arm_help", "guided": "base | rerank(reward_help, k=4)"},
        "score": {"help": "reward_help", "ppl": {"perplexity": "small"}},
        "front": None,
        "sweep": {"a": [0, 1]},
    }
    data = Path(content(tmp_path)["data"]["path"])
    text = data.read_text() + json.dumps({"prompt": "word " * 5000}) + "\n"
    skipping = {**changes, "data": {"path": str(data), "bad_rows": "skip"}}
    run = run_of(tmp_path, **skipping)
    data.write_text(text)
    sweep(run, tmp_path / "one")
    terms = run.model_copy(update={"parallel": "terms"})
    with Cluster(RayOptions(nodes.address, gpus=2), terms, sweeps=True) as cluster:
        sweep(terms, tmp_path / "out", cluster)
    assert "skipped" in caplog.text
    assert lines(tmp_path / "out") == lines(tmp_path / "one")
    values = [
        {
            (r["formula"], r["point"], r["id"], r["sample"], name): value
            for r in found
            for name, value in r["scores"].items()
        }
        for found in (lines(tmp_path / "out", "scores"), lines(tmp_path / "one", "scores"))
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-4, abs=1e-5)
    nodes.remove_node(node)


@pytest.mark.slow
def test_a_prompt_that_cannot_be_read_is_named_as_in_one_process(nodes, tmp_path) -> None:
    run = run_of(tmp_path, **ONLY)
    data = Path(run.data.path)
    data.write_text(data.read_text() + json.dumps({"prompt": "word " * 5000}) + "\n")
    with pytest.raises(RunFileError) as alone:
        list(run_to_folder(run, compiled(run), tmp_path / "one"))
    with (
        Cluster(RayOptions(nodes.address), run, sweeps=False) as cluster,
        pytest.raises(RunFileError) as caught,
    ):
        list(rows_to_folder(run, cluster.complete, tmp_path / "out"))
    assert str(caught.value) == str(alone.value) and "prompts.jsonl, line 5" in str(caught.value)


def test_what_a_decoder_gets_of_the_nodes() -> None:
    eight, plain = {"CPU": 64.0, "GPU": 8.0}, {"CPU": 4.0}
    found = [
        share_of(RayOptions("auto", **options), nodes, parallel)
        for options, nodes, parallel in (
            ({}, [eight, eight, plain], None),
            ({"gpus": 3}, [eight, eight], None),
            ({"gpus": 4}, [eight, eight], "terms"),
            ({"gpus": 0.5, "actors": 5}, [eight], None),
            ({}, [plain, {"CPU": 8.0}], None),
            ({"actors": 6}, [plain, {"CPU": 8.0}], None),
        )
    ]
    shares = [(share.actors, share.ranks, share.gpus, share.cpus) for share in found]
    assert shares == [
        (16, 1, 1, 1), (4, 1, 3, 1), (4, 4, 1, 1), (5, 1, 0.5, 1), (2, 1, 0, 4), (6, 1, 0, 2),
    ]  # fmt: skip
    for options, parallel, says in (
        ({"gpus": 9}, None, "no node has 9 GPUs for a decoder; the nodes have 8"),
        ({"gpus": 1.5}, None, "--ray-gpus is 1.5; a share of a GPU is below 1"),
        ({"gpus": 0}, "terms", "write how many with --ray-gpus"),
    ):
        with pytest.raises(ArgumentError, match=says):
            share_of(RayOptions("auto", **options), [eight], parallel)
    assert rows_of_task(10_000, 8, 32) == 128 and rows_of_task(3, 8, 32) == 1


def test_what_is_wrong_is_said_before_any_worker_starts(tmp_path, monkeypatch) -> None:
    run = run_of(tmp_path, **ONLY)
    bad = run.model_copy(update={"formula": "base + bsae"})
    for mistake, says in ((bad, "did you mean base"), (run, "no Ray cluster at 127.0.0.1:1: ")):
        with pytest.raises((FormulaError, StateError), match=says):
            Cluster(RayOptions("127.0.0.1:1"), mistake, sweeps=False)
    found = command("run", written(tmp_path, **ONLY), "--ray-gpus", "2")
    assert found.returncode == 2 and "--ray-gpus goes with --ray" in found.stderr
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StateError, match="start it without torchrun"):
        Cluster(RayOptions("auto"), run, sweeps=False)
