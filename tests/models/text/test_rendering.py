"""What each model reads: text, messages and ids through templates, system prompts and prefixes."""

from __future__ import annotations

import chat_templates
import pytest
import vocabularies
from checkpoints import tokenizer
from tokenizers import processors

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
    bare = make_spec("m", {"path": "x", "prefix": [70, 71]})
    assert render("m", bare, tokenizer(), [1, 80, 81]) == [1, 70, 71, 80, 81]
    assert render("m", bare, tokenizer(), "a") == [1, 70, 71, *tokenizer()("a")["input_ids"][1:]]
    assert render("m", spec, tokenizer(), [80, 81]) == [*before, 80, 81]


@pytest.mark.parametrize(
    ("prompt", "spec", "problem"),
    [
        ("", {}, "the prompt is empty"),
        ([], {}, "the prompt is empty"),
        (HELLO, {"template": "{{ raise_exception('never') }}{{ '' }}"}, "cannot render these"),
        (KIND, {"template": chat_templates.GEMMA}, "System role not supported\nits template may"),
        ([{"role": "user"}], {}, "message 0 of the prompt has no content that is text"),
        ([*HELLO, {"content": "a"}], {}, "message 1 of the prompt has no role that is text"),
        ([{"role": "user", "content": [{"type": "image"}]}], {}, "is an image, and has nothing"),
        ([*HELLO, "more"], {"template": "{prompt}"}, "message 1 of the prompt has no role and no"),
        ([*HELLO, *HELLO], {"template": "{prompt}"}, "takes one user message, and the answer so"),
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


def test_messages_need_a_chat_template() -> None:
    with pytest.raises(ModelError, match="m has no chat template, and the prompt is chat messages"):
        render("m", make_spec("m", "x"), vocabularies.qwen_like(), HELLO)


SURE = [*HELLO, {"role": "assistant", "content": "Sure, "}]
MORE = [*HELLO, {"role": "assistant", "content": "well"}, {"role": "user", "content": "more"}]
BEGUN = [*HELLO, {"role": "assistant", "content": ""}]
CHATML = (
    "<|im_start|>system\n{}<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
)
L3 = "<|start_header_id|>{}<|end_header_id|>\n\n"
PUBLISHED = [
    ("LLAMA2", HELLO, "<s>[INST] hello [/INST]"),
    ("LLAMA2", KIND, "<s>[INST] <<SYS>>\nbe kind\n<</SYS>>\n\nhello [/INST]"),
    ("LLAMA2", SURE, "<s>[INST] hello [/INST] Sure, "),
    ("LLAMA2", MORE, "<s>[INST] hello [/INST] well </s><s>[INST] more [/INST]"),
    ("LLAMA3", HELLO, f"<s>{L3.format('user')}hello<|eot_id|>{L3.format('assistant')}"),
    ("LLAMA3", SURE, f"<s>{L3.format('user')}hello<|eot_id|>{L3.format('assistant')}Sure,"),
    ("CHATML", HELLO, CHATML.format("You are a helpful assistant")),
    ("CHATML", KIND, CHATML.format("be kind")),
    ("CHATML", SURE, CHATML.format("You are a helpful assistant") + "Sure, "),
    ("TULU2", HELLO, "<|user|>\nhello\n<|assistant|>\n"),
    ("TULU2", KIND, "<|system|>\nbe kind\n<|user|>\nhello\n<|assistant|>\n"),
    ("TULU2", SURE, "<|user|>\nhello\n<|assistant|>\nSure, "),
    ("GEMMA", HELLO, "<s><start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\n"),
    ("GEMMA", SURE, "<s><start_of_turn>user\nhello<end_of_turn>\n<start_of_turn>model\nSure,"),
    ("MISTRAL", HELLO, "<s>[INST] hello[/INST]"),
    ("MISTRAL", KIND, "<s>[INST] be kind\n\nhello[/INST]"),
    ("MISTRAL", MORE, "<s>[INST] hello[/INST] well</s>[INST] more[/INST]"),
    ("TULU_STRING", SURE, "<s><|user|>\nhello\n<|assistant|>\nSure, "),
    ("SAFE_RLHF", HELLO, "<s>BEGINNING OF CONVERSATION: USER: hello ASSISTANT:"),
    ("SAFE_RLHF", SURE, "<s>BEGINNING OF CONVERSATION: USER: hello ASSISTANT:Sure, "),
    ("ALPACA", HELLO, "<s>" + chat_templates.ALPACA.format(prompt="hello")),
]


@pytest.mark.parametrize(("name", "prompt", "expected"), PUBLISHED)
def test_published_templates(name, prompt, expected) -> None:
    """One BOS, where a chat template writes it, or before a string with {prompt}."""
    assert read(prompt, template=getattr(chat_templates, name)) == expected


@pytest.mark.parametrize("name", ["LLAMA2", "LLAMA3", "CHATML", "TULU2", "GEMMA", "MISTRAL"])
def test_an_answer_that_has_yet_to_begin_is_begun(name) -> None:
    template = getattr(chat_templates, name)
    assert read(BEGUN, template=template) == read(HELLO, template=template)
    assert read("hello", template=template) == read(HELLO, template=template)


@pytest.mark.parametrize("name", ["LLAMA2", "LLAMA3", "CHATML", "TULU2", "MISTRAL", "GEMMA"])
def test_a_chat_template_gives_what_transformers_gives(name) -> None:
    made = vocabularies.llama_like()
    template = getattr(chat_templates, name)
    expected = made.apply_chat_template(
        MORE, chat_template=template, add_generation_prompt=True, return_dict=False
    )
    assert render("m", make_spec("m", {"path": "x", "template": template}), made, MORE) == expected


def test_a_tokenizer_without_a_bos_is_given_none() -> None:
    made = vocabularies.qwen_like(chat=chat_templates.CHATML)
    ids = render("m", make_spec("m", "x"), made, KIND)
    assert made.decode(ids) == CHATML.format("be kind")
    assert made.decode(render("m", make_spec("m", "x"), made, "hello")) == "hello"


def test_an_end_that_the_tokenizer_puts_after_a_text_is_left_out() -> None:
    """The text goes on."""
    made = tokenizer.__wrapped__()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert made("hello")["input_ids"][-1] == 2
    for prompt in ("hello", KIND):
        spec = make_spec("m", {"path": "x", "prefix": "so: "})
        ids = render("m", spec, made, prompt)
        assert ids.count(1) == 1 and ids[0] == 1 and 2 not in ids


def test_a_prefix_comes_after_the_bos_of_a_template() -> None:
    assert read(HELLO, prefix="so: ") == "<s>so: [user]hello\n[assistant]"
    assert read(HELLO, prefix="<s>so: ") == "<s>so: [user]hello\n[assistant]"
    assert read("<s>hello", prefix="so: ") == "<s>so: hello"


def test_a_reward_that_reads_text_goes_on_with_the_answer() -> None:
    from descant.models import render_text

    own = vocabularies.llama_like(chat_template=chat_templates.LLAMA2)
    for spec, expected in (
        ({}, "<s>[INST] hello [/INST] Sure, "),
        ({"template": chat_templates.SAFE_RLHF}, chat_templates.SAFE_RLHF.format(prompt="hello")),
        ({"prefix": "so: "}, "<s>so: [INST] hello [/INST] Sure, "),
    ):
        said = render_text("m", make_spec("m", {"path": "x", **spec}), tokenizer(), own, SURE, None)
        assert said == (expected if "template" not in spec else f"{expected}Sure, ")
