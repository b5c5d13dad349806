"""What each model reads: text, messages and ids through templates, system prompts and prefixes."""

from __future__ import annotations

import pytest
from checkpoints import tokenizer

from descant import ModelError
from descant.models import make_spec, render

HELLO = [{"role": "user", "content": "hello"}]
KIND = [{"role": "system", "content": "be kind"}, *HELLO]


def read(prompt, system=None, alone=False, words=True, **spec) -> str:
    """The tokens that a model reads, as text with its special tokens."""
    ids = render("m", make_spec("m", {"path": "x", **spec}), tokenizer(), prompt, system, alone)
    return tokenizer().decode(ids)


@pytest.mark.parametrize(
    ("prompt", "options", "expected"),
    [
        ("hello", {}, "<s>hello"),
        ("<s>hello", {}, "<s>hello"),
        ("hello", {"system": "be kind"}, "<s>be kind\nhello"),
        ("hello", {"system": ""}, "<s>hello"),
        ("hello", {"alone": True}, "<s>"),
        (HELLO, {"alone": True}, "<s>"),
        ("hello", {"template": "Q: {prompt} A:"}, "<s>Q: hello A:"),
        ("hello", {"template": "{system}|{prompt}", "system": "kind"}, "<s>kind|hello"),
        ("{system}", {"template": "{system}|{prompt}", "system": "{prompt}"},
         "<s>{prompt}|{system}"),
        (HELLO, {"template": "Q: {prompt} A:"}, "<s>Q: hello A:"),
        (KIND, {"template": "{system}|{prompt}"}, "<s>be kind|hello"),
        (KIND, {"template": "{system}|{prompt}", "system": ""}, "<s>|hello"),
        (HELLO, {}, "<s>[user]hello\n[assistant]"),
        (KIND, {}, "<s>[system]be kind\n[user]hello\n[assistant]"),
        (KIND, {"system": "be old"}, "<s>[system]be old\n[user]hello\n[assistant]"),
        (KIND, {"system": ""}, "<s>[user]hello\n[assistant]"),
        ([*HELLO, {"role": "assistant", "content": "well"}], {}, "<s>[user]hello\n[assistant]well"),
        ("hello", {"template": "<s>{% for m in messages %}{{ m.content }}!{% endfor %}"},
         "<s>hello!"),
        ("hello", {"prefix": "so: "}, "<s>so: hello"),
        ("hello", {"prefix": [1, 70]}, None),
        ([1, 80, 81], {}, None),
    ],
)  # fmt: skip
def test_what_a_model_reads(prompt, options, expected) -> None:
    if expected is None:
        ids = render("m", make_spec("m", {"path": "x", **options}), tokenizer(), prompt)
        own = prompt if isinstance(prompt, list) else tokenizer()(prompt)["input_ids"]
        assert ids == [*options.get("prefix", []), *(own[1:] if options else own)]
        return
    if "system" in options:
        spec = {key: value for key, value in options.items() if key != "system"}
        assert read(prompt, system=options["system"], **spec) == expected
    if options.get("system") != "":
        assert read(prompt, **options) == expected


def test_a_system_prompt_in_the_formula_goes_before_the_declared_one() -> None:
    assert read("hello", system="be old", template="{system}|{prompt}") == "<s>be old|hello"
    spec = make_spec("m", {"path": "x", "system": "be kind"})
    for system, expected in (
        (None, "<s>be kind\nhello"),
        ("", "<s>hello"),
        ("old", "<s>old\nhello"),
    ):
        assert tokenizer().decode(render("m", spec, tokenizer(), "hello", system)) == expected


def test_a_prefix_before_ids() -> None:
    spec = make_spec("m", {"path": "x", "prefix": "so: "})
    before = tokenizer()("so: ")["input_ids"]
    assert render("m", spec, tokenizer(), [1, 80, 81]) == [*before, 80, 81]
    assert render("m", spec, tokenizer(), [80, 81]) == [*before, 80, 81]


@pytest.mark.parametrize(
    ("prompt", "spec", "problem"),
    [
        ("", {}, "the prompt is empty"),
        ([], {}, "the prompt is empty"),
        (HELLO, {"template": "{{ raise_exception('never') }}{{ '' }}"}, "cannot render these"),
    ],
)
def test_what_cannot_be_read(prompt, spec, problem) -> None:
    with pytest.raises(ModelError, match=problem):
        read(prompt, **spec)


def test_a_model_without_a_bos_cannot_go_without_a_prompt() -> None:
    from checkpoints import tokenizer as made

    bare = made.__wrapped__()
    bare.bos_token = None
    with pytest.raises(ModelError, match="m has no BOS token"):
        render("m", make_spec("m", "x"), bare, "hello", alone=True)
    assert render("m", make_spec("m", "x"), None, [7, 8], alone=True) == [7]
