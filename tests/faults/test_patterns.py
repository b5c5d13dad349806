"""Patterns, templates and files of strangers: each ends soon, whatever it was made to do."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from bad_files import ends
from checkpoints import CHAT, tokenizer
from hypothesis import example, given
from hypothesis import strategies as st

import descant
from descant import DescantError, FormulaError, ModelError
from descant.errors import MESSAGE, QUOTED, quoted, short_message, shortened
from descant.inputs import formats
from descant.inputs.prompts import read_items
from descant.inputs.runfile import Data, RunFileError, read_run_file
from descant.models.adapters import patterns
from descant.models.text import templates
from descant.models.text.chat import written

ROOT = Path(__file__).parents[2]
MESSAGES = [{"role": "user", "content": "hi"}]
IDS = [1, 50, 60]
CATASTROPHE = r"(\w|\w\w|\.|\w\.|\w\w\w|\w\.\w)*[^\w.]"
LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
NAMED = "{% set n = namespace(x='x') %}{% for i in range(99) %}"


def render(template: str) -> str:
    return written("m", template, tokenizer(), MESSAGES)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates have less time and memory, for the sake of the tests'."""
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    monkeypatch.setattr(templates, "MEMORY", 1 << 26)


@pytest.mark.parametrize(
    "template",
    [
        LOOPS,
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% for i in range(9999) %}{{ range(99999)|list|sort|length }}{% endfor %}",
        "{% set x = 'ab' * 1000000 %}{% for i in range(99999) %}{{ 'abb' in x }}{% endfor %}",
        "{{ lipsum(n=10**9) }}",
    ],
)
def test_a_template_that_does_not_end_is_ended(soon, template) -> None:
    with ends(5), pytest.raises(ModelError, match=r"longer than 0\.3 seconds"):
        render(template)


@pytest.mark.parametrize(
    "step",
    [
        "{% set n.x = n.x + n.x %}",
        "{% set n.x = n.x ~ n.x %}",
        "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}",
    ],
)
def test_a_text_that_doubles_is_stopped_by_the_memory_that_it_takes(soon, monkeypatch, step):
    monkeypatch.setattr(templates, "SECONDS", 8)
    with ends(9), pytest.raises(ModelError, match="more than 64 MB of memory"):
        render(NAMED + step + "{% endfor %}")


@pytest.mark.parametrize(
    "expression",
    [
        "'x' * 10**10", "10**10 * 'x'", "([1] * 10**10)|length", "10**(10**10)",
        "'x'|center(10**10)",
        "'x'.ljust(10**10)", "'x'.zfill(10**10)", "'%10000000000d' % 1", "'%*d' % (10**10, 1)",
        "'{:10000000000}'.format(1)", "'{:{}}'.format(1, 10**10)", "'%10000000000d'|format(1)",
        "('x' * 10**6).replace('x', 'x' * 10**6)", "('x' * 10**6)|replace('x', 'x' * 10**6)",
        "('x' * 10**6).join('x' * 10**6)", "('x' * 10**6)|join('x' * 10**6)",
        "'x\\n'|indent(10**10, true)", "[[1]]|tojson(indent=10**10)", "'\\t'.expandtabs(10**10)",
        "[1]|batch(10**10, 'x')|list", "('x ' * 10**6)|wordwrap(2, wrapstring='x' * 10**6)",
    ],
)  # fmt: skip
def test_what_no_watch_can_end_is_not_begun(expression) -> None:
    with ends(2), pytest.raises(ModelError, match=r"render these messages: (one step|it )"):
        render("{{ " + expression + " }}")


def test_what_templates_do_is_what_they_do_in_transformers() -> None:
    from transformers.utils import chat_template_utils as utils

    template = (
        CHAT + "{{ '=' * 20 }}{{ 3 * 4 }}{{ 2**10 }}{{ '%5.2f|%s' % (1.5, 'a') }}{{ 7 % 2 }}"
        "{{ '{:>8}'.format('a') }}{{ 'a-b'.replace('-', '+') }}{{ {'a': [1]}|tojson(indent=2) }}"
        "{{ 'a'|center(9) }}{{ ','.join(['a', 'b']) }}{{ [1, 2]|join(', ') }}{{ 'x'|indent(4) }}"
        "{{ '20241129 {}'.format(10**12) }}{{ 'abab'|replace('a', 'c', 1) }}{{ 'a b'|wordwrap(1) }}"
    )
    plain = utils.ImmutableSandboxedEnvironment
    utils._compile_jinja_template.cache_clear()
    expected = tokenizer().apply_chat_template(
        MESSAGES, chat_template=template, tokenize=False, add_generation_prompt=True
    )
    assert render(template) == expected and "=" * 20 in expected
    assert utils.ImmutableSandboxedEnvironment is plain  # nobody else's templates are bounded


def test_a_thread_that_is_stopped_goes_on_with_the_next(soon) -> None:
    """In any thread, several at once; nothing is raised after the end."""
    results: list[str] = []

    def work() -> None:
        for template in (LOOPS, CHAT, LOOPS + " ", CHAT):
            try:
                results.append(render(template))
            except ModelError as error:
                results.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    with ends():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum("longer than" in result for result in results) == 4
    assert sum(result == "<s>[user]hi\n[assistant]" for result in results) == 4


def test_a_template_of_a_declaration_and_one_that_is_too_long(zoo, soon) -> None:
    for template, says in ((LOOPS, "longer than"), ("{{ x }}" * 100_000, "700000 characters")):
        spec = {"path": zoo.path("base"), "template": template}
        with ends(), pytest.raises(DescantError, match=says):
            descant.compile("m", {"m": spec}).generate(MESSAGES, max_new_tokens=1)


def adapter(zoo: Any, folder: Path, **fields: Any) -> Path:
    shutil.copytree(zoo.path("lora4"), folder, dirs_exist_ok=True)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    return folder


def scores(zoo: Any, folder: Path, merge: bool) -> torch.Tensor:
    models = {"b": {"model": zoo.model("base")}}
    models["m"] = {"adapter": str(folder), "on": "b", "merge": merge}
    return descant.compile("m", models).scores(IDS, [])


@pytest.mark.parametrize(
    ("field", "value", "merge"),
    [
        ("alpha_pattern", {CATASTROPHE: 9}, False),
        ("alpha_pattern", {CATASTROPHE: 9}, True),
        ("rank_pattern", {CATASTROPHE: 9}, True),
        ("target_modules", CATASTROPHE, True),
        ("exclude_modules", CATASTROPHE, True),
    ],
)
def test_a_pattern_that_takes_for_ever_is_refused(zoo, tmp_path, field, value, merge) -> None:
    with ends(), pytest.raises(FormulaError, match=rf"{field} of the adapter m has .*takes longer"):
        scores(zoo, adapter(zoo, tmp_path, **{field: value}), merge)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("alpha_pattern", {"(": 9}, "is no regular expression"),
        ("target_modules", "[", "is no regular expression"),
        ("target_modules", "q_proj|" * 500, "is too long, or has too many repetitions"),
        ("target_modules", "((((a{99}){99}){99}){99})", "too many repetitions"),
        ("layers_pattern", ["(layers)+"], "is no name"),
        ("modules_to_save", ["(a+)+$"], "is no name"),
    ],
)
def test_what_is_no_pattern_is_said(zoo, tmp_path, field, value, says) -> None:
    with ends(), pytest.raises(FormulaError, match=says):
        scores(zoo, adapter(zoo, tmp_path, **{field: value}), merge=True)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": r"^(?!.*\.1\.).*(q|v)_proj$"},
        {"target_modules": r".*(q|v)_proj", "exclude_modules": r".*layers\.0\..*q_proj"},
        {"alpha_pattern": {r"layers\.1\..*": 30, "v_proj": 2, r".*q_pro[j]": 5}},
        {
            "rank_pattern": {r"(?=.*v_proj).*": 6},
            "alpha_pattern": {r"^model\.layers\.0.*v_proj": 3},
        },
        {"layers_to_transform": [1], "layers_pattern": "layers"},
    ],
)
def test_peft_merges_what_it_would_have_merged(zoo, tmp_path, fields) -> None:
    """The patterns that are resolved here, and peft's own matching of them, give one model."""
    peft = pytest.importorskip("peft", reason="pip install descant[train]")
    from checkpoints import fresh

    torch.manual_seed(3)
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]} | fields
    config = peft.LoraConfig(init_lora_weights=False, **options)
    peft.get_peft_model(fresh(zoo.path("base")), config).save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(fresh(zoo.path("base")), tmp_path).eval()
    with torch.no_grad():
        expected = model(torch.tensor([IDS])).logits[0, -1].log_softmax(-1)
    for merge in (True, False):
        assert torch.allclose(scores(zoo, tmp_path, merge)[0], expected, atol=1e-4)
    bare = descant.compile("b", {"b": zoo.path("base")}).scores(IDS, [])[0]
    assert not torch.allclose(bare, expected, atol=1e-2)


NAMES = ["lm_head", "x.lm_head", "model.a.lm_head", "model.a", "x.model.a", "model.a.b", "aXlm"]


@pytest.mark.parametrize("form", [patterns.KEY, r".*\.{}$", r".*?(?:{})"])
@pytest.mark.parametrize("chosen", [["lm_head"], ["model.a"], ["x.lm_head", "model.a.b"], []])
def test_names_match_themselves_alone_in_every_form_of_peft(form, chosen) -> None:
    compiled = re.compile(form.format(patterns._exactly(chosen)))
    possible = [name for name in chosen if "." in name or not form.startswith(r".*\.")]
    assert [name for name in NAMES if compiled.match(name)] == possible


def run_file(folder: Path, **content: Any) -> Any:
    file = folder / "run.yaml"
    base: dict[str, Any] = {"formula": "base", "models": {"base": "org/base"}}
    file.write_text(json.dumps({k: v for k, v in {**base, **content}.items() if v is not None}))
    return read_run_file(file)


@pytest.mark.parametrize("text", ["${env:a,", "${env:", "${env:a", "${env:!}", "${"])
def test_variables_of_the_environment_are_found_at_once(tmp_path, text) -> None:
    with ends(3):
        run = run_file(tmp_path, prompts={"child": text * (240_000 // len(text))})
    assert len(run.prompts["child"]) <= 240_000


def test_a_name_of_a_formula_has_one_line(tmp_path) -> None:
    for name in ("a\n", "a\nb", "\na", "a b", ""):
        with pytest.raises(RunFileError, match="is no name; use letters"):
            run_file(tmp_path, formula=None, formulas={name: "base"})
    assert run_file(tmp_path, formula=None, formulas={"a-b.c+1": "base"}).named


@pytest.mark.parametrize("temperature", [1e39, 1e308, 10**400, float("nan")])
def test_a_temperature_that_float32_cannot_hold(zoo, temperature) -> None:
    decoder = descant.compile("base", {"base": zoo.path("base")})
    with pytest.raises(DescantError, match=r"temperature is .*; it must be finite"):
        decoder.generate(IDS, max_new_tokens=1, temperature=temperature)
    with pytest.raises(DescantError, match=r"a is .*; a parameter is a finite number|not a fin"):
        descant.compile("base + a*base", {"base": zoo.path("base")}, params={"a": temperature})


def test_a_temperature_of_a_run_file_that_float32_cannot_hold(tmp_path) -> None:
    for where in ({"generate": {"temperature": 1e39}}, {"sweep": {"temperature": [1, 1e39]}}):
        with pytest.raises(RunFileError, match=r"temperature .*3e\+38"):
            run_file(tmp_path, **where)


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.safetensors", "a/b.safetensors", "a/.."])
def test_an_index_names_what_is_beside_it(zoo, tmp_path, name) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    (tmp_path / "m/model.safetensors").rename(tmp_path / "model.safetensors")
    content = {"metadata": {}, "weight_map": {"lm_head.weight": name}}
    (tmp_path / "m/model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(FormulaError, match=r"index.json, cannot be read: it names .*beside it"):
        descant.compile("m", {"m": str(tmp_path / "m")})


def test_weights_of_a_layer_that_the_configuration_leaves_out(zoo, tmp_path) -> None:
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    file = tmp_path / "m/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_hidden_layers": 1}))
    with pytest.raises(FormulaError, match=r"hold model\.layers\.1\..*leaves out"):
        descant.compile("m", {"m": str(tmp_path / "m")})


def test_a_tokenizer_whose_pattern_gives_up(zoo, tmp_path) -> None:
    """What is tried in vain is bounded inside of the tokenizer, which then panics."""
    shutil.copytree(zoo.path("base"), tmp_path / "m")
    file = tmp_path / "m/tokenizer.json"
    content = json.loads(file.read_text())
    split = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated"}
    split |= {"invert": False}
    both = [split, content["pre_tokenizer"]]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": both}
    file.write_text(json.dumps(content))
    decoder = descant.compile("m", {"m": str(tmp_path / "m")})
    with ends(), pytest.raises(ModelError, match=r"cannot read the prompt: .*retry-limit"):
        decoder.generate("a" * 60 + "!", max_new_tokens=1)


def compressed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl.gz", compressed(bytes(1 << 25)), "expands to more than 200 times its size"),
        ("a.jsonl.gz", compressed(b"\n" * (1 << 25)), "expands to more than 200 times its size"),
        ("a.json.gz", compressed(b"[" + b" " * (1 << 25)), "expands to more than 200 times"),
        ("a.csv.gz", compressed(b"prompt\n" + b"a\n" * (1 << 24)), "expands to more than 200"),
        ("a.jsonl", b"\x28\xb5\x2f\xfd" + bytes(99), "compressed by zstd; unpack it first"),
        ("a.csv", compressed(b"prompt\na\n"), "compressed by gzip; name it so, .gz"),
        ("a.txt", "naive".encode("utf-16-le"), "line 1 holds a NUL"),
    ],
)
def test_what_expands_without_end(tmp_path, name, content, says) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with ends(), pytest.raises(RunFileError, match=says):
        read_items(Data(path=str(file)))


def test_a_line_has_a_length(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(formats, "LINE", 1000)
    file = tmp_path / "a.jsonl"
    for content in ('{"prompt": "a"}\n' + "x" * 1001, '{"prompt": "' + "v" * 2000):
        file.write_text(content)
        with pytest.raises(RunFileError, match=r"line \d has more than 1000 bytes"):
            read_items(Data(path=str(file)))


def test_a_table_of_one_value_a_million_times(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pip install descant[report]")
    from pyarrow import parquet

    file = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"prompt": ["a" * 1000] * 100_000}), file, compression="zstd")
    with ends(), pytest.raises(RunFileError, match="expands to more than 200 times its size"):
        read_items(Data(path=str(file)))


def test_real_data_expands_as_it_should(tmp_path) -> None:
    """The same long instruction in each row compresses well, and is no bomb."""
    row = {"prompt": "You are a careful assistant. " * 40}
    file = tmp_path / "a.jsonl.gz"
    lines = "".join(json.dumps(row | {"id": i}) + "\n" for i in range(20_000))
    file.write_bytes(compressed(lines.encode()))
    assert len(lines) > formats.EXPANDED and len(read_items(Data(path=str(file)))) == 20_000


@given(st.text(max_size=3000) | st.text("ab \n", max_size=300).map(lambda text: text * 20))
@example(" ".join(["x" * QUOTED] * 30))  # the cut is between words
def test_a_message_is_short_and_keeps_both_ends(text: str) -> None:
    short = short_message(text)
    assert len(short) <= MESSAGE and all(len(word) <= QUOTED for word in short.split())
    assert short[:50] == text[:50] and short[-50:] == text[-50:]
    if len(text) <= MESSAGE and all(len(word) <= QUOTED for word in text.split()):
        assert short == text


@given(st.recursive(st.integers() | st.text(), st.lists), st.integers(3, 300))
def test_a_quotation_is_short(value: Any, most: int) -> None:
    assert len(quoted(value)) <= QUOTED
    assert len(shortened(str(value), most)) <= most


def test_what_is_quoted_whole_and_what_is_not() -> None:
    assert quoted("abc") == "'abc'" and quoted([1, "a", None]) == "[1, 'a', None]"
    assert quoted(10**5000) == "a int" and len(quoted("x" * 10**7)) <= QUOTED
    nested: Any = []
    for _ in range(10**5):
        nested = [nested]
    assert quoted(nested) == "[[[[[[[...]]]]]]]"


USES: dict[str, Callable[[Any, str], Any]] = {  # how each pattern is used on texts of strangers
    "descant/compare/judge.py": lambda module, text: module._VERDICT.findall(text),
    "descant/demo/measures.py": lambda module, text: (
        module.ITEM.findall(text),
        module.PIRATE.findall(text),
    ),
    "descant/disk.py": lambda module, text: module._RUST.search(text),
    "descant/errors.py": lambda module, text: module.short_message(text),
    "descant/inputs/runfile.py": lambda module, text: (
        module._NAME.fullmatch(text),
        module._with_environment(text.replace("}", ""), "here"),
    ),
    "descant/show/terminal.py": lambda module, text: module.visible(text),
    "descant/train/examples.py": lambda module, text: module.TURN.split(text),
    "descant/train/states/recipe.py": lambda module, text: module._RANGE.fullmatch(text),
    "grammar/characters.py": lambda module, text: module._GREEK.match(text[:100]),  # of a name
    "grammar/literals.py": lambda module, text: module._ESCAPE.sub("", text),
    "models/adapters/lora.py": lambda module, text: module._KEY.fullmatch(text),
    "models/adapters/vector_files.py": lambda module, text: module._NUMBER.fullmatch(text),
    "models/adapters/patterns.py": lambda module, text: (
        module.PLAIN.fullmatch(text),
        module._COUNT.findall(text[: module.LONGEST]),
    ),
    "models/checkpoint/gguf.py": lambda module, text: module._PART.search(text),
    "models/invalid.py": lambda module, text: module._UNION_TYPE.match(text),
    "models/loading/load.py": lambda module, text: module._NUMBER.sub(".0.", text),
    "models/text/thoughts.py": lambda module, text: module._TURN.fullmatch(text),
    "models/text/templates.py": lambda module, text: module._WIDE.search(text),
    "models/text/token_decoder.py": lambda module, text: module.BYTE.fullmatch(text),
    "runtime/explain/gpus.py": lambda module, text: module._WRITTEN.fullmatch(text),
    "runtime/explain/placement.py": lambda module, text: module._LAYER.sub(".*", text),
    "runtime/constraints/limits.py": lambda module, text: [
        pattern.findall(before + text)
        for pattern in (module._BOUNDS, module._MULTIPLES, module._RULES)
        for before in ("", "{", '"multipleOf"', "a")
    ],
}
PIECES = (
    "a", " ", "\n", "0", ".", "-", "{", "%", "\\", "a.", " a", "\n ", "\n\nHuman:", "verdict ",
    "${env:a,", "${env:", "<0x0", "-00001-of-", "%9", ":9", "{:{", "{a:", "lora_A.", "arr", "sail",
)  # fmt: skip


def test_every_pattern_is_among_those_that_are_tried() -> None:
    """A new pattern joins ``USES``."""
    found = {
        file.relative_to(ROOT).as_posix()
        for package in ("grammar", "formula", "models", "runtime", "descant")
        for file in (ROOT / package).rglob("*.py")
        if "re.compile(" in file.read_text(encoding="utf-8")
    }
    assert found == USES.keys()


@pytest.mark.parametrize("file", USES)
def test_a_pattern_of_ours_takes_no_longer_than_its_text(file) -> None:
    name = file.removesuffix(".py").replace("/", ".")
    module = import_module(name if name.startswith("descant.") else f"descant.{name}")
    with ends(5):
        for piece in PIECES:
            USES[file](module, piece * (100_000 // len(piece)) + "\x01")
