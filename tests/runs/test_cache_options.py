"""``enable_prefix_caching`` and ``gpu_memory_utilization`` in every door, down to the engine.

The doors are Python, run files, the command line, the server and the harness.
"""

from __future__ import annotations

from typing import Any

import pytest
from command_line import command
from doc_pages import Page
from sweeps import lines, run_of, written

import descant
from descant.demo import models
from descant.harness import command as harness
from descant.inputs.expand import settings_of
from descant.inputs.runfile import RunFileError, read_run_file
from descant.inputs.yaml import load_yaml
from descant.models.cache_config import CacheConfig
from descant.models.checkpoint.spec import ModelSpec
from descant.runs.models import Models
from descant.runs.run import compiled
from descant.runtime import Service
from descant.runtime.engine.engine import Engine
from descant.serve.http import process
from descant.serve.protocol.limits import Limits
from descant.serve.protocol.messages import Compile, Start
from descant.serve.worker.jobs import Jobs
from descant.show.explain import ExplainRequest, plan_report

SMALL = {"generate": {"max_new_tokens": 3, "num_return_sequences": 1}, "sweep": None, "front": None}
ONE = SMALL | {"score": None}
KEYS: dict[str, Any] = {"enable_prefix_caching": False, "gpu_memory_utilization": 0.5}
OTHER = CacheConfig(False, 0.5)


@pytest.fixture
def caches(monkeypatch) -> list[CacheConfig]:
    """How each engine that was made uses its caches."""
    made: list[CacheConfig] = []
    begin = Engine.__init__

    def noted(self, *arguments, **options) -> None:
        begin(self, *arguments, **options)
        made.append(self.cache)

    monkeypatch.setattr(Engine, "__init__", noted)
    return made


WRONG = {
    "a word": ({"enable_prefix_caching": "no"}, "enable_prefix_caching is 'no'; it is true or fal"),
    "a number": ({"enable_prefix_caching": 1}, "enable_prefix_caching is 1; it is true or false"),
    "nothing": ({"gpu_memory_utilization": 0}, "gpu_memory_utilization is 0; it is a share of the"),
    "90 percent": ({"gpu_memory_utilization": 90}, "above 0 and at most 1: 0.9"),
    "no number": ({"gpu_memory_utilization": float("nan")}, "gpu_memory_utilization is nan; it is"),
    "text": ({"gpu_memory_utilization": "0.9"}, "gpu_memory_utilization is '0.9'; it is a share"),
    "a truth": ({"gpu_memory_utilization": True}, "gpu_memory_utilization is True; it is a share"),
}


@pytest.mark.parametrize(("keys", "says"), WRONG.values(), ids=WRONG)
def test_other_values_are_refused_before_weights_are_read(keys, says) -> None:
    for refused in (
        lambda: CacheConfig(**keys),
        lambda: descant.compile("base", {"base": "no/such-model"}, **keys),
    ):
        with pytest.raises(descant.DescantError) as caught:
            refused()
        assert says in str(caught.value) and isinstance(caught.value, ValueError)


def test_compile(demo_models) -> None:
    specs = {"base": demo_models["base"]}
    assert descant.compile("base", specs).session.engine.cache == CacheConfig(True, 0.9)
    assert descant.compile("base", specs, **KEYS).session.engine.cache == OTHER
    with pytest.raises(TypeError, match="did you mean enable_prefix_caching"):
        descant.compile("base", specs, enable_prefix_cachin=True)


def test_a_run_file_says_it(tmp_path) -> None:
    file = written(tmp_path, **ONE)
    assert read_run_file(file).cache == CacheConfig()
    assert read_run_file(file, [f"{key}={value}" for key, value in KEYS.items()]).cache == OTHER
    assert read_run_file(file, **KEYS).cache == OTHER
    file = written(tmp_path, **ONE, **KEYS)
    assert read_run_file(file).cache == OTHER
    back = {"enable_prefix_caching": True, "gpu_memory_utilization": 1}
    assert read_run_file(file, **back).cache == CacheConfig(True, 1)
    assert read_run_file(file, **dict.fromkeys(KEYS)).cache == OTHER


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("enable_prefix_caching", "sometimes", "enable_prefix_caching must be true or false"),
        ("gpu_memory_utilization", "most", "gpu_memory_utilization must be a number"),
        ("gpu_memory_utilization", True, "true and false are no numbers"),
        ("gpu_memory_utilization", 1.5, "gpu_memory_utilization is 1.5; it is a share of the GPU"),
    ],
)
def test_other_values_of_a_run_file_are_refused(key, value, says, tmp_path) -> None:
    with pytest.raises(RunFileError, match=says):
        read_run_file(written(tmp_path, **ONE, **{key: value}))
    with pytest.raises(RunFileError, match=says):
        read_run_file(written(tmp_path, **ONE), **{key: value})


def test_a_flag_is_no_parameter(tmp_path) -> None:
    params = {"a": 0.5, "gpu_memory_utilization": 2}
    run = read_run_file(written(tmp_path, **ONE, params=params), gpu_memory_utilization=0.5)
    assert run.params == params and run.cache == CacheConfig(True, 0.5)


FLAGS = {
    (): CacheConfig(),
    ("--enable-prefix-caching", "--gpu-memory-utilization", "1"): CacheConfig(True, 1.0),
    ("--no-enable-prefix-caching", "--gpu-memory-utilization=0.5"): OTHER,
}


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("name", ["run", "sweep", "inspect"])
def test_flags_of_a_command(name, flags, caches, tmp_path) -> None:
    file = written(tmp_path, **(SMALL if name == "sweep" else ONE))
    prompt = ["Hello"] if name == "inspect" else []
    done = command(name, file, *prompt, *flags, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert set(caches) == {FLAGS[flags]}


@pytest.mark.parametrize("name", ["run", "sweep", "serve", "eval"])
def test_another_value_of_a_flag_is_refused(name, tmp_path) -> None:
    done = command(name, written(tmp_path, **ONE), "--gpu-memory-utilization", "1.5")
    assert done.returncode == 2 and not (tmp_path / "runs").exists()
    assert "gpu_memory_utilization is 1.5; it is a share of the GPU's memory" in done.stderr


def test_a_run_files_formulas(caches, tmp_path) -> None:
    """In a run and in a sweep, which bind it each."""
    run = run_of(tmp_path, **ONE, **KEYS)
    compiled(run)
    [setting] = settings_of(run)
    Models(run, "cpu").decoder(setting)
    assert caches == [OTHER, OTHER]
    report = plan_report(run.formula, run.models, run.params, run.prompts, run)
    assert report._cache == OTHER  # of a plan that is explained
    [alone] = ExplainRequest("base").arguments().values()
    assert plan_report(alone.formula, alone.models, {}, {})._cache == CacheConfig()


def test_the_server(caches, tmp_path) -> None:
    run = run_of(tmp_path, **ONE, **KEYS)
    formulas = [Compile(1, "base", {}), Compile(2, run.formula, run.params)]
    jobs = Jobs(Start(run, Limits(slots=2, max_model_len=64), formulas))
    jobs.formulas[1].alone()
    assert caches == [OTHER] * 3 and jobs.service.cache == OTHER


def test_a_service(caches) -> None:
    specs = {name: ModelSpec.model_validate(spec) for name, spec in models().items()}
    Service(specs, slots=2, max_model_len=64).decoder("base")
    Service(specs, slots=2, max_model_len=64, cache=OTHER).decoder("base")
    assert caches == [CacheConfig(), OTHER]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_flags_of_the_server(flags, tmp_path, monkeypatch) -> None:
    """The run that the server is made for."""
    served: list[CacheConfig] = []

    def serve(server, **_) -> bool:
        served.append(server.run.cache)
        return True

    monkeypatch.setattr(process, "serve", serve)
    done = command("serve", written(tmp_path, **ONE), *flags)
    assert done.returncode == 0 and served == [FLAGS[flags]], done.stderr


def test_the_harness(caches, tmp_path) -> None:
    pytest.importorskip("lm_eval")
    from descant.harness.model import DescantLM

    file = written(tmp_path, **ONE)
    for options, cache in (({}, CacheConfig()), (KEYS, OTHER)):
        caches.clear()
        DescantLM(str(file), **options)
        assert caches == [cache]
    both = "enable_prefix_caching and gpu_memory_utilization are for a run file; a decoder has its"
    with pytest.raises(ValueError, match=both):
        DescantLM(compiled(read_run_file(file)), **KEYS)


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_flags_of_eval(flags, caches, tmp_path, monkeypatch) -> None:
    """What the harness is called with, and makes of it."""
    main = pytest.importorskip("lm_eval.__main__")
    from lm_eval.api.registry import get_model

    words: list[str] = []
    monkeypatch.setattr(main, "cli_evaluate", lambda: words.extend(harness.sys.argv))
    done = command("eval", written(tmp_path, **ONE), *flags, "--tasks", "hellaswag")
    assert done.returncode == 0, done.stderr
    arguments = [words[at + 1] for at, word in enumerate(words) if word == "--model_args"]
    get_model("descant").create_from_arg_string(",".join(arguments))
    assert caches == [FLAGS[flags]] and words[-2:] == ["--tasks", "hellaswag"]


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_folder_is_resumed_with_others(name, caches, tmp_path) -> None:
    file, out, other = written(tmp_path, **ONE), tmp_path / "out", tmp_path / "other"
    flags = ("--no-enable-prefix-caching", "--gpu-memory-utilization", 0.5)
    assert command(name, file, "--output", out).returncode == 0
    before = (out / "completions.jsonl").read_text(encoding="utf-8")
    half = before.splitlines(keepends=True)[:2]
    (out / "completions.jsonl").write_text("".join(half), encoding="utf-8")
    done = command(name, file, "--output", out, *flags)
    assert done.returncode == 0, done.stderr
    assert command(name, file, "--output", other, *flags).returncode == 0
    assert lines(out) == lines(other) and set(caches) == {CacheConfig(), OTHER}


def test_the_page_of_run_files_says_it() -> None:
    [block] = [code for code in Page("docs/sweeps.md").code("yaml") if "capture:" in code]
    found = load_yaml(block)
    assert {key: found[key] for key in KEYS} == {
        "enable_prefix_caching": True, "gpu_memory_utilization": 0.9,
    }  # fmt: skip
