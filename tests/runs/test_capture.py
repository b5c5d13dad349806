"""``capture`` in every door: run files, the command line, the server, the harness.

Devices pass for GPUs here, and recordings are tapes (``tape.py``).
"""

from __future__ import annotations

import pytest
from command_line import command
from doc_pages import Page
from sweeps import lines, run_of, written
from tape import Tape, on_tape

from descant.demo import models
from descant.harness import command as harness
from descant.inputs.runfile import RunFileError, read_run_file
from descant.inputs.yaml import load_yaml
from descant.models.checkpoint.spec import ModelSpec
from descant.runs.run import compiled
from descant.runtime import Service
from descant.runtime.engine.cuda_graphs import StepGraphs
from descant.serve.http import process
from descant.serve.protocol.limits import Limits
from descant.serve.protocol.messages import Compile, Start
from descant.serve.worker.jobs import Jobs

SMALL = {"generate": {"max_new_tokens": 3, "num_return_sequences": 1}, "sweep": None, "front": None}
ONE = SMALL | {"score": None}


@pytest.fixture
def captured(monkeypatch) -> list[bool]:
    """Whether each engine that was made records its steps."""
    on_tape(monkeypatch)
    made: list[bool] = []
    begin = StepGraphs.__init__

    def noted(self, *arguments, **options) -> None:
        begin(self, *arguments, **options)
        made.append(self.on)

    monkeypatch.setattr(StepGraphs, "__init__", noted)
    return made


def test_a_run_file_says_it(tmp_path) -> None:
    file = written(tmp_path, **ONE)
    assert read_run_file(file).capture
    assert not read_run_file(file, ["capture=false"]).capture
    assert not read_run_file(file, capture=False).capture
    file = written(tmp_path, **ONE, capture=False)
    assert not read_run_file(file).capture and read_run_file(file, capture=True).capture
    with pytest.raises(RunFileError, match="capture must be true or false"):
        read_run_file(written(tmp_path, **ONE, capture="sometimes"))


def test_a_flag_is_no_parameter(tmp_path) -> None:
    params = {"a": 0.5, "capture": 2}
    file = written(tmp_path, **ONE, params=params)
    run = read_run_file(file, capture=False)
    assert run.params == params and not run.capture


FLAGS = {(): True, ("--capture",): True, ("--no-capture",): False, ("--enforce-eager",): False}


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
@pytest.mark.parametrize("name", ["run", "sweep", "inspect"])
def test_a_flag_of_a_command(name, flags, captured, tmp_path) -> None:
    file = written(tmp_path, **(SMALL if name == "sweep" else ONE))
    prompt = ["Hello"] if name == "inspect" else []
    done = command(name, file, *prompt, *flags, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert set(captured) == {FLAGS[flags]}


@pytest.mark.parametrize("capture", [True, False])
def test_a_run_files_formulas_and_scores(capture, captured, tmp_path) -> None:
    run = run_of(tmp_path, **ONE, capture=capture)
    assert compiled(run).session.engine.graphs.on is capture
    assert captured == [capture]


@pytest.mark.parametrize("capture", [True, False])
def test_the_server(capture, captured, tmp_path) -> None:
    run = run_of(tmp_path, **ONE, capture=capture)
    formulas = [Compile(1, "base", {}), Compile(2, run.formula, run.params)]
    jobs = Jobs(Start(run, Limits(slots=2, max_model_len=64), formulas))
    jobs.formulas[1].alone()
    assert captured == [capture] * 3
    made = [jobs.formulas[number].session.engine.graphs.made for number in (1, 2)]
    assert all(made) if capture else made == [0, 0]  # before the first request


def test_formulas_of_a_service_share_memory_for_recordings(captured, monkeypatch) -> None:
    pools = iter("ab")
    monkeypatch.setattr(Tape, "new_pool", staticmethod(lambda: next(pools)))
    specs = {name: ModelSpec.model_validate(spec) for name, spec in models().items()}
    service = Service(specs, slots=2, max_model_len=64)
    decoders = [service.decoder(formula) for formula in ("base", "base + arm_help")]
    assert {decoder.session.engine.graphs._recordings._pool for decoder in decoders} == {"a"}
    eager = Service(specs, slots=2, max_model_len=64, capture=False).decoder("base")
    assert eager.session.engine.graphs._recordings._pool is None and captured == [True, True, False]


@pytest.mark.parametrize("flags", FLAGS, ids=" ".join)
def test_a_flag_of_the_server(flags, tmp_path, monkeypatch) -> None:
    """The run that the server is made for."""
    served: list[bool] = []

    def serve(server, **_) -> bool:
        served.append(server.run.capture)
        return True

    monkeypatch.setattr(process, "serve", serve)
    done = command("serve", written(tmp_path, **ONE), *flags)
    assert done.returncode == 0 and served == [FLAGS[flags]], done.stderr


def test_the_harness(captured, tmp_path) -> None:
    pytest.importorskip("lm_eval")
    from descant.harness.model import DescantLM

    file = written(tmp_path, **ONE)
    for options, on in (({}, True), ({"capture": False}, False)):
        captured.clear()
        DescantLM(str(file), **options)
        assert captured == [on]
    with pytest.raises(ValueError, match="capture is for a run file; a decoder has"):
        DescantLM(compiled(read_run_file(file)), capture=True)


@pytest.mark.parametrize(
    ("flags", "says"), [((), []), (("--no-capture",), ["capture=False"])], ids=["none", "off"]
)
def test_a_flag_of_eval(flags, says, tmp_path, monkeypatch) -> None:
    """What the harness is called with."""
    main = pytest.importorskip("lm_eval.__main__")
    words: list[str] = []
    monkeypatch.setattr(main, "cli_evaluate", lambda: words.extend(harness.sys.argv))
    file = written(tmp_path, **ONE)
    done = command("eval", file, *flags, "--tasks", "hellaswag")
    assert done.returncode == 0, done.stderr
    arguments = [words[at + 1] for at, word in enumerate(words) if word == "--model_args"]
    assert arguments == [f"pretrained={file}", *says] and words[-2:] == ["--tasks", "hellaswag"]


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_what_is_written_is_the_same_and_is_resumed(name, captured, tmp_path) -> None:
    """A folder that one has begun the other goes on with, and every line is what it was."""
    file, out, other = written(tmp_path, **ONE), tmp_path / "out", tmp_path / "other"
    assert command(name, file, "--output", out).returncode == 0
    assert command(name, file, "--output", other, "--no-capture").returncode == 0
    assert lines(out) == lines(other)
    before = (out / "completions.jsonl").read_text(encoding="utf-8")
    half = before.splitlines(keepends=True)[:2]
    (out / "completions.jsonl").write_text("".join(half), encoding="utf-8")
    done = command(name, file, "--output", out, "--no-capture")
    assert done.returncode == 0, done.stderr
    assert lines(out) == lines(other)
    assert set(captured) == {True, False}


def test_the_page_of_run_files_says_it() -> None:
    [block] = [code for code in Page("docs/sweeps.md").code("yaml") if "capture:" in code]
    assert load_yaml(block)["capture"] is True
