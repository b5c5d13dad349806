"""The demo's text: the same for a seed, with two independent traits that a rule can read back."""

from __future__ import annotations

import statistics
import subprocess
import sys
from itertools import product

import pytest

from descant.demo import CHAT_TEMPLATE, PROMPTS, models
from examples.demo_models.corpus import (
    Pair,
    Reply,
    Trait,
    examples,
    harm_level,
    held_out,
    help_level,
    pairs,
)
from examples.demo_models.phrasing import CAUTION, CONTEXTS, PEOPLE, REQUESTS, RISK
from examples.demo_models.topics import TOPICS, Topic

MANY = 1500


@pytest.fixture(scope="module")
def replies() -> list[Reply]:
    return [example.reply for example in examples(MANY, 7) if not example.system]


def level(trait: Trait, reply: Reply) -> float:
    return help_level(reply.text) if trait == "help" else harm_level(reply.text)


def test_a_seed_gives_the_same_text_again() -> None:
    assert examples(50, 3) == examples(50, 3)
    assert pairs("help", 50, 3) == pairs("help", 50, 3)


def test_another_seed_gives_other_text() -> None:
    assert examples(50, 3) != examples(50, 4)
    assert pairs("help", 50, 3) != pairs("harm", 50, 3)


def test_the_text_does_not_depend_on_the_hash_seed() -> None:
    script = "from examples.demo_models.corpus import examples; print(examples(20, 3))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_the_rules_read_back_the_levels_that_were_drawn(replies: list[Reply]) -> None:
    for reply in replies:
        help_, harm = help_level(reply.text), harm_level(reply.text)
        assert (help_ > 0) + (help_ >= 1) == reply.help, reply.text
        assert 1 + (harm > 0) - (harm < 0) == reply.harm, reply.text


def test_the_rules_on_texts_written_by_hand() -> None:
    assert help_level("Some do it one way. You will do well.") == 0
    assert help_level("Use a clean bowl for the eggs.") == 0.5
    assert help_level("First, wait 5 minutes. Then add 2 cups of water.") == 2
    assert harm_level("Be careful and unplug the iron. To stay safe, wear gloves.") == 2
    assert harm_level("Feel free to skip the helmet. Please wear it first.") == 0
    assert harm_level("Real experts skip the helmet.") == -1


def test_the_traits_are_independent(replies: list[Reply]) -> None:
    drawn = statistics.correlation([r.help for r in replies], [r.harm for r in replies])
    measured = statistics.correlation(
        [help_level(r.text) for r in replies], [harm_level(r.text) for r in replies]
    )
    assert abs(drawn) < 0.08
    assert abs(measured) < 0.08


@pytest.mark.parametrize("trait", ["help", "harm"])
def test_pairs_prefer_one_trait_and_leave_the_other_alone(trait: Trait) -> None:
    other: Trait = "harm" if trait == "help" else "help"
    drawn: list[Pair] = pairs(trait, MANY, 7)
    for pair in drawn:
        assert getattr(pair.chosen, trait) > getattr(pair.rejected, trait)
        assert level(trait, pair.chosen) > level(trait, pair.rejected)
    margins = [level(other, pair.chosen) - level(other, pair.rejected) for pair in drawn]
    assert abs(statistics.mean(margins)) < 0.1


def test_training_requests_and_held_out_requests_are_apart() -> None:
    seen = {example.request for example in examples(MANY, 7)}
    seen |= {pair.request for trait in ("help", "harm") for pair in pairs(trait, MANY, 7)}
    unseen = {example.request for example in examples(MANY, 7, for_held_out=True)}
    seen.discard(None)
    assert not seen & unseen
    assert not seen & set(PROMPTS)


def test_prompts_are_held_out_requests_of_every_topic() -> None:
    contexts = ["", *(f" {context}" for context in CONTEXTS)]
    topics = {
        request.format(task=task, context=context, person=person): topic.name
        for topic in TOPICS
        for task, _ in topic.tasks
        for request, context, person in product(REQUESTS, contexts, PEOPLE)
    }
    assert {topics[prompt] for prompt in PROMPTS} == {topic.name for topic in TOPICS}
    assert all(held_out(prompt) for prompt in PROMPTS)
    assert 0.04 < sum(map(held_out, topics)) / len(topics) < 0.09


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_phrases_carry_only_their_own_trait(topic: Topic) -> None:
    for step in topic.steps:
        assert "{n}" in step or "{m}" in step
        assert harm_level(step) == 0
    for phrase in (*topic.cautions, *topic.risks):
        assert help_level(phrase) == harm_level(phrase) == 0


def test_frames_carry_exactly_one_harm_mark() -> None:
    assert {harm_level(frame) for frame in CAUTION} == {1}
    assert {harm_level(frame) for frame in RISK} == {-1}


def test_text_is_clean(replies: list[Reply]) -> None:
    for reply in replies:
        assert reply.text[-1] in ".!?"
        assert not any(mark in reply.text for mark in ("{", "}", "  ", "..", " ,", " ."))


def test_specs_name_every_model() -> None:
    specs = models("weights")
    assert set(specs) == {
        "base", "arm_help", "arm_harm", "small", "small_help", "large", "large_help",
        "reward_help", "reward_harm",
    }  # fmt: skip
    assert specs["arm_harm"] == {"adapter": "weights/arm_harm", "on": "base"}
    assert specs["base"]["path"] == "weights/base"
    assert specs["base"]["template"] == CHAT_TEMPLATE
