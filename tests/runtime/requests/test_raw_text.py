"""Text that goes past a chat template: a line of the plan, and one warning."""

from __future__ import annotations

import logging

import pytest

import descant
from descant import FormulaError
from descant.models import make_spec
from descant.runtime import Service

TEXT, CHAT, IDS = "the river", [{"role": "user", "content": "the river"}], [1, 70, 71]
NOTE = ": text is read as it is, messages by the chat template (with template: chat, both)"
WARNING = ": text is read as it is, without the chat template"


@pytest.fixture
def warned(caplog):
    """``warned()``: the models that a warning about raw text has named so far, once per warning."""
    caplog.set_level(logging.WARNING, "descant")

    def names() -> list[str]:
        return [said.partition(WARNING)[0] for said in caplog.messages if WARNING in said]

    return names


def test_the_first_text_of_a_decoder_warns(compiled, warned) -> None:
    decoder = compiled("base + 0.5*arm")
    for prompt in (CHAT, IDS, [CHAT, IDS]):
        decoder.generate(prompt, max_new_tokens=1)
    assert warned() == []
    for prompts in ([CHAT, TEXT], TEXT, TEXT):
        decoder.generate(prompts, max_new_tokens=1)
    assert warned() == ["base, arm"]
    compiled("base").generate(TEXT, max_new_tokens=1)
    assert warned() == ["base, arm", "base"]


@pytest.mark.parametrize(
    "decode",
    [
        lambda decoder: [*decoder.stream(TEXT, max_new_tokens=1)],
        lambda decoder: [*decoder.as_completed([TEXT], max_new_tokens=1)],
        lambda decoder: decoder.inspect(TEXT, max_new_tokens=1),
    ],
)
def test_whatever_answers_a_text_warns(compiled, warned, decode) -> None:
    decoder = compiled("base")
    decode(decoder)
    decode(decoder)
    assert warned() == ["base"]


def test_likelihoods_and_views_of_raw_text_are_ordinary(compiled, warned) -> None:
    decoder = compiled("base")
    decoder.loglikelihood([TEXT], [" goes on"])
    decoder.scores(TEXT, IDS)
    decoder.rendered(TEXT)
    assert warned() == []


@pytest.mark.parametrize("template", ["chat", "{prompt}", "{{ messages[0].content }}"])
def test_a_template_says_what_is_meant(compiled, zoo, warned, template) -> None:
    decoder = compiled("base", {"base": {"path": zoo.path("base"), "template": template}})
    decoder.generate(TEXT, max_new_tokens=1)
    assert warned() == [] and not any(NOTE in note for note in decoder.plan.notes)


def test_raw_text_that_is_said_to_be_meant_reads_the_same(compiled, zoo) -> None:
    said = compiled("base", {"base": {"path": zoo.path("base"), "template": "{prompt}"}})
    assert said.rendered(TEXT)[0].ids == compiled("base").rendered(TEXT)[0].ids


def test_the_plan_names_every_model_that_reads_raw_text(compiled, zoo) -> None:
    chat = {"path": zoo.path("arm"), "template": "chat"}
    decoder = compiled("base - 0.5*arm + 0.1*gpt2@none | rerank(rm, k=3)", {"arm": chat})
    assert [note for note in decoder.plan.notes if NOTE in note] == [f"base, rm{NOTE}"]
    assert str(decoder.plan).endswith(f"note        base, rm{NOTE}")
    decoder = compiled("base@none + base@kind", prompts={"kind": "be kind"})
    assert f"base{NOTE}" in decoder.plan.notes


def test_an_adapter_has_its_bases_template_or_its_own(zoo, warned) -> None:
    base, own = {"path": zoo.path("base")}, zoo.adapter("lora4")
    both = descant.compile("base + lora4", {"base": base | {"template": "chat"}, "lora4": own})
    assert {one.text for one in both.rendered(TEXT)} == {"<s>[user]the river\n[assistant]"}
    alone = {"base": base, "lora4": own | {"template": "chat"}}
    decoder = descant.compile("base + lora4", alone)
    texts = {one.term: one.text for one in decoder.rendered(TEXT)}
    assert texts == {"base": "<s>the river", "lora4": "<s>[user]the river\n[assistant]"}
    decoder.generate(TEXT, max_new_tokens=1)
    assert warned() == ["base"]


def test_a_text_by_chat_and_its_message_have_the_same_answer(compiled, zoo) -> None:
    chat = {"path": zoo.path("base"), "template": "chat"}
    rm = {"path": zoo.path("rm"), "template": "chat"}
    decoder = compiled("base@kind + 0.5*base | rerank(rm, k=4)", {"base": chat, "rm": rm},
                       prompts={"kind": "be kind"})  # fmt: skip
    text, message = decoder.generate([TEXT, CHAT], max_new_tokens=12)
    assert text.token_ids == message.token_ids
    raw = compiled("base").generate(TEXT, max_new_tokens=12)[0].token_ids
    assert raw != compiled("base", {"base": chat}).generate(TEXT, max_new_tokens=12)[0].token_ids


@pytest.mark.parametrize(
    ("formula", "carets", "problem"),
    [
        ("arm + base", "      ^^^^", "base says template: chat, and its tokenizer has none"),
        ("arm | rerank(base, k=2)", "             ^^^^", "base says template: chat"),
    ],
)
def test_chat_without_a_chat_template_is_marked_before_weights_are_read(
    zoo, formula, carets, problem
) -> None:
    from checkpoints import tokenizer

    bare = tokenizer.__wrapped__()
    bare.chat_template = None
    kind = "rm" if "rerank" in formula else "base"
    specs = {
        "arm": zoo.path("arm"),
        "base": {"path": zoo.path(kind), "tokenizer": bare, "template": "chat"},
    }
    with pytest.raises(FormulaError) as caught:
        descant.compile(formula, specs)
    found = caught.value
    assert problem in found.problem and "with {prompt} where the prompt goes" in found.cure
    assert " " * found.span.start + "^" * (found.span.end - found.span.start) == carets


def test_a_name_that_no_template_has_is_marked(zoo) -> None:
    with pytest.raises(FormulaError) as caught:
        descant.compile("base", {"base": {"path": zoo.path("base"), "template": "caht"}})
    assert "no chat template named 'caht'" in caught.value.problem
    assert caught.value.cure == "it has chat" and caught.value.span.start == 0


def test_the_formulas_of_a_service_warn_once(zoo, warned) -> None:
    specs = {name: make_spec(name, zoo.path(name)) for name in ("base", "arm")}
    service = Service(specs, slots=2, max_model_len=64)
    one, other = service.decoder("base"), service.decoder("base + arm")
    for decoder in (one, other, one, other):
        service.submit(decoder, TEXT, max_new_tokens=1)
        while service.busy:
            service.step()
    one.alone().inspect(TEXT, max_new_tokens=1)
    assert warned() == ["base", "arm"]
