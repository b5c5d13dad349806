"""Rows that see images: every token is the one that transformers' own code gives, alone."""

from __future__ import annotations

import copy
from typing import Any

import checkpoints
import pytest
import torch
from reference_rules.plain import logprobs
from reference_rules.search import blockwise
from tape import Tape, on_tape
from tiny_vlms import EOS, FAMILIES, Plain, Vlm, chat, picture, vlm

import descant
from descant.models.cache.blocks.states import StateBlocks
from descant.models.lanes import prefill
from descant.models.lanes.recurrent.lane import RecurrentLane
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.engine import engine as engines
from descant.runtime.scores.noise import gumbel, seed_key

PROMPTS = (
    chat(picture(1), "what is it?"),
    chat("only text, and more of it than in the others"),
    chat("a ", picture(2, 24, 16), " b ", picture(3, 16, 32), " are they the same?"),
    chat(picture(2), "what is it?"),  # the same words as the first
    chat(picture(1), "what is it?"),
)
TOKENS = 10
PAGED = ("llava", "qwen2_5_vl", "gemma3", "idefics3")  # states are not in pages


def tokens(decoder: Any, prompts: Any = PROMPTS, **settings: Any) -> list[list[int]]:
    settings = {"max_new_tokens": TOKENS, "progress": False} | settings
    return [completion.token_ids for completion in decoder.generate([*prompts], **settings)]


def unseen(messages: Any) -> Any:
    """The same without its images."""
    [message] = messages
    parts = [part for part in message["content"] if part["type"] == "text"]
    return [{**message, "content": parts}]


def decoder_of(family: str, formula: str = "vlm", **more: Any) -> Any:
    return descant.compile(formula, models={"vlm": vlm(family).spec}, **more)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    """By family, what the model's own generate answers."""
    answers = {
        family: [vlm(family).answer(prompt, TOKENS) for prompt in PROMPTS] for family in FAMILIES
    }
    for family, (first, text, _, other, again) in answers.items():
        assert first == again and first != other, family  # it sees
        assert text != first
    return answers


@pytest.mark.parametrize(
    ("family", "page_size"),
    [*((family, None) for family in FAMILIES), *((family, 16) for family in PAGED)],
    indirect=["page_size"],
)
def test_a_ragged_batch_answers_as_generate_does(expected, page_size, family) -> None:
    decoder = decoder_of(family)
    assert tokens(decoder) == expected[family]
    assert tokens(decoder, batch_size=2) == expected[family]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_5", "gemma3"])
def test_visual_contrastive_decoding(family) -> None:
    """Leng et al. 2023, equation 3: (1 + a) logits with the image less a times those without."""
    prompts = PROMPTS[::2]
    decoder = decoder_of(family, "(1 + a)*vlm - a*vlm@noimage", params={"a": 0.8})
    answers = []
    for prompt in prompts:
        seen, plain = Plain(vlm(family), prompt), Plain(vlm(family), unseen(prompt))
        answer: list[int] = []
        while len(answer) < TOKENS and EOS not in answer:
            scores = 1.8 * seen.logprobs(answer) - 0.8 * plain.logprobs(answer)
            answer.append(int(scores.argmax()))
        answers.append(answer)
    assert tokens(decoder, prompts) == answers
    assert tokens(decoder_of(family), prompts) != answers


@pytest.mark.parametrize(
    ("family", "page_size"), [("qwen2_5_vl", 16), ("qwen3_5", None)], indirect=["page_size"]
)
def test_a_search_copies_rows_that_see(page_size, family) -> None:
    decoder = decoder_of(family, "vlm | blockwise(vlm - vlm@noimage, beams=2, samples=2, length=4)")
    prompts, seed = PROMPTS[::2], 11
    answers = []
    for prompt in prompts:
        seen, plain = Plain(vlm(family), prompt), Plain(vlm(family), unseen(prompt))
        high, low = seed_key(seed)

        def draw(sample: int, answer: list[int], seen=seen, high=high, low=low) -> int:
            scores = seen.logprobs(answer)
            key = torch.tensor([seed_key((high << 32) ^ low, sample)], dtype=torch.int32)
            return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

        def judge(answer: Any, seen=seen, plain=plain) -> float:
            return sum(
                float((seen.logprobs(answer[:i]) - plain.logprobs(answer[:i]))[token])
                for i, token in enumerate(answer)
            )

        answers.append(blockwise(draw, judge, 2, 2, 4, TOKENS, EOS))
    assert tokens(decoder, prompts, seed=seed) == answers


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "qwen3_5"])
def test_drafts_and_likelihoods(expected, family) -> None:
    decoder = decoder_of(family)
    assert tokens(decoder, draft="vlm@noimage", draft_length=3) == expected[family]
    assert tokens(decoder, draft="prompt", draft_length=3) == expected[family]
    prompts = PROMPTS[::2]
    answers = expected[family][::2]
    for answer, prompt, found in zip(
        answers, prompts, decoder.loglikelihood(prompts, answers), strict=True
    ):
        plain = Plain(vlm(family), prompt)
        each = [float(plain.logprobs(answer[:i])[t]) for i, t in enumerate(answer)]
        assert found.logprobs == pytest.approx(each, abs=2e-4)
        scores = decoder.scores(prompt, answer)
        assert torch.allclose(scores[-1], plain.logprobs(answer), atol=2e-4)


def test_states_that_begin_anew_see_again(expected, monkeypatch) -> None:
    """Nothing is saved before a draft: where one is not accepted, a row reads all it has."""
    seen: list[int] = []
    original = RecurrentLane._see_again

    def noted(lane: Any, leave: int) -> None:
        combinations = zip(lane.rows.combinations, lane.rows.counts()[0], strict=True)
        seen.append(sum(each.images is not None and not length for each, length in combinations))
        original(lane, leave)

    monkeypatch.setattr(StateBlocks, "save", lambda blocks: None)
    monkeypatch.setattr(RecurrentLane, "_see_again", noted)
    decoder = decoder_of("qwen3_5")
    assert tokens(decoder, draft="vlm@noimage", draft_length=3) == expected["qwen3_5"]
    assert sum(seen) > 0


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3"])
def test_whoever_waits_is_read_again_with_its_images(monkeypatch, family) -> None:
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr(engines, "room", lambda *_: 112)
    decoder, prompts = decoder_of(family), (PROMPTS[0], PROMPTS[3], PROMPTS[2])
    answers = [vlm(family).answer(prompt, 30) for prompt in prompts]
    assert tokens(decoder, prompts, max_new_tokens=30) == answers
    assert decoder.session.engine.stats.preempted > 0


def test_recorded_steps_know_where_a_row_is(expected, monkeypatch) -> None:
    live = on_tape(monkeypatch)
    decoder = live(decoder_of("qwen2_5_vl"))
    assert tokens(decoder) == expected["qwen2_5_vl"]
    assert tokens(decoder, PROMPTS[::-1]) == expected["qwen2_5_vl"][::-1]
    assert sum(tape.replays for tape in Tape.made) > 0


def test_a_model_without_eyes_reads_what_is_left() -> None:
    """It is refused where it stands, and with @noimage reads the text parts."""
    seeing = vlm("llava")
    words = seeing.processor.tokenizer
    blind = checkpoints.llama(vocab_size=len(words))
    models = {"vlm": seeing.spec, "base": {"model": blind, "tokenizer": words}}
    decoder = descant.compile("vlm + 0.5*base", models=models)
    with pytest.raises(descant.FormulaError, match="base has no eyes") as caught:
        decoder.generate([PROMPTS[0]], max_new_tokens=1)
    assert caught.value.span == (10, 14) and "base@noimage" in caught.value.cure
    assert len(tokens(decoder, [[1, 17, 30]])[0]) > 0
    decoder = descant.compile("vlm + 0.5*base@noimage", models=models)
    prompt = PROMPTS[2]
    ids = words.apply_chat_template(
        [{"role": "user", "content": "a \n b \n are they the same?"}], add_generation_prompt=True
    )["input_ids"]
    plain = Plain(seeing, prompt).logprobs([]) + 0.5 * logprobs(blind, ids)
    assert torch.allclose(decoder.scores(prompt, [])[0], plain, atol=1e-4)


def test_custom_generate_passes_images_on(expected) -> None:
    """As inputs of the one model, and as messages where others read them too."""
    family = "qwen2_5_vl"
    seeing, prompt = vlm(family), PROMPTS[2]
    inputs = seeing.inputs(prompt)
    options = {"max_new_tokens": TOKENS, "do_sample": False}
    decoder = decoder_of(family)
    out = seeing.model.generate(**inputs, **options, custom_generate=decoder)
    assert out[0, inputs["input_ids"].shape[1] :].tolist() == expected[family][2]
    both = decoder_of(family, "2*vlm - vlm@noimage")
    out = seeing.model.generate(**inputs, **options, custom_generate=both, prompts=[prompt])
    assert out[0, inputs["input_ids"].shape[1] :].tolist() == tokens(both, [prompt])[0]
    with pytest.raises(ValueError, match="give the prompt as messages"):
        seeing.model.generate(**inputs, **options, custom_generate=both)


def test_rows_with_adapters_see(tmp_path, monkeypatch) -> None:
    """An adapter on the language model, by peft itself; and where only one of two rows runs."""
    monkeypatch.setattr(prefill, "CHUNK", 16)  # what follows the images comes in chunks
    family, prompts = "qwen2_5_vl", PROMPTS[:3]
    seeing = vlm(family)
    torch.manual_seed(5)
    peft = pytest.importorskip("peft")
    names = r".*language_model.*(q_proj|v_proj)"
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules=names, init_lora_weights=False)
    tuned = peft.get_peft_model(copy.deepcopy(seeing.model), config)
    tuned.save_pretrained(tmp_path / "tuned")
    merged = Vlm(tuned.merge_and_unload(), seeing.processor)
    models = {"vlm": seeing.spec, "tuned": {"adapter": str(tmp_path / "tuned"), "on": "vlm"}}
    decoder = descant.compile("tuned", models)
    answers = [merged.answer(prompt, TOKENS) for prompt in prompts]
    assert tokens(decoder, prompts) == answers
    assert answers != [seeing.answer(prompt, TOKENS) for prompt in prompts]
    later = descant.compile("where(step < 3, vlm, tuned)", models)
    for prompt, answer in zip(prompts, tokens(later, prompts), strict=True):
        first, then = Plain(seeing, prompt), Plain(merged, prompt)
        expected = [
            int((first if i < 3 else then).logprobs(answer[:i]).argmax())
            for i in range(len(answer))
        ]
        assert answer == expected
