"""``model.generate(…, custom_generate=decoder)``: transformers' loop with a formula's scores.

A formula of one model must give what ``generate`` gives without us; other formulas what the decoder
gives, and what plain transformers gives with the other models run from scratch at every step.
"""

from __future__ import annotations

import functools
import inspect

import pytest
import torch
from checkpoints import EOS, PAD, tokenizer
from generate_batches import PROMPTS, Plain, inputs, new, unpadded
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    StoppingCriteria,
    StopStringCriteria,
    TextIteratorStreamer,
    pipeline,
)

import descant

FORMULA = "base + a*arm - 0.25*arm2"


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.model("base")


@pytest.fixture(scope="module")
def alone(compiled, base):
    return compiled("base", models={"base": base})


@pytest.fixture(scope="module")
def decoder(compiled, base):
    spec = {"model": base, "tokenizer": tokenizer()}
    return compiled(FORMULA, models={"base": spec}, params={"a": 0.5})


def ending(model, given) -> int:
    """A token that ends some row early when it is the end."""
    return int(model.generate(**given, max_new_tokens=16)[0, -10])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_length": 20},
        {"max_new_tokens": 16, "min_new_tokens": 12},
        {"max_new_tokens": 16, "no_repeat_ngram_size": 2, "bad_words_ids": [[144], [7, 9]]},
        {"max_new_tokens": 16, "forced_eos_token_id": EOS},
        {"max_new_tokens": 8, "suppress_tokens": [176, 262], "renormalize_logits": True},
        {"max_new_tokens": 8, "num_return_sequences": 1, "use_cache": False},
        {"generation_config": GenerationConfig(max_new_tokens=9, pad_token_id=5)},
    ],
    ids=lambda settings: "-".join(settings) or "defaults",
)
def test_one_model_is_what_generate_gives(base, alone, settings) -> None:
    given = inputs()
    if "generation_config" not in settings:
        settings = settings | {"eos_token_id": [EOS, ending(base, given)], "pad_token_id": PAD}
    wanted = base.generate(**given, **settings)
    found = base.generate(**given, custom_generate=alone, **settings)
    assert found.dtype == torch.long
    assert found.tolist() == wanted.tolist()


def test_rows_end_where_stopping_criteria_say(base, alone, monkeypatch) -> None:
    given = inputs()
    plain = base.generate(**given, max_new_tokens=16)

    class Said(StoppingCriteria):
        def __call__(self, input_ids, scores, **more):
            return input_ids[:, -1] == plain[0, -10]

    for eos in (EOS, None):  # without an end, rows wait for no one and go on together
        monkeypatch.setattr(base.generation_config, "eos_token_id", eos)
        settings = {"max_new_tokens": 16, "pad_token_id": PAD, "stopping_criteria": [Said()]}
        wanted = base.generate(**given, **settings)
        found = base.generate(**given, custom_generate=alone, **settings)
        assert found.tolist() == wanted.tolist()
        assert (int(found[0, -1]) == PAD) == (eos is not None)


def test_stop_strings_come_as_criteria(base, alone) -> None:
    ids = inputs(["the river"])["input_ids"]
    drawn = base.generate(ids, max_new_tokens=40)[0, ids.shape[1] :]
    stop = next(text for text in map(tokenizer().decode, drawn[4:]) if text.isalpha())
    stops = {"stopping_criteria": [StopStringCriteria(tokenizer(), [stop])]}
    wanted = base.generate(ids, max_new_tokens=40, **stops)
    assert wanted.shape[1] < ids.shape[1] + 40
    found = base.generate(ids, custom_generate=alone, max_new_tokens=40, **stops)
    assert found.tolist() == wanted.tolist()
    with pytest.raises(ValueError, match="tokenizer"):  # transformers keeps it from custom loops
        base.generate(ids, custom_generate=alone, stop_strings=[stop], tokenizer=tokenizer())


def test_what_is_returned_as_an_output(base, alone) -> None:
    given = inputs()
    settings = {
        "max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True,
        "output_logits": True, "bad_words_ids": [[144]],
    }  # fmt: skip
    wanted = base.generate(**given, **settings)
    found = base.generate(**given, custom_generate=alone, **settings)
    assert type(found) is type(wanted)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert len(found.scores) == len(found.logits) == 6
    for kind in ("scores", "logits"):
        for mine, theirs in zip(found[kind], wanted[kind], strict=True):
            assert mine.shape == theirs.shape
            torch.testing.assert_close(
                mine.log_softmax(-1), theirs.log_softmax(-1), atol=2e-5, rtol=0
            )
    made = base.compute_transition_scores(found.sequences, found.scores, normalize_logits=True)
    plain = base.compute_transition_scores(wanted.sequences, wanted.scores, normalize_logits=True)
    torch.testing.assert_close(made, plain, atol=1e-5, rtol=0)


def test_a_formula_is_what_plain_models_give(zoo, base, decoder) -> None:
    given = inputs()
    plain = Plain([zoo.model("arm"), zoo.model("arm2")], [1, 0.5, -0.25], given["attention_mask"])
    settings = {"max_new_tokens": 12, "return_dict_in_generate": True, "output_scores": True}
    wanted = base.generate(**given, logits_processor=[plain], **settings)
    found = base.generate(**given, custom_generate=decoder, **settings)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    for mine, theirs in zip(found.scores, wanted.scores, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)
    done = [one.token_ids for one in decoder.generate(unpadded(given), max_new_tokens=12)]
    assert new(found.sequences, given) == done


@pytest.mark.pages
@pytest.mark.parametrize(
    "formula",
    [
        "base | rerank(rm, k=5, w=1.0)",
        "where(step < 3, mix(0.5: base, 0.5: arm), base) | repetition_penalty(1.3)",
        "base + 0.5*lora4 - 0.25*base@none | top_k(20)",
        "base | frequency_penalty(2) | logit_bias({0: 9, 1: 9, 2: 9, 3: 9}) | min_tokens(6)",
        "base + 0.5*padded",
        "plausible(base, 0.05) - 0.5*head(base, early)",
    ],
)
@pytest.mark.parametrize("sampled", [False, True])
def test_the_whole_language_decodes_as_the_decoder_does(compiled, base, formula, sampled) -> None:
    early = {"head": "own", "on": "base", "layer": 0}
    decoder = compiled(formula, models={"base": base, "early": early})
    given, asked = inputs(), {"max_new_tokens": 10, "num_return_sequences": 1 + sampled}
    drawing = {"do_sample": True, "temperature": 0.8, "top_k": 0, "seed": 7} if sampled else {}
    found = base.generate(**given, custom_generate=decoder, **asked, **drawing)
    same = {"temperature": 0.8, "seed": 7} if sampled else {}
    done = [one.token_ids for one in decoder.generate(unpadded(given), **asked, **same)]
    assert new(found, given) == done


def test_a_token_that_the_formula_excludes_may_be_forced(compiled, base) -> None:
    decoder = compiled("base | rerank(rm, k=3, w=2.0)", models={"base": base})

    class Forced(LogitsProcessor):
        def __call__(self, input_ids, scores):
            if input_ids.shape[1] in (8, 9):
                scores[:, 55] = 1e9
            return scores

    ids = inputs(["the river, and the"])["input_ids"]
    assert ids.shape[1] <= 8
    found = base.generate(
        ids, custom_generate=decoder, max_new_tokens=12, logits_processor=[Forced()]
    )
    assert found[0, 8:10].tolist() == [55, 55]
    for end in range(ids.shape[1], found.shape[1]):
        if end not in (8, 9):
            [one] = decoder.generate(found[0, :end].tolist(), max_new_tokens=1)
            assert one.token_ids == [int(found[0, end])]


def test_parameters_and_seeds_are_arguments(base, decoder) -> None:
    given, ids = inputs(), unpadded(inputs())
    values = [0.0, 0.5, 1.0]
    found = base.generate(
        **given, custom_generate=decoder, params={"a": values}, seed=[3, 4, 5], do_sample=True,
        top_k=0, max_new_tokens=8, num_return_sequences=2,
    )  # fmt: skip
    done = decoder.generate(
        ids, params={"a": values}, seed=[3, 4, 5], temperature=1.0, max_new_tokens=8,
        num_return_sequences=2,
    )  # fmt: skip
    assert new(found, given) == [one.token_ids for one in done]


def test_a_list_of_values_is_one_per_prompt(base, decoder) -> None:
    """A row for each would be more rows than ``generate`` was asked for."""
    one = inputs(["the river"])
    with pytest.raises(ValueError, match="params have 2 values and there are 1 prompts"):
        base.generate(**one, custom_generate=decoder, params={"a": [0, 1]}, max_new_tokens=2)


def test_torchs_seed_is_the_seed(base, decoder) -> None:
    given = inputs()

    def drawn(seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        found = base.generate(**given, custom_generate=decoder, do_sample=True, max_new_tokens=8)
        return found.tolist()

    assert drawn(1) == drawn(1) != drawn(2)
    same = inputs(["the river"] * 3)  # a seed per prompt
    torch.manual_seed(1)
    found = base.generate(**same, custom_generate=decoder, do_sample=True, max_new_tokens=8)
    assert len({tuple(row) for row in found.tolist()}) == 3
    torch.manual_seed(1)
    before = torch.get_rng_state()
    base.generate(**given, custom_generate=decoder, max_new_tokens=2)
    assert torch.equal(torch.get_rng_state(), before)  # nothing is drawn where nothing is sampled


def test_samples_are_as_likely_as_the_scores_say(base, alone) -> None:
    ids = inputs(["the river"])["input_ids"]
    settings = {"do_sample": True, "max_new_tokens": 1, "num_return_sequences": 2000, "top_k": 5}
    torch.manual_seed(0)
    found = base.generate(ids, custom_generate=alone, **settings)[:, -1]
    logits = base(ids).logits[0, -1].detach()
    best = logits.topk(5)
    shares = torch.stack([(found == token).float().mean() for token in best.indices])
    assert float((shares - best.values.softmax(-1)).abs().max()) < 0.04
    assert float(shares.sum()) == pytest.approx(1)


def test_prompts_are_read_by_each_models_own_template(compiled, base, caplog) -> None:
    spec = {"model": base, "tokenizer": tokenizer()}
    formula = 'base + 0.5*base@"be kind"'
    decoder = compiled(formula, models={"base": spec})
    chats = [[{"role": "user", "content": text}] for text in PROMPTS]
    given = inputs()
    settings = {"max_new_tokens": 8}
    found = base.generate(**given, custom_generate=decoder, prompts=chats, **settings)
    assert found[:, : given["input_ids"].shape[1]].tolist() == given["input_ids"].tolist()
    done = [one.token_ids for one in decoder.generate(chats, **settings)]
    assert new(found, given) == done
    one = {"input_ids": given["input_ids"][:1], "attention_mask": given["attention_mask"][:1]}
    for alone in (chats[0], chats[:1]):  # of one row, the prompt itself
        found = base.generate(**one, custom_generate=decoder, prompts=alone, **settings)
        assert new(found, given) == done[:1]
    with pytest.raises(ValueError, match="2 prompts and 3 rows"):
        base.generate(**given, custom_generate=decoder, prompts=chats[:2], **settings)
    assert not caplog.messages
    for _ in range(2):
        base.generate(**given, custom_generate=decoder, prompts=PROMPTS, **settings)
    [warning] = caplog.messages
    assert warning.startswith("base: text is read as it is, without the chat template")
    with pytest.raises(descant.ModelError, match="another system prompt"):
        base.generate(**given, custom_generate=decoder, **settings)


def test_a_search_is_generated_too(compiled, base) -> None:
    decoder = compiled("base | best_of(rm, n=4)", models={"base": base})
    given = inputs()
    end = ending(base, given)
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 0, "seed": 3, "max_new_tokens": 9}
    found = base.generate(**given, custom_generate=decoder, eos_token_id=[EOS, end], **settings)
    done = decoder.generate(
        unpadded(given), temperature=0.7, seed=3, max_new_tokens=9, eos_token_id=[EOS, end]
    )
    longest = max(len(one.token_ids) for one in done)
    rows = [one.token_ids + [PAD] * (longest - len(one.token_ids)) for one in done]
    assert found[:, given["input_ids"].shape[1] :].tolist() == rows
    for more, said in [
        ({"do_sample": False}, "give do_sample=True"),
        ({"top_k": 5}, "TopKLogitsWarper"),
        ({"max_time": 5.0}, "MaxTimeCriteria"),
        ({"output_scores": True, "return_dict_in_generate": True}, "output_scores"),
    ]:
        with pytest.raises(ValueError, match=said):
            base.generate(**given, custom_generate=decoder, **settings | more)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_beams": 3}, r"num_beams is 3.*blockwise"),
        ({"prompt_lookup_num_tokens": 2}, "assisted generation"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "contrastive search"),
        ({"guidance_scale": 1.5}, "guidance_scale.*base@neg"),
        ({"output_attentions": True}, "output_attentions"),
        ({"output_hidden_states": True}, "output_hidden_states"),
        ({"position_ids": torch.zeros(3, 9, dtype=torch.long)}, "position_ids"),
        ({"inputs_embeds": torch.zeros(3, 9, 32)}, "inputs_embeds"),
        ({"params": {"b": 1.0}}, "no parameter b"),
        ({"params": {"a": [1.0, 2.0]}}, "2 values"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_honoured_is_refused_by_name(base, decoder, settings, said) -> None:
    given = inputs()
    length = given["input_ids"].shape[1]
    for name in ("position_ids", "inputs_embeds"):
        if name in settings:
            shape = (3, length, *settings[name].shape[2:])
            settings = settings | {name: settings[name].new_zeros(shape)}
    with pytest.raises(ValueError, match=said):
        base.generate(**given, custom_generate=decoder, max_new_tokens=4, **settings)


def test_another_models_tokens_padding_and_caches_are_refused(zoo, base, decoder) -> None:
    given = inputs()
    with pytest.raises(ValueError, match=r"model of \d+ tokens"):
        zoo.model("other").generate(**given, custom_generate=decoder, max_new_tokens=4)
    right = dict(tokenizer()(PROMPTS, padding=True, padding_side="right", return_tensors="pt"))
    with pytest.raises(ValueError, match="padded on the right"):
        base.generate(**right, custom_generate=decoder, max_new_tokens=4)
    ids = inputs(["the river"])["input_ids"]
    cache = base(ids[:, :-1], use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values"):
        base.generate(ids, custom_generate=decoder, max_new_tokens=4, past_key_values=cache)
    with pytest.raises(ValueError, match="synced_gpus"):
        decoder(base, ids, synced_gpus=True)


def test_rows_without_a_padding_token_must_not_end_apart(base, alone) -> None:
    given = inputs()
    config = GenerationConfig(max_new_tokens=4)
    with pytest.raises(ValueError, match="how long"):
        alone(base, given["input_ids"], generation_config=GenerationConfig())
    found = alone(base, generation_config=config, **given)
    assert found.tolist() == base.generate(**given, max_new_tokens=4, eos_token_id=None).tolist()


def test_processors_that_leave_nothing_are_named(base, alone) -> None:
    class Nothing(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores[1] = -torch.inf
            return scores

    with pytest.raises(ValueError, match="no token for row 1"):
        base.generate(
            **inputs(), custom_generate=alone, max_new_tokens=4, logits_processor=[Nothing()]
        )


@pytest.mark.parametrize("temperature", [1e-40, 1e-45])
def test_a_temperature_that_float32_cannot_divide_by_is_refused(base, alone, temperature) -> None:
    """By transformers' own processor, whose scores are infinite, and not drawn at random."""
    with pytest.raises(ValueError, match="for row 0; a temperature below 1e-5"):
        base.generate(
            **inputs(), custom_generate=alone, max_new_tokens=4, do_sample=True,
            temperature=temperature,
        )  # fmt: skip


def test_a_streamer_comes_with_the_decoder(base, decoder) -> None:
    ids = inputs(["the river"])["input_ids"]
    wanted = base.generate(ids, custom_generate=decoder, max_new_tokens=8)
    text = tokenizer().decode(wanted[0, ids.shape[1] :], skip_special_tokens=True)
    for also in (False, True):
        streamer = TextIteratorStreamer(tokenizer(), skip_prompt=True, skip_special_tokens=True)
        more = {"streamer": streamer} if also else {}
        loop = functools.partial(decoder, streamer=streamer)
        base.generate(ids, custom_generate=loop, max_new_tokens=8, **more)
        assert "".join(streamer) == text


def test_a_run_that_is_broken_into_says_so(base, decoder) -> None:
    ids = inputs(["the river"])["input_ids"]

    class Other(LogitsProcessor):
        def __call__(self, input_ids, scores):
            decoder.generate([[1, 5]], max_new_tokens=1)
            return scores

    with pytest.raises(RuntimeError, match="another run has begun"):
        base.generate(ids, custom_generate=decoder, max_new_tokens=4, logits_processor=[Other()])
    pieces = decoder.stream("the river", max_new_tokens=20)
    next(pieces)
    base.generate(ids, custom_generate=decoder, max_new_tokens=2)
    with pytest.raises(RuntimeError, match="another run has begun"):
        list(pieces)


def test_a_text_longer_than_the_models_read_ends_there(compiled, zoo, base, caplog) -> None:
    decoder = compiled("base + 0.5*short", models={"base": base})
    ids = inputs(["the river"])["input_ids"]
    found = base.generate(ids, custom_generate=decoder, max_new_tokens=40, eos_token_id=EOS)
    [one] = decoder.generate(ids[0].tolist(), max_new_tokens=40)
    assert found.shape[1] == 24
    assert new(found, {"input_ids": ids}) == [one.token_ids]
    assert "have room for fewer" in caplog.text


def test_a_pipeline_decodes_by_a_formula(zoo, base, decoder) -> None:
    own = AutoTokenizer.from_pretrained(zoo.path("base"))  # a pipeline sets its padding side
    pipe = pipeline("text-generation", model=base, tokenizer=own)
    settings = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    done = [
        own.decode(one.token_ids, skip_special_tokens=True)
        for one in decoder.generate(PROMPTS, params={"a": 0.7}, max_new_tokens=8)
    ]
    for size in (1, 3):
        found = pipe(
            PROMPTS, batch_size=size, custom_generate=decoder, params={"a": 0.7}, **settings
        )
        assert [one["generated_text"] for [one] in found] == done
    chat = [{"role": "user", "content": "the river"}]
    [one] = pipe(chat, custom_generate=decoder, **settings)
    [wanted] = decoder.generate(chat, max_new_tokens=8)
    assert one["generated_text"] == wanted.text
    made = pipeline("text-generation", model=base, tokenizer=own, custom_generate=decoder)
    [one] = made("the river", **settings)
    assert one["generated_text"] == decoder.generate("the river", max_new_tokens=8)[0].text


def test_transformers_finds_our_arguments(decoder) -> None:
    """``generate`` hands on what the callable's signature has and ``_sample``'s has not."""
    from transformers import GenerationMixin

    usual = inspect.signature(GenerationMixin._sample).parameters.keys()
    ours = inspect.signature(decoder).parameters.keys()
    assert {"input_ids", "logits_processor", "stopping_criteria", "generation_config"} <= ours
    own = {"model", "params", "seed", "prompts", "sample_components", "draft", "draft_length"}
    own.add("structured_outputs")
    assert ours - usual == own
