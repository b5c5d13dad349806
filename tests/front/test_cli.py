"""The command line as a stranger meets it: what it prints, where, and its exit code."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from command_line import command
from sweeps import written

from descant.cli import app
from descant.demo import models
from descant.grammar import FormulaError
from descant.inputs.runfile import RunFileError
from descant.show.explain import ExplainRequest, explained

EXAMPLES = Path(__file__).parents[2] / "examples"


def descant(*arguments, cwd=None):
    """The command in a process of its own: one test per command, for what a process shows."""
    return subprocess.run(
        [sys.executable, "-m", "descant", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, timeout=200,
    )  # fmt: skip


def test_help_answers_at_once():
    start = time.perf_counter()
    found = descant("--help")
    assert found.returncode == 0
    assert all(command in found.stdout for command in ("demo", "explain", "run"))
    assert time.perf_counter() - start < 5  # under a second alone; a busy machine is not a mistake


def test_help_needs_no_torch():
    code = "import sys, descant.cli; sys.exit(any(m in sys.modules for m in ('torch', 'sympy')))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


COMMANDS = typer.main.get_command(app).commands
OPTIONS = [
    (name, option)
    for name, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option"
]


@pytest.mark.parametrize(
    ("option", "commands"),
    [
        ("--set", ["explain", "fit", "inspect", "run", "serve", "sweep"]),
        ("--formula", ["explain", "fit", "inspect", "run"]),
        ("--no-capture", ["eval", "fit", "inspect", "run", "serve", "sweep"]),
        ("--enforce-eager", ["eval", "fit", "inspect", "run", "serve", "sweep"]),
        ("--no-enable-prefix-caching", ["eval", "fit", "inspect", "run", "serve", "sweep"]),
        ("--gpu-memory-utilization", ["eval", "fit", "inspect", "run", "serve", "sweep"]),
        ("--format", ["run", "sweep"]),
    ],
)
def test_what_reads_a_run_file_reads_it_alike(option, commands):
    found = {
        name: (one.opts, one.help, one.metavar, one.multiple)
        for name, one in OPTIONS
        if option in (*one.opts, *one.secondary_opts)
        and "RUN.yaml" in str(COMMANDS[name].params[0].metavar)
    }
    assert sorted(found) == commands and len(set(map(repr, found.values()))) == 1


def test_every_option_says_what_it_is():
    assert not [one.opts for _, one in OPTIONS if not one.help]
    assert not [one.opts for _, one in OPTIONS if one.multiple and "repeated" not in one.help]
    short = {name for _, one in OPTIONS for name in one.opts if not name.startswith("--")}
    assert not short, "a letter is for --help alone"


def test_version():
    assert command("--version").stdout.startswith("descant ")


def test_explain_reads_no_weights(tmp_path, demo_models):
    found = descant("explain", "base + 0.5*arm_help | rerank(reward_help, k=10, w=1.5)")
    assert found.returncode == 0, found.stderr
    for part in ("arm_help", "0.5", "10 candidates", "per token", "2 forwards"):
        assert part in found.stdout


def test_explain_says_the_plan_of_every_formula():
    found = command("explain", EXAMPLES / "sweep.yaml")
    assert found.returncode == 0, found.stderr
    for part in ("arms\nformula", "soup\nformula", "base\nformula"):
        assert part in found.stdout


def test_explain_reads_a_run_file_as_the_others_do(tmp_path):
    """``--formula`` and ``--set`` mean there what they mean everywhere."""
    file = str(
        written(tmp_path, formula=None, formulas={"one": "base", "two": "base + a*arm_help"})
    )
    every, two = explained(ExplainRequest(file)), explained(ExplainRequest(file, name="two"))
    assert every.startswith("one\n") and two in every and "arm_help" in two
    of_text = explained(
        ExplainRequest(file, overrides=["formulas.two=base - a*arm_help"], name="two")
    )
    assert "base - a*arm_help" in of_text
    for said, says in (
        (ExplainRequest(file, name="tow"), "there is no formula tow; did you mean two?"),
        (
            ExplainRequest("base", overrides=["a=1"]),
            "--set is for a run file, and base is a formula",
        ),
        (ExplainRequest("base", name="two"), "--formula is for a run file"),
    ):
        with pytest.raises(RunFileError, match=says):
            explained(said)


def test_explain_says_what_the_draft_of_a_run_file_promises(tmp_path):
    """With a line for a model that only drafts, which no step of the formula runs."""

    def plan(**generate) -> str:
        given = {"formula": "base + a*arm_help", "generate": generate}
        return explained(ExplainRequest(str(written(tmp_path, **given))))

    def drafts(text: str) -> list[str]:
        return [line for line in text.splitlines() if line.startswith("drafts ")]

    plain = plan()
    own = plan(draft="arm_help", draft_length=12)
    assert [line.split(":")[0] for line in drafts(own)] == [
        "drafts      by arm_help, 12 tokens ahead"
    ]
    other = plan(draft="small_help - 0.5*base")
    assert len(drafts(other)) == 1 and "by small_help - 0.5*base" in other
    assert "1 draft token" in other and "1 draft token" not in plain + own
    note = "small_help is declared and not in the formula: not loaded"
    assert note in plain + own and note not in other
    [step] = [line for line in plain.splitlines() if line.startswith("per token ")]
    assert all(step in text for text in (own, other, plan(draft="prompt"), plan(draft="auto")))
    assert "by prompt lookup, " in plan(draft="prompt")
    assert drafts(plan(draft="auto")) == drafts(plain)
    with pytest.raises(FormulaError, match="did you mean arm_help"):
        plan(draft="arm_hlep")


def test_run_takes_one_formula(tmp_path):
    found = command("run", EXAMPLES / "sweep.yaml", "--output", tmp_path)
    assert found.returncode == 2 and "choose one with --formula" in found.stderr
    found = command(
        "run",
        EXAMPLES / "sweep.yaml",
        "--formula",
        "soup",
        "--prompt",
        "How?",
        "--set",
        "generate.max_new_tokens=4",
        "--set",
        "generate.num_return_sequences=1",
    )
    assert found.returncode == 0 and found.stdout.strip(), found.stderr


def test_run_with_prompts():
    found = command(
        "run", EXAMPLES / "steer.yaml", "--set", "a=0.7", "--set", "generate.max_new_tokens=8",
        "--prompt", "How do I boil eggs?", "--prompt", "How do I sleep?",
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert "How do I boil eggs?" in found.stdout


RAW = ("--set", 'models.base.template="{prompt}"', "--set", "generate.max_new_tokens=8",
       "--set", "generate.temperature=0", "--set", "formula=base")  # fmt: skip
BY_CHAT = (*RAW[2:], "--set", "models.base.template=chat")


def test_run_with_chats(tmp_path):
    """A text as a message: by the option, by a file, and by the spec; raw text is another."""
    eggs, file = "How do I boil eggs?", tmp_path / "chat.json"
    file.write_text(json.dumps([{"role": "user", "content": eggs}]))
    found = [
        command("run", EXAMPLES / "steer.yaml", *arguments)
        for arguments in (
            (*BY_CHAT, "--prompt", eggs),
            (*BY_CHAT, "--prompt", eggs, "--chat"),
            (*BY_CHAT, "--prompt", file),
            (*BY_CHAT, "--prompt", file, "--chat"),
            (*RAW, "--prompt", eggs),
        )
    ]
    assert [one.returncode for one in found] == [0] * 5, found[0].stderr
    *chats, raw = [one.stdout for one in found]
    assert len(set(chats)) == 1 and raw not in chats
    several = command(
        "run", EXAMPLES / "steer.yaml", *BY_CHAT, "--prompt", file, "--prompt", "Why?", "--chat"
    )
    assert eggs in several.stdout and "Why?" in several.stdout and "role" not in several.stdout


def test_explain_renders_a_chat(tmp_path):
    arguments = ("explain", "base", "--model", f"base={models()['base']['path']}", "--render", "Hi")
    assert "assistant" not in command(*arguments).stdout
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([{"role": "user", "content": "Hi"}]))
    shown = command(*arguments, "--chat").stdout
    assert "<|user|>" in shown and shown == command(*arguments[:-1], file).stdout


def test_run_writes_lines(tmp_path):
    arguments = ("run", EXAMPLES / "steer.yaml", "--set", "generate.max_new_tokens=4")
    found = descant(*arguments, "--output", tmp_path / "out")
    assert found.returncode == 0, found.stderr
    assert len((tmp_path / "out" / "completions.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["explain", "base + 0.5*arm_hlp"],
            ["not declared", "^^^^^^^", "did you mean arm_help?"],
        ),
        (["explain", ""], ["empty"]),
        (["explain", "base*arm_help"], ["not multiply two models"]),
        (["explain", "base", "--model", "my-base=x"], ["cannot be written in a formula"]),
        (["explain", "base", "--param", "a"], ["write --param NAME=VALUE"]),
        (["explain", "base", "--model", "base=/no/such/folder"], ["there is no folder"]),
        (["run", "nowhere.yaml"], ["there is no run file"]),
        (["run", str(EXAMPLES / "steer.yaml"), "--set", "b=1"], ["no option or parameter b"]),
        (["run", str(EXAMPLES / "steer.yaml"), "--prompt", ""], ["the prompt is empty"]),
        (["run", str(EXAMPLES / "steer.yaml"), "--set", "data.path=none.jsonl"], ["no data file"]),
        (["run", str(EXAMPLES / "steer.yaml"), "--prompt", "x.json"], ["there is no prompt file"]),
        (["run", str(EXAMPLES / "steer.yaml"), "--prompt", " ", "--chat"], ["prompt is empty"]),
        (
            ["run", str(EXAMPLES / "steer.yaml"), "--chat"],
            ["--chat is for the prompt of --prompt", "write data: {chat: true}"],
        ),
        (["explain", "base", "--chat"], ["--chat is for the prompt of --render"]),
        (
            ["explain", str(EXAMPLES / "steer.yaml"), "--render-first", "--chat"],
            ["--chat is for the prompt of --render"],
        ),
    ],
)
def test_bad_input_exits_with_two(tmp_path, arguments, says):
    found = command(*arguments, cwd=tmp_path)
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for part in says:
        assert part in found.stderr
    assert not list(tmp_path.iterdir()), "nothing may be left half-written"
