"""``descant run``: a line per completion, none lost and none doubled."""

import json
import logging
import multiprocessing
import signal
import time

import pytest

from descant.inputs.prompts import read_items
from descant.inputs.runfile import Data, RunFileError, validated
from descant.results import load
from descant.results.exports import Format, export
from descant.runs.run import compiled, run_to_folder
from descant.sweep import sweep

COMPLETIONS = "completions.jsonl"


@pytest.fixture
def run(tmp_path, demo_models):
    data = tmp_path / "prompts.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"How do I boil {n} eggs?"}) + "\n" for n in "12345")
    )
    return validated(
        {
            "formula": "base + a*arm_help",
            "models": {name: demo_models[name] for name in ("base", "arm_help")},
            "params": {"a": 0.5},
            "generate": {"max_new_tokens": 6, "temperature": 0.7, "batch_size": 2},
            "data": {"path": str(data)},
        },
        "here",
    )


def lines(folder):
    records = [json.loads(line) for line in (folder / COMPLETIONS).read_text().splitlines()]
    return sorted((record["id"], record["text"]) for record in records)


def test_resumed_equals_uninterrupted(run, tmp_path):
    decoder = compiled(run)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert len(list(run_to_folder(run, decoder, whole))) == 5
    steps = run_to_folder(run, decoder, broken)
    next(steps), next(steps)
    steps.close()
    with (broken / COMPLETIONS).open("a") as file:
        file.write('{"id": 4, "sample": 0, "te')  # killed in the middle of a line
    assert len(list(run_to_folder(run, decoder, broken))) == 3
    assert lines(broken) == lines(whole)
    assert list(run_to_folder(run, decoder, broken)) == []


def test_lines_of_particles_have_their_weights_and_go_on_after_a_kill(run, demo_models, tmp_path):
    models = {**run.models, "reward_help": demo_models["reward_help"]}
    formula = 'base | particles(reward_help, n=3, until=" ")'
    changed = run.model_dump(exclude_unset=True) | {"formula": formula, "models": models}
    run = validated(changed, "here")
    decoder, broken = compiled(run), tmp_path / "broken"
    whole = list(run_to_folder(run, decoder, tmp_path / "whole"))
    asked = {"max_new_tokens": 6, "temperature": 0.7, "seed": whole[0]["seed"]}
    for record in whole:
        assert record["log_weight"] <= record["log_normalizer"] + 1.0987  # of three
    steps = run_to_folder(run, decoder, broken)
    next(steps)
    steps.close()
    assert len(list(run_to_folder(run, decoder, broken))) == 4
    assert lines(broken) == lines(tmp_path / "whole")
    [plain] = decoder.generate(whole[0]["prompt"], **asked)
    assert isinstance(plain.log_weight, float)


def test_lines_have_the_logprobs_that_are_asked_for(run, tmp_path):
    """The formula's own, as scoring the answers gives them."""
    decoder = compiled(run)
    asked = run.generate.model_copy(update={"logprobs": True, "top_logprobs": 2})
    found = list(
        run_to_folder(run.model_copy(update={"generate": asked}), decoder, tmp_path / "out")
    )
    prompts, ids = ([one[key] for one in found] for key in ("prompt", "token_ids"))
    scored = decoder.loglikelihood(prompts, ids)
    for record, one in zip(found, scored, strict=True):
        assert record["logprobs"] == pytest.approx(one.logprobs, abs=1e-4)
        assert [len(best) for best in record["top_logprobs"]] == [2] * len(one.logprobs)
        assert all(best[0][1] >= best[1][1] for best in record["top_logprobs"])
        assert "logprob" not in record
    assert not {"logprobs", "top_logprobs"} & set(
        next(run_to_folder(run, decoder, tmp_path / "no"))
    )


@pytest.mark.parametrize(
    ("generate", "says"),
    [
        ({"top_logprobs": 2}, "top_logprobs come with logprobs: true"),
        ({"logprobs_mode": "raw"}, "raw_logprobs"),
        ({"eos_token_id": True}, "true and false are no numbers"),
        ({"eos_token_id": [2, False]}, "true and false are no numbers"),
        ({"eos_token_id": "</s>"}, "eos_token_id"),
        ({"max_new_tokens": True}, "true and false are no numbers"),
        ({"logprobs": True}, "a kl is of what was drawn from"),
        ({"sample_components": True}, "a kl is of the whole mixture, .* leave out sample_comp"),
        ({"sample_components": True, "temperature": 0.5}, "is for temperature 1; leave that out"),
        ({"sample_components": True, "do_sample": False}, "is for temperature 1; leave that out"),
        ({"sample_components": True, "logprobs": True}, "logprobs are of the whole mixture"),
    ],
)
def test_generate_takes_no_other_kinds(run, generate, says):
    content = run.model_dump(exclude={"generate"}) | {"generate": generate}
    content["score"] = {"kl": {"kl": "base"}}
    content["models"] = {
        name: spec.model_dump(exclude_unset=True) for name, spec in run.models.items()
    }
    with pytest.raises(RunFileError, match=says):
        validated(content, "here")


def test_a_folder_of_another_run_is_left_alone(run, tmp_path):
    decoder = compiled(run)
    list(run_to_folder(run, decoder, tmp_path / "out"))
    before = (tmp_path / "out" / COMPLETIONS).read_bytes()
    other = run.model_copy(update={"params": {"a": 0.7}})
    with pytest.raises(RunFileError, match="another run"):
        list(run_to_folder(other, decoder, tmp_path / "out"))
    assert (tmp_path / "out" / COMPLETIONS).read_bytes() == before


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"prompt": "a"}\n{"promt": "b"}\n', "line 2 has no field prompt; it has promt"),
        ('{"prompt": "a"}\n{"prompt"\n', "line 2 is not JSON"),
        ('{"prompt": ""}\n', "line 1: the prompt is empty"),
        ("\n\n", "holds no prompts"),
        ('["a"]\n', "line 1 has no field prompt"),
    ],
)
def test_bad_data_is_named_by_line(tmp_path, content, says):
    file = tmp_path / "data.jsonl"
    file.write_text(content)
    with pytest.raises(RunFileError) as caught:
        read_items(Data(path=str(file)))
    assert says in str(caught.value)


def test_text_files_and_limits(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("one\n\ntwo\nthree\n")
    items = read_items(Data(path=str(file), limit=2))
    assert [item.prompt for item in items] == ["one", "two"]


def test_a_line_has_the_keys_of_a_sweep(run, tmp_path):
    [first, *_] = run_to_folder(run, compiled(run), tmp_path)
    assert [*first] == [
        "schema", "formula", "point", "params", "id", "sample", "prompt", "text", "token_ids",
        "finish_reason", "seed", "elapsed",
    ]  # fmt: skip
    assert (first["schema"], first["formula"], first["point"]) == (1, "formula", 0)
    assert (first["params"], first["seed"]) == ({"a": 0.5}, 0)


def test_the_data_of_a_chat_model(run, tmp_path, caplog):
    """Texts as messages, by data.chat and by the template; raw text is logged once."""
    bare = {name: spec.model_copy(update={"template": None}) for name, spec in run.models.items()}
    chat = {"base": bare["base"].model_copy(update={"template": "chat"})}
    raw = run.model_copy(update={"models": bare})
    by_data = raw.model_copy(update={"data": run.data.model_copy(update={"chat": True})})
    by_template = run.model_copy(update={"models": bare | chat})
    with caplog.at_level(logging.WARNING, "descant"):
        for name, one in (("data", by_data), ("template", by_template)):
            assert len(list(run_to_folder(one, compiled(one), tmp_path / name))) == 5
        assert lines(tmp_path / "data") == lines(tmp_path / "template")
        assert not caplog.messages
        list(run_to_folder(raw, compiled(raw), tmp_path / "raw"))
    assert lines(tmp_path / "raw") != lines(tmp_path / "data")
    [warning] = caplog.messages
    assert warning.startswith("base, arm_help: text is read as it is, without the chat template")
    prompt = json.loads((tmp_path / "data" / COMPLETIONS).read_text().splitlines()[0])["prompt"]
    assert prompt[0]["role"] == "user" and prompt[0]["content"].startswith("How do I boil")
    with pytest.raises(RunFileError, match=r"holds another run: data.chat is True there"):
        list(run_to_folder(raw, compiled(raw), tmp_path / "data"))


def old_lines(folder):
    """The folder's lines as version 0.1 of ``descant run`` wrote them."""
    keys = ("id", "sample", "prompt", "text", "token_ids", "finish_reason", "params", "elapsed")
    records = map(json.loads, (folder / COMPLETIONS).read_text().splitlines())
    return [json.dumps({key: record[key] for key in keys}) + "\n" for record in records]


def test_a_folder_of_version_0_1_is_read_and_resumed(run, tmp_path):
    decoder = compiled(run)
    list(run_to_folder(run, decoder, tmp_path / "out"))
    expected, old = lines(tmp_path / "out"), old_lines(tmp_path / "out")
    (tmp_path / "out" / COMPLETIONS).write_text("".join(old[:2]) + old[2][:30])
    [path] = export(tmp_path / "out", [Format.HH_RLHF])
    assert len(json.loads(path.read_text())) == 2
    assert len(load(tmp_path / "out").table) == 2
    with pytest.raises(RunFileError, match="holds lines of descant run; give another output"):
        sweep(run, tmp_path / "out")
    assert len(list(run_to_folder(run, decoder, tmp_path / "out"))) == 3
    assert lines(tmp_path / "out") == expected
    table = load(tmp_path / "out").table
    assert [*table["param_a"]] == [0.5] * 5 and set(table["formula"]) == {"formula"}


def written(file):
    return file.read_bytes().count(b"\n")


def complete(run, out):
    for _ in run_to_folder(run, compiled(run), out):
        pass


def test_killed_at_any_moment_a_run_resumes(run, tmp_path):
    longer = {"batch_size": 1, "num_return_sequences": 2, "max_new_tokens": 24}
    run = run.model_copy(update={"generate": run.generate.model_copy(update=longer)})
    complete(run, tmp_path / "expected")
    out = tmp_path / "out"
    file = out / COMPLETIONS
    for count in (1, 4, 7):
        process = multiprocessing.get_context("fork").Process(target=complete, args=(run, out))
        process.start()
        while process.is_alive() and not (
            file.exists() and file.read_bytes().count(b"\n") >= count
        ):
            time.sleep(0.0005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    complete(run, out)
    assert lines(out) == lines(tmp_path / "expected") and len(lines(out)) == 10


def test_one_process_at_a_time(run, tmp_path):
    decoder = compiled(run)
    first = run_to_folder(run, decoder, tmp_path)
    next(first)
    with pytest.raises(RunFileError, match="another process writes to"):
        next(run_to_folder(run, decoder, tmp_path))
    first.close()
    assert len(list(run_to_folder(run, decoder, tmp_path))) == 4
