"""``template: chat``, several chat templates of one tokenizer, and developer messages."""

from __future__ import annotations

import copy
import logging

import chat_templates
import pytest
import vocabularies
from checkpoints import tokenizer

from descant import ModelError
from descant.models import make_spec, render, render_text
from descant.models.text.chat import RawTextLog, check_template, reads_raw_text

HELLO = [{"role": "user", "content": "hello"}]
PUBLISHED = ["LLAMA2", "LLAMA3", "CHATML", "TULU2", "GEMMA", "MISTRAL"]
KNOWS = (  # as gpt-oss: a developer's turn of its own
    "{% for m in messages %}{% if m.role in ('system', 'developer', 'user', 'assistant') %}"
    "<{{ m.role }}>{{ m.content }}{% else %}{{ raise_exception('another role') }}{% endif %}"
    "{% endfor %}"
)
RAISES = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('another role') }}{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
)
IGNORES = (
    "{% for m in messages %}{% if m.role == 'system' %}<system>{{ m.content }}"
    "{% elif m.role == 'user' %}<user>{{ m.content }}{% endif %}{% endfor %}"
)


def with_templates(templates):
    """The tokenizer with this chat template, or these by name, or none."""
    own = copy.deepcopy(tokenizer())
    own.chat_template = templates
    return own


def read(own, prompt, system=None, **spec) -> list[int]:
    return render("m", make_spec("m", {"path": "x", **spec}), own, prompt, system)


def text(prompt, system=None, **spec) -> str:
    return tokenizer().decode(read(tokenizer(), prompt, system, **spec))


@pytest.mark.parametrize("name", PUBLISHED)
def test_chat_reads_a_text_as_transformers_reads_one_user_message(name) -> None:
    own = vocabularies.llama_like(chat_template=getattr(chat_templates, name))
    expected = own.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    assert read(own, "hello", template="chat") == expected
    assert read(own, HELLO, template="chat") == expected == read(own, HELLO)
    assert read(own, "hello") == own("hello")["input_ids"] != expected


@pytest.mark.parametrize("name", ["LLAMA2", "LLAMA3", "CHATML", "TULU2", "MISTRAL"])
def test_chat_with_a_system_prompt_is_a_system_message(name) -> None:
    own = vocabularies.llama_like(chat_template=getattr(chat_templates, name))
    messages = [{"role": "system", "content": "be kind"}, *HELLO]
    expected = own.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert read(own, "hello", template="chat", system="be kind") == expected
    spec = make_spec("m", {"path": "x", "template": "chat", "system": "be old"})
    assert render("m", spec, own, "hello", "be kind") == expected  # that of the formula
    assert render("m", spec, own, "hello", "") == read(own, HELLO)


def test_chat_is_the_default_of_several_and_goes_behind_one_of_that_name() -> None:
    default, other = "<d>{{ messages[0].content }}", "<o>{{ messages[0].content }}"
    several = with_templates({"default": default, "tool_use": other})
    for options in ({"template": "chat"}, {"template": "default"}):
        assert several.decode(read(several, "hello", **options)) == "<d>hello"
    assert several.decode(read(several, HELLO)) == "<d>hello"
    assert several.decode(read(several, "hello", template="tool_use")) == "<o>hello"
    named = with_templates({"default": default, "chat": other})
    assert named.decode(read(named, "hello", template="chat")) == "<o>hello"
    assert named.decode(read(named, HELLO)) == "<d>hello"


def test_a_prefix_and_an_answer_that_has_begun() -> None:
    assert text("hello", template="chat", prefix="so: ") == "<s>so: [user]hello\n[assistant]"
    begun = [*HELLO, {"role": "assistant", "content": "Well,"}]
    assert text(begun, template="chat") == "<s>[user]hello\n[assistant]Well,"


def test_a_reward_that_reads_text_has_its_own_chat_template() -> None:
    own = vocabularies.llama_like(chat_template=chat_templates.LLAMA2)
    spec = make_spec("m", {"path": "x", "template": "chat"})
    for prompt in ("hello", HELLO):
        read_text = render_text("m", spec, tokenizer(), own, prompt, None)
        assert read_text == "<s>[INST] hello [/INST]" and not read_text.special


@pytest.mark.parametrize(
    ("templates", "template", "problem", "cure"),
    [
        (None, "chat", "m says template: chat, and its tokenizer has none",
         "give template: … with one, or with {prompt} where the prompt goes"),
        ({"rag": "a", "tool_use": "b"}, "chat",
         "the tokenizer of m has several chat templates, and none is its default",
         "name one, template: …; it has rag, tool_use"),
        ({"rag": "a", "tool_use": "b"}, "tools", "no chat template named 'tools'",
         "it has rag, tool_use"),
        ("{{ messages }}", "chta", "no chat template named 'chta'", "it has chat"),
        (None, "Q: A:", "no chat template named 'Q: A:'", "write {prompt} where the prompt goes"),
    ],
)  # fmt: skip
def test_no_such_template(templates, template, problem, cure) -> None:
    own, spec = with_templates(templates), make_spec("m", {"path": "x", "template": template})
    for call in (
        lambda: check_template("m", spec, own),
        lambda: render("m", spec, own, "hello"),
        lambda: render("m", spec, own, HELLO),
    ):
        with pytest.raises(ModelError) as caught:
            call()
        assert problem in caught.value.problem and caught.value.cure == cure
        assert caught.value.more.endswith("#chat-templates")


def test_messages_through_several_templates_without_a_default() -> None:
    with pytest.raises(ModelError, match="none is its default\nname one, template: …; it has rag"):
        read(with_templates({"rag": "{{ messages }}"}), HELLO)


@pytest.mark.parametrize("template", [None, "chat", "default", "Q: {prompt}", "{{ messages }}"])
def test_a_template_that_is_there_is_no_error(template) -> None:
    own = with_templates({"default": "{{ messages }}"})
    check_template("m", make_spec("m", {"path": "x", "template": template}), own)
    check_template("m", make_spec("m", {"path": "x", "template": "anything"}), None)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SYSTEM, DEVELOPER, USER = message("system", "S"), message("developer", "D"), message("user", "U")


@pytest.mark.parametrize(
    ("prompt", "as_system", "known"),
    [
        ([DEVELOPER, USER], "<system>D<user>U", "<developer>D<user>U"),
        ([SYSTEM, DEVELOPER, USER], "<system>S\n\nD<user>U", "<system>S<developer>D<user>U"),
        ([DEVELOPER, SYSTEM, USER], "<system>D\n\nS<user>U", "<developer>D<system>S<user>U"),
        ([DEVELOPER, DEVELOPER, USER], "<system>D\n\nD<user>U", "<developer>D<developer>D<user>U"),
        ([SYSTEM, SYSTEM, USER], "<system>S<system>S<user>U", "<system>S<system>S<user>U"),
        ([USER, DEVELOPER, USER], "<user>U<system>D<user>U", "<user>U<developer>D<user>U"),
        ([SYSTEM, USER, DEVELOPER, USER], "<system>S<user>U<system>D<user>U",
         "<system>S<user>U<developer>D<user>U"),
    ],
)  # fmt: skip
def test_a_developer_is_the_system_where_the_template_knows_none(prompt, as_system, known) -> None:
    before = copy.deepcopy(prompt)
    assert text(prompt, template=RAISES) == text(prompt, template=IGNORES) == as_system
    assert text(prompt, template=KNOWS) == known
    own = with_templates({"default": IGNORES, "new": KNOWS})
    assert own.decode(read(own, prompt)) == own.decode(read(own, prompt, template="chat"))
    assert own.decode(read(own, prompt)) == as_system
    assert own.decode(read(own, prompt, template="new")) == known
    assert prompt == before


def test_a_developer_whom_the_template_drops_is_no_silent_loss() -> None:
    """As gpt-oss: the first message may be a developer's or the system's; others are dropped."""
    first = (
        "{% if messages[0].role == 'developer' or messages[0].role == 'system' %}"
        "<developer>{{ messages[0].content }}{% set messages = messages[1:] %}{% endif %}"
        "{% for m in messages if m.role == 'user' %}<user>{{ m.content }}{% endfor %}"
    )
    assert text([DEVELOPER, USER], template=first) == "<developer>D<user>U"
    assert text([SYSTEM, USER], template=first) == "<developer>S<user>U"
    with pytest.raises(ModelError) as caught:
        text([SYSTEM, DEVELOPER, USER], template=first)
    assert caught.value.problem == "the chat template of m leaves out a developer's message: 'D'"
    assert caught.value.cure == "write it into the system message"


def test_the_templates_of_this_test_do_what_they_are_for() -> None:
    apply = tokenizer().apply_chat_template
    with pytest.raises(Exception, match="another role"):
        apply([DEVELOPER, USER], chat_template=RAISES, tokenize=False)
    assert apply([DEVELOPER, USER], chat_template=IGNORES, tokenize=False) == "<user>U"


@pytest.mark.parametrize("name", ["LLAMA2", "LLAMA3", "CHATML", "TULU2", "MISTRAL"])
def test_published_templates_read_a_developer_as_the_system(name) -> None:
    template = getattr(chat_templates, name)
    assert "developer" not in template
    one = [message("system", "S\n\nD"), USER]
    assert text([SYSTEM, DEVELOPER, USER], template=template) == text(one, template=template)
    assert text([message("developer", "S"), USER], template=template) == text(
        [SYSTEM, USER], template=template
    )


@pytest.mark.parametrize("template", [RAISES, KNOWS])
def test_a_system_prompt_of_the_formula_stands_in_for_both(template) -> None:
    prompt = [SYSTEM, DEVELOPER, USER]
    assert text(prompt, "new", template=template) == "<system>new<user>U"
    assert text(prompt, "", template=template) == "<user>U"
    assert text(prompt, system="new", template=template) == "<system>new<user>U"


@pytest.mark.parametrize("template", [RAISES, KNOWS])
def test_messages_of_which_none_is_left_are_an_error(template) -> None:
    with pytest.raises(ModelError, match="an empty conversation"):
        text([SYSTEM, DEVELOPER], "", template=template)


def test_a_developer_fills_the_system_prompt_of_a_string() -> None:
    assert text([DEVELOPER, USER], template="{system}|{prompt}") == "<s>D|U"
    assert text([SYSTEM, DEVELOPER, USER], template="{system}|{prompt}") == "<s>S\n\nD|U"
    with pytest.raises(ModelError, match="no place for the system prompt 'D'"):
        text([DEVELOPER, USER], template="{prompt}")


def test_a_template_that_takes_no_system_prompt_takes_no_developer() -> None:
    with pytest.raises(ModelError, match="System role not supported\nits template may take no"):
        text([DEVELOPER, USER], template=chat_templates.GEMMA)


@pytest.mark.parametrize(
    ("templates", "template", "raw"),
    [
        ("{{ messages }}", None, True),
        ({"rag": "a"}, None, True),
        (None, None, False),
        ("{{ messages }}", "chat", False),
        ("{{ messages }}", "{prompt}", False),
        ("{{ messages }}", "{{ messages }}", False),
    ],
)
def test_whether_text_goes_past_a_chat_template(templates, template, raw) -> None:
    spec = make_spec("m", {"path": "x", "template": template})
    assert reads_raw_text(spec, with_templates(templates)) is raw
    assert reads_raw_text(spec, None) is False


def test_the_warning_names_each_model_once(caplog) -> None:
    log = RawTextLog()
    with caplog.at_level(logging.WARNING, "descant"):
        log.warn([], ["text"])
        log.warn(["a", "b"], [HELLO, [1, 2]])
        assert not caplog.records
        log.warn(["a", "b"], [HELLO, "text"])
        log.warn(["b"], ["text"])
        log.warn(["b", "c"], ["text"])
    first, second = caplog.messages
    assert first.startswith("a, b: text is read as it is, without the chat template. A base model")
    assert "messages, or template: chat in its spec" in first and '"{prompt}"' in first
    assert second.startswith("c: text is read as it is")
