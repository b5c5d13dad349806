"""Run files: what is read, what is refused, and in which words."""

import pytest

from descant.inputs.runfile import RunFileError, read_run_file
from descant.inputs.yaml import dump_yaml

GOOD = """
formula: base + a*arm
models:
  base: {path: some/base, dtype: float32}
  arm: org/arm
params: {a: 0.5}
generate: {max_new_tokens: 8}
"""


def write(tmp_path, text):
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_reads_models_by_mapping_and_by_path(tmp_path):
    run = read_run_file(write(tmp_path, GOOD))
    assert run.models["base"].dtype == "float32"
    assert run.models["arm"].path == "org/arm"
    assert run.generate.max_new_tokens == 8


def test_paths_beside_the_file_are_found_there(tmp_path):
    (tmp_path / "some" / "base").mkdir(parents=True)
    run = read_run_file(write(tmp_path, GOOD))
    assert run.models["base"].path == str(tmp_path / "some/base")
    assert run.models["arm"].path == "org/arm"


@pytest.mark.parametrize(
    ("override", "get", "value"),
    [
        ("a=0.7", lambda run: run.params["a"], 0.7),
        ("params.a=0.7", lambda run: run.params["a"], 0.7),
        ("generate.temperature=0.3", lambda run: run.generate.temperature, 0.3),
        ("formula=base", lambda run: run.formula, "base"),
        ("models.base.dtype=bfloat16", lambda run: run.models["base"].dtype, "bfloat16"),
    ],
)
def test_overrides(tmp_path, override, get, value):
    assert get(read_run_file(write(tmp_path, GOOD), [override])) == value


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("formula:", "formulla:"), "there is no option formulla; did you mean formula?"),
        (("dtype:", "dtyp:"), "there is no option models.base.dtyp; did you mean dtype?"),
        (("max_new_tokens: 8", "max_tokens: 8"), "did you mean max_new_tokens?"),
        (("max_new_tokens: 8", "max_new_tokens: 0"), "generate.max_new_tokens"),
        (("{path: some/base, dtype: float32}", "{dtype: float32}"), "exactly one of path"),
        (("params: {a: 0.5}", "params: {a: x}"), "params.a"),
        (("arm: org/arm", "arm: {adapter: org/arm}"), "an adapter needs the model"),
        (("formula: base + a*arm", "formula: ["), "is not YAML"),
        ((GOOD, "- a\n- b\n"), "is not a run file"),
        ((GOOD, "formula: base\nmodels: {base: !!python/object:os.system x}"), "is not YAML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, change, says):
    with pytest.raises(RunFileError) as caught:
        read_run_file(write(tmp_path, GOOD.replace(*change)))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("b=1", "no option or parameter b"),
        ("formla=base", "did you mean formula?"),
        ("a", "write --set name=value"),
        ("generate.temprature=1", "did you mean temperature?"),
        ("a=[", "is not a value"),
        ("formula.x=1", "formula holds no keys"),
        ("data.malformed=skip", "data: there is no option malformed; it is bad_rows"),
    ],
)
def test_overrides_that_mean_nothing(tmp_path, override, says):
    with pytest.raises(RunFileError) as caught:
        read_run_file(write(tmp_path, GOOD), [override])
    assert says in str(caught.value)


def test_a_missing_file():
    with pytest.raises(RunFileError, match=r"there is no run file nowhere\.yaml"):
        read_run_file("nowhere.yaml")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ("formulas: {one: base}", "give a formula, or formulas"),
        ("sweep: {b: [1]}", "sweep.b is no parameter; declare it, params: {b: 0.5}"),
        ("sweep: {temprature: [1]}", "did you mean temperature?"),
        ("sweep: {a: {from: 0, to: 1}}", "a range has a step or a count"),
        ("score: {help: armm}", "score.help names armm, which is no model; did you mean arm?"),
        ("score: {help: {rewrd: arm}}", "there is no option score.help.rewrd"),
        ("score: {help: {}}", "name one of reward, perplexity, kl, coherence and recovered"),
        ("merge: {arm: base}", "arm is declared under models and under merge"),
        ("front: {objectives: [help, -harm]}", "no score is named harm, help"),
        ("front: {objectives: [help]}", "front.objectives"),
    ],
)
def test_sweeps_that_mean_nothing(tmp_path, more, says):
    with pytest.raises(RunFileError) as caught:
        read_run_file(write(tmp_path, GOOD + more + "\n"))
    assert says in str(caught.value)


def test_the_environment_is_read_where_that_is_said_and_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("BASE", "org/base")
    monkeypatch.delenv("ARM", raising=False)
    said = GOOD.replace("some/base", "'${env:BASE}'")
    said = said.replace("org/arm", "$BASE/${env:ARM,arm}")
    run = read_run_file(write(tmp_path, said))
    assert (run.models["base"].path, run.models["arm"].path) == ("org/base", "$BASE/arm")
    with pytest.raises(RunFileError, match="models, arm: the environment has no ARM"):
        read_run_file(write(tmp_path, GOOD.replace("org/arm", "${env:ARM}")))


def test_a_resolved_run_file_is_one(tmp_path):
    run = read_run_file(write(tmp_path, GOOD + "sweep: {a: [0, 1]}\nscore: {x: {kl: base}}\n"))
    again = read_run_file(write(tmp_path, dump_yaml(run.model_dump(mode="json"))))
    assert again == run
