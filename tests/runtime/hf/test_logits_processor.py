"""A formula as a logits processor: somebody else's loop gives what the decoder gives.

Held against the decoder, and against processors that run every other model from scratch.
"""

from __future__ import annotations

import pytest
import torch
from checkpoints import EOS, PAD, tokenizer
from generate_batches import PROMPTS, Plain, inputs, new, unpadded

import descant
from descant import FormulaProcessor
from descant.models.lanes.transformers_lane import TransformersLane

FORMULAS = [
    "base + 0.5*arm - 0.25*arm2",
    "2*arm - base",
    "strong + 0.5*(base - arm)",
    "0.5*base + 0.5*lora4 - 0.3*base@none",
    "base + 0.5*padded + 3",
]
OTHERS = [
    "mix(0.5: base, 0.5: arm)",
    "plausible(base, 0.1) - 0.5*temp(arm, 0.5)",
    "where(entropy(base) > 4, base + arm, base)",
    "where(step < 3, base + arm, base)",
    "base + 0.5*arm | rerank(rm, k=5, w=1.0)",
    "base | rerank(rm, k=5, w=1.0, keep=all, norm=prefix)",
    "base + arm | repetition_penalty(1.3) | top_k(20) | top_p(0.9)",
]


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.model("base")


def processor(decoder, given, **more) -> FormulaProcessor:
    return FormulaProcessor(decoder, attention_mask=given["attention_mask"], **more)


@pytest.mark.parametrize("formula", FORMULAS + OTHERS)
def test_generate_with_it_is_the_decoders_own(compiled, base, formula) -> None:
    decoder = compiled(formula, models={"base": base})
    given, ids = inputs(), unpadded(inputs())
    settings = {"max_new_tokens": 40, "eos_token_id": EOS}  # longer than the first room
    done = [one.token_ids for one in decoder.generate(ids, **settings)]
    found = base.generate(**given, logits_processor=[processor(decoder, given)], **settings)
    assert new(found, given) == done


def test_rows_outgrow_the_pages_that_they_began_with(compiled, base, monkeypatch) -> None:
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr("descant.runtime.engine.engine.GPU_MEASURE", 16)
    decoder = compiled(FORMULAS[0], models={"base": base})
    given, ids = inputs(), unpadded(inputs())
    settings = {"max_new_tokens": 100, "eos_token_id": EOS}
    found = base.generate(**given, logits_processor=[processor(decoder, given)], **settings)
    done = [one.token_ids for one in decoder.generate(ids, **settings)]
    assert new(found, given) == done and max(map(len, done)) == 100


@pytest.mark.pages
@pytest.mark.parametrize("formula", FORMULAS[:2] + OTHERS[:1])
def test_scores_of_samples_are_the_formulas(compiled, base, formula) -> None:
    decoder = compiled(formula, models={"base": base})
    given, ids = inputs(), unpadded(inputs())
    torch.manual_seed(0)
    found = base.generate(
        **given, logits_processor=[processor(decoder, given)], do_sample=True, top_k=0,
        max_new_tokens=8, eos_token_id=None, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    told = torch.stack(found.scores, dim=1)
    for row, tokens in enumerate(new(found.sequences, given)):
        wanted = decoder.scores(ids[row], tokens[:-1])
        mine = told[row, : len(tokens)]
        plain = wanted.log_softmax(-1)
        close = 1e-5 * float(plain.abs().max())  # as for models: of the largest
        torch.testing.assert_close(mine.log_softmax(-1), plain, atol=close, rtol=0)


@pytest.mark.pages
@pytest.mark.parametrize("sampled", [False, True])
def test_beams_are_exchanged_with_what_was_read(compiled, zoo, base, sampled) -> None:
    decoder = compiled("base + 0.5*arm - 0.25*arm2", models={"base": base})
    given, mask = inputs(), inputs()["attention_mask"]
    plain = Plain([zoo.model("arm"), zoo.model("arm2")], [1, 0.5, -0.25], mask)
    settings = {
        "num_beams": 4, "max_new_tokens": 12, "num_return_sequences": 2, "do_sample": sampled,
        "renormalize_logits": True,
    }  # fmt: skip
    torch.manual_seed(0)
    wanted = base.generate(**given, logits_processor=[plain], **settings)
    torch.manual_seed(0)
    made = processor(decoder, given)
    found = base.generate(**given, logits_processor=[made], **settings)
    assert found.tolist() == wanted.tolist()
    greedy = base.generate(**given, logits_processor=[processor(decoder, given)], max_new_tokens=12)
    assert greedy.tolist() != found[::2].tolist()  # the beams did search


@pytest.mark.pages
def test_beams_with_a_reward_keep_their_rewards(compiled, base) -> None:
    """With all of a model's choices reranked, every beam's scores are those of its text alone."""
    decoder = compiled("base | rerank(rm, k=5, w=1.0)", models={"base": base})
    made = FormulaProcessor(decoder)
    seen: list[tuple[list[int], torch.Tensor]] = []

    def noted(input_ids, scores):
        out = made(input_ids, scores)
        seen.extend(zip(input_ids.tolist(), out.clone(), strict=True))
        return out

    ids = inputs(["the river"])["input_ids"]
    base.generate(ids, logits_processor=[noted], num_beams=3, max_new_tokens=6)
    length = ids.shape[1]
    assert len({tuple(text) for text, _ in seen}) > 8
    for text, scores in seen:
        wanted = decoder.scores(text[:length], text[length:])[-1]
        torch.testing.assert_close(scores.softmax(-1), wanted.softmax(-1), atol=1e-5, rtol=0)


def test_tokens_may_be_taken_back(compiled, base) -> None:
    decoder = compiled("base + 0.5*arm | rerank(rm, k=4, w=1.0)", models={"base": base})
    made = FormulaProcessor(decoder)
    prompt = inputs(["the river"])["input_ids"][0].tolist()
    told = {}
    for answer in ([], [7], [7, 30], [7, 31], [7], [7, 31], [7, 31, 8], [], [9]):
        ids = torch.tensor([prompt + answer])
        told[tuple(answer)] = made(ids, base(ids).logits[:, -1].detach())[0]
    scores = {answer: decoder.scores(prompt, list(answer))[-1] for answer in told}
    for answer, said in told.items():
        torch.testing.assert_close(
            said.softmax(-1), scores[answer].softmax(-1), atol=1e-5, rtol=0, msg=str(answer)
        )


def test_the_base_is_not_run_again(compiled, base) -> None:
    decoder = compiled("base + 0.5*lora4 - 0.3*arm", models={"base": base})
    given = inputs()
    runs = []
    hook = base.register_forward_hook(lambda *_: runs.append(1))
    made = processor(decoder, given)
    base.generate(**given, logits_processor=[made], max_new_tokens=6)
    hook.remove()
    # The loop's own six, and the adapter's: one that reads the prompts' beginnings, and six.
    assert len(runs) == 12
    assert made._external is not None
    assert made._external.forwards == [6, 6, 6]


def test_parameters_are_per_prompt(compiled, base) -> None:
    decoder = compiled("base + a*arm", models={"base": base}, params={"a": 0.5})
    given, ids, values = inputs(), unpadded(inputs()), [0.0, 0.7, -1.0]
    made = processor(decoder, given, params={"a": values})
    found = base.generate(**given, logits_processor=[made], max_new_tokens=8)
    done = decoder.generate(ids, params={"a": values}, max_new_tokens=8)
    assert new(found, given) == [one.token_ids for one in done]
    made = processor(decoder, given, params={"a": values})
    found = base.generate(**given, logits_processor=[made], max_new_tokens=8, num_beams=2)
    for row, value in enumerate(values):
        one = FormulaProcessor(decoder, params={"a": value})
        row_ids = torch.tensor([ids[row]])
        alone = base.generate(row_ids, logits_processor=[one], max_new_tokens=8, num_beams=2)
        assert new(found[row : row + 1], given) == new(alone, {"input_ids": row_ids})
    with pytest.raises(ValueError, match="a has 2 values for 3 rows"):
        made = processor(decoder, given, params={"a": [1.0, 2.0]})
        base.generate(**given, logits_processor=[made], max_new_tokens=2)


def test_another_prompt_begins_anew(compiled, base) -> None:
    decoder = compiled("base + arm", models={"base": base})
    made = FormulaProcessor(decoder)
    for prompt in ("the river", "a small stone", "the river", "the river goes on"):
        ids = inputs([prompt])["input_ids"]
        found = base.generate(ids, logits_processor=[made], max_new_tokens=6)
        fresh = base.generate(ids, logits_processor=[FormulaProcessor(decoder)], max_new_tokens=6)
        assert found.tolist() == fresh.tolist()


def test_a_model_of_another_vocabulary_is_followed(compiled, zoo, base) -> None:
    spec = {"model": base, "tokenizer": tokenizer()}
    decoder = compiled("mix(0.6: base, 0.4: align(other))", models={"base": spec})
    given, ids = inputs(), unpadded(inputs())
    settings = {"max_new_tokens": 40, "eos_token_id": EOS, "pad_token_id": PAD}
    done = [one.token_ids for one in decoder.generate(ids, max_new_tokens=40)]
    found = base.generate(**given, logits_processor=[processor(decoder, given)], **settings)
    assert new(found, given) == done


def test_padding_without_a_mask_is_refused(compiled, base) -> None:
    spec = {"model": base, "tokenizer": tokenizer()}
    decoder = compiled("base + arm", models={"base": spec})
    given = inputs()
    with pytest.raises(ValueError, match="attention_mask="):
        base.generate(**given, logits_processor=[FormulaProcessor(decoder)], max_new_tokens=2)
    made = processor(decoder, given)
    base.generate(**given, logits_processor=[made], max_new_tokens=2)
    with pytest.raises(ValueError, match="for each call of generate"):
        base.generate(**inputs(PROMPTS[::-1]), logits_processor=[made], max_new_tokens=2)
    with pytest.raises(ValueError, match="attention_mask has 2 rows"):
        made = FormulaProcessor(decoder, attention_mask=given["attention_mask"][:2])
        base.generate(**given, logits_processor=[made], max_new_tokens=2)
    with pytest.raises(ValueError, match="one of the same shape"):
        made = FormulaProcessor(decoder, attention_mask=given["attention_mask"][:, 1:])
        base.generate(**given, logits_processor=[made], max_new_tokens=2)


def test_what_it_cannot_be_made_of(compiled, zoo, base) -> None:
    decoder = compiled("base@none + arm", models={"base": base})
    with pytest.raises(ValueError, match=r"no term base; it has arm, base@none"):
        FormulaProcessor(decoder)
    assert FormulaProcessor(decoder, base="arm")
    search = compiled("base | best_of(rm, n=2)", models={"base": base})
    with pytest.raises(ValueError, match="best_of"):
        FormulaProcessor(search)
    wide = compiled("other + 0.5*other", models={})
    ids = inputs(["the river"])["input_ids"]
    with pytest.raises(ValueError, match=r"base has|other has 300 logits"):
        base.generate(ids, logits_processor=[FormulaProcessor(wide, "other")], max_new_tokens=2)


def test_shapes_are_compared(compiled, base) -> None:
    made = FormulaProcessor(compiled("base + arm", models={"base": base}))
    for ids, scores in (([[1, 5]], (2, 300)), ([1, 5], (300,)), ([[1, 5]], (300,))):
        with pytest.raises(ValueError, match=r"given \(rows, L\) and \(rows, V\)"):
            made(torch.tensor(ids), torch.zeros(scores))
    mask = inputs()["attention_mask"].tolist()  # as a tokenizer gives it without tensors
    asked = {"max_new_tokens": 4}
    decoder = compiled("base + arm", models={"base": base})
    found = [
        base.generate(
            **inputs(), logits_processor=[FormulaProcessor(decoder, attention_mask=one)], **asked
        ).tolist()
        for one in (mask, inputs()["attention_mask"])
    ]
    assert found[0] == found[1]


def test_a_run_of_the_decoder_in_between_changes_nothing(compiled, base) -> None:
    decoder = compiled("base + arm", models={"base": base})
    ids = inputs(["the river"])["input_ids"]
    wanted = base.generate(ids, logits_processor=[FormulaProcessor(decoder)], max_new_tokens=6)
    made = FormulaProcessor(decoder)

    def between(input_ids, scores):
        decoder.generate([[1, 5]], max_new_tokens=1)
        return made(input_ids, scores)

    found = base.generate(ids, logits_processor=[between], max_new_tokens=6)
    assert found.tolist() == wanted.tolist()
    pieces = decoder.stream(ids[0].tolist(), max_new_tokens=20)
    next(pieces)
    made(ids, base(ids).logits[:, -1].detach())
    with pytest.raises(RuntimeError, match="another run has begun"):
        list(pieces)


def test_what_goes_wrong_is_named(compiled, base) -> None:
    ids = inputs(["the river"])["input_ids"]
    broken = compiled("base + broken", models={"base": base})
    with pytest.raises(descant.FormulaError, match="broken gave NaN"):
        base.generate(ids, logits_processor=[FormulaProcessor(broken)], max_new_tokens=2)
    short = compiled("base + short", models={"base": base})
    with pytest.raises(descant.ModelError, match="the models read at most 24"):
        base.generate(
            ids, logits_processor=[FormulaProcessor(short)], max_new_tokens=40, eos_token_id=None
        )


def test_ids_beyond_the_vocabulary_are_refused() -> None:
    """In a prompt and among the tokens that the loop has picked: there is no embedding for them."""
    base, arm = (descant.TableModel.random(vocabulary=8, seed=seed) for seed in (1, 2))
    decoder = descant.compile("base + 0.5*arm", models={"base": base, "arm": arm})
    processor, logits = descant.FormulaProcessor(decoder), base.table[[1]]
    assert processor(torch.tensor([[3, 1]]), logits).isfinite().all()
    with pytest.raises(ValueError, match="the answer has the token id 9, and the vocabulary has 8"):
        processor(torch.tensor([[3, 1, 9]]), logits)
    with pytest.raises(ValueError, match="the prompt has the token id 9"):
        descant.FormulaProcessor(decoder)(torch.tensor([[3, 9]]), logits)
