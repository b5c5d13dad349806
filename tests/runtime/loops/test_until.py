"""Segments that end where a text does: against the decoded text, and against the plain searches."""

from __future__ import annotations

import pytest
import torch
import vocabularies
from checkpoints import tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_rules.plain import logprobs, reward

from descant.models.text.detokenizer import Detokenizer
from descant.runtime.requests.answer_text import AnswerText
from descant.runtime.scores.noise import coin, gumbel, seed_key

PROMPTS = ([1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13])
SEED, MOST, EOS = 11, 16, 2
TEXTS = tokenizer()
KINDS = {"byte-level": TEXTS, "metaspace": vocabularies.llama_like(legacy=False)}
DETOKENIZERS = {kind: Detokenizer(made) for kind, made in KINDS.items()}


@given(st.data(), st.sampled_from([*KINDS]), st.sampled_from(["\n\n", "aa", " the", "é", "e"]))
@settings(max_examples=300, deadline=None)
def test_a_text_is_counted_as_in_the_whole_answer(data, kind, until):
    """Across tokens and within one, bytes that are no character yet included."""
    made = KINDS[kind]
    parts = st.sampled_from([until, *until, "a", "\n", " ", "the", "ê", "z"])
    pieces = data.draw(st.lists(st.lists(parts, max_size=4).map("".join), max_size=6))
    ids = [i for piece in pieces for i in made(piece, add_special_tokens=False)["input_ids"]]
    text = AnswerText(DETOKENIZERS[kind], [1, 44], (), until)
    plain = AnswerText(DETOKENIZERS[kind], [1, 44], ())
    for count in range(1, len(ids) + 1):
        text.read(ids[:count])
        plain.read(ids[:count])
        assert text.found == plain.text().count(until)
        copy = text.copied()
        copy.read([*ids[:count], *ids[:1]])  # which changes nothing of the one it was copied from
    if kind == "byte-level" and ids:
        assert text.found == made.decode(ids).count(until)


def drawn(model, prompt, key, answer) -> int:
    scores = logprobs(model, [*prompt, *answer])
    noise = gumbel(torch.tensor([key], dtype=torch.int32), torch.tensor([len(answer)]), len(scores))
    return int((scores + noise[0]).argmax())


def found(answer, until) -> int:
    return TEXTS.decode(answer, skip_special_tokens=True).count(until)


def segment(model, prompt, key, start, until, length):
    """The answer with one segment more."""
    answer = list(start)
    while len(answer) < MOST and EOS not in answer:
        answer.append(drawn(model, prompt, key, answer))
        if found(answer, until) > found(start, until) or len(answer) - len(start) == length:
            break
    return answer


def own_seed() -> int:
    high, low = seed_key(SEED)
    return (high << 32) ^ low


@pytest.mark.pages
@pytest.mark.parametrize(("written", "length"), [("", MOST), (", length=5", 5)])
def test_blocks_by_the_plain_rule(zoo, compiled, written, length):
    decoder = compiled(f'base | blockwise(rm, beams=2, samples=2, until="e"{written})')
    base, rm = zoo.model("base"), zoo.model("rm")
    ends = "where 'e' ends" + " or after each 5 tokens" * bool(written)
    assert f"search      4 rows, valued {ends}\n" in str(decoder.plan)
    options = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS}
    completions = decoder.generate([list(p) for p in PROMPTS], batch_size=8, **options)
    drafted = decoder.generate([list(p) for p in PROMPTS], draft="prompt", **options)
    rounds = []
    for prompt, completion, other in zip(PROMPTS, completions, drafted, strict=True):
        answers, made = [[] for _ in range(4)], 0
        while True:
            answers = [
                segment(base, prompt, seed_key(own_seed(), made * 65536 + row), each, "e", length)
                for row, each in enumerate(answers)
            ]
            made += 1
            order = sorted(range(4), key=lambda i: -reward(rm, [*prompt, *answers[i]]))
            if all(len(each) == MOST or EOS in each for each in answers):
                break
            kept = []
            for i in order:
                if answers[i] not in kept and len(kept) < 2:
                    kept.append(answers[i])
            answers = [list(kept[i * len(kept) // 4]) for i in range(4)]
        assert completion.token_ids == other.token_ids == answers[order[0]]
        rounds.append(made)
    assert max(rounds) > 2


@pytest.mark.pages
@pytest.mark.parametrize("samples", [1, 3])
def test_rejected_segments_by_the_plain_rule(zoo, compiled, samples):
    target, beta, retries = 0.5, 0.3, 3
    rule = f"target={target}, beta={beta}, alpha=0, retries={retries}, samples={samples}"
    decoder = compiled(f'base | reject(rm, {rule}, until="e")')
    base, rm = zoo.model("base"), zoo.model("rm")
    options = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS, "batch_size": 6}
    for prompt, completion in zip(
        PROMPTS, decoder.generate([list(p) for p in PROMPTS], **options), strict=True
    ):
        answer: list[int] = []
        first = reward(rm, prompt)
        while len(answer) < MOST and EOS not in answer:
            tried = []
            for number in range(retries + 1):
                flip = len(answer) * 65536 + number
                key = seed_key(own_seed(), flip)
                tried.append(segment(base, prompt, key, answer, "e", MOST))
                value = reward(rm, [*prompt, *tried[-1]])
                share = len(tried[-1]) / MOST
                threshold = min(first + share * (target - first), target)
                chance = torch.tensor((value - threshold) / beta).exp().item()
                if number < retries and coin(own_seed(), flip) < chance:
                    answer = tried[-1]
                    break
            else:
                answer = max(tried, key=lambda each: reward(rm, [*prompt, *each]))
        assert completion.token_ids == answer
