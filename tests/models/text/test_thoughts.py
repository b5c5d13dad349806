"""Marks of thought: found by themselves, and told by every way of spelling them."""

from __future__ import annotations

import copy
import random

import pytest
import vocabularies
from checkpoints import tokenizer

from descant import ModelError
from descant.models import make_spec
from descant.models.text.thoughts import Thoughts, marks_of
from descant.models.text.token_bytes import token_bytes

OPENS = (  # as DeepSeek-R1's and Qwen3-Thinking's: the prompt ends in a thought
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def spec(**options):
    return make_spec("m", {"path": "x", **options})


def with_marks(*tokens: str, template: str | None = None, special: bool = False):
    own = copy.deepcopy(vocabularies.qwen_like())
    own.add_tokens([*tokens], special_tokens=special)
    own.chat_template = template
    return own


def test_marks_are_found_in_the_vocabulary_and_in_the_template_and_said_by_the_spec() -> None:
    plain = with_marks()
    assert marks_of(spec(), plain) is None
    assert marks_of(spec(), None) is None
    for start, end in (("<think>", "</think>"), ("[THINK]", "[/THINK]")):
        found = marks_of(spec(), with_marks(start, end))
        assert (found.start, found.end) == (start, end)
    assert marks_of(spec(), with_marks(template=OPENS)).start == "<think>"
    assert marks_of(spec(template=OPENS), plain).end == "</think>"
    own = spec(reasoning={"start": "(", "end": ")"})
    assert marks_of(own, with_marks(template=OPENS)).start == "("
    for wrong in ({"start": "("}, {"start": "", "end": ")"}, {"start": [], "end": [1]}, "think"):
        with pytest.raises(ModelError, match="reasoning"):
            spec(reasoning=wrong)


@pytest.mark.parametrize("special", [False, True])
def test_a_mark_that_is_a_token_is_no_text(special) -> None:
    own = with_marks("<think>", "</think>", special=special)
    thoughts = Thoughts(marks_of(spec(), own), own, len(own))
    start, end = (own.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>"))
    spelled = [token for char in "<think>" for token in own(char)["input_ids"]]
    assert start not in spelled
    assert thoughts.after(spelled) < thoughts.inside <= thoughts.after([start])
    assert thoughts.after([start, end]) < thoughts.inside <= thoughts.after([end, start, 7, start])
    assert thoughts.counted([7, start, 8, 9, end, 7], 0) == 4


@pytest.mark.parametrize("own", [vocabularies.llama_like(), vocabularies.qwen_like(), tokenizer()])
def test_any_other_is_found_however_it_is_spelled(own) -> None:
    """In the text of random tokens, among which pieces of the marks are frequent."""
    marks = marks_of(spec(reasoning={"start": "<t>", "end": "</t>"}), own)
    thoughts, draw = Thoughts(marks, own, len(own)), random.Random(0)
    spelled = ("<", "t", ">", "/", "</", "t>", "<t>", "</t>", "a<", ">t", "<<", "ein", "<t")
    pieces = [own(piece, add_special_tokens=False)["input_ids"] for piece in spelled]
    texts, both = token_bytes(own, len(own)).texts, set()
    for _ in range(300):
        ids = [token for _ in range(8) for token in draw.choice(pieces)]
        text = b"".join(texts.get(token, b"") for token in ids).decode()
        inside = False
        while (mark := "</t>" if inside else "<t>") in text:
            text, inside = text.split(mark, 1)[1], not inside
        assert (thoughts.after(ids) >= thoughts.inside) == inside
        both.add(inside)
    assert both == {True, False}


def test_only_the_turn_that_begins_the_answer_opens_a_thought() -> None:
    own = with_marks("<think>", "</think>", "<|im_start|>", "<|im_end|>", template=OPENS)
    thoughts = Thoughts(marks_of(spec(), own), own, len(own))

    def opens(messages, **options) -> bool:
        ids = own.apply_chat_template(messages, return_dict=False, **options)
        return thoughts.after_prompt(ids) >= thoughts.inside

    said = [{"role": "user", "content": "what does <think> mean"}]
    assert opens(said, add_generation_prompt=True)
    assert not opens(said, add_generation_prompt=False)
    closed = [*said, {"role": "assistant", "content": "it"}]
    assert not opens(closed, continue_final_message=True)
