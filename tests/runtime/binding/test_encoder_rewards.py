"""Classifiers that read both ways: the number is what the model itself says of the text alone."""

from __future__ import annotations

import pytest
import torch
from judges import alone, by_itself, judge, language, loaded, tokenizer_of, words, written
from reference_rules import plain
from reference_rules.search import Cards, blockwise, cards
from transformers import AutoModelForCausalLM, AutoTokenizer

import descant
from descant.runtime.scores.noise import coin, gumbel, seed_key

FAMILIES = [
    ("bert", "words"),
    ("electra", "words"),
    ("distilbert", "words"),
    ("deberta", "words"),
    ("xlnet", "left"),
    ("roberta", "roberta"),
    ("bart", "roberta"),
]
PROMPTS = ["The river goes", "a small stone in the river, and", "one"]


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return language(tmp_path_factory.mktemp("base"), "byte_level")


def candidates(base: str, decoder, prompt: str) -> dict[int, float]:
    ids = AutoTokenizer.from_pretrained(base)(prompt)["input_ids"]
    lm = plain.logprobs(AutoModelForCausalLM.from_pretrained(base).eval(), ids)
    row = decoder.scores(prompt, [])[-1]
    return {t: (row[t] - lm[t]).item() for t in row.isfinite().nonzero()[:, 0].tolist()}


def text_of(base: str, prompt: str, made: list[int]) -> str:
    own = tokenizer_of(base)
    return prompt + written(own, own(prompt)["input_ids"], made)


@pytest.mark.parametrize(("family", "tokens"), FAMILIES)
def test_an_encoder_family(base, tmp_path, family, tokens) -> None:
    rm = judge(tmp_path / "rm", family, tokens, num_labels=3)
    spec = {"path": rm, "label": 1}
    decoder = descant.compile("base | rerank(rm, k=8, w=1)", {"base": base, "rm": spec})
    for prompt in PROMPTS:
        for token, value in candidates(base, decoder, prompt).items():
            expected = by_itself(rm, text_of(base, prompt, [token]))[1].item()
            assert value == pytest.approx(expected, abs=2e-4)
    together = decoder.generate(PROMPTS, max_new_tokens=6, eos_token_id=[])
    each = [decoder.generate(one, max_new_tokens=6, eos_token_id=[])[0] for one in PROMPTS]
    assert [one.token_ids for one in together] == [one.token_ids for one in each]


@pytest.mark.parametrize("label", ["toxic", 1])
def test_independent_labels_by_name_or_number(base, tmp_path, label) -> None:
    """As in toxicity models: of each label, how likely it is by itself."""
    rm = judge(
        tmp_path / "rm", "bert", "words", num_labels=3, problem_type="multi_label_classification",
        id2label={0: "insult", 1: "toxic", 2: "threat"}, label2id={},
    )  # fmt: skip
    models = {"base": base, "rm": rm}
    stage = f"label={label}" if label == 1 else 'label="toxic"'
    decoder = descant.compile(f"base | rerank(-rm, k=4, w=1, {stage})", models)
    for token, value in candidates(base, decoder, PROMPTS[0]).items():
        logits = loaded(rm)(
            **tokenizer_of(rm)(text_of(base, PROMPTS[0], [token]), return_tensors="pt")
        ).logits[0]
        assert value == pytest.approx(-logits[1].sigmoid().log().item(), abs=2e-4)


@pytest.mark.parametrize("pad", [None, 100, 2])
def test_whatever_the_padding_token_is(base, tmp_path, pad) -> None:
    """No padding token, one that is a real token, and one that is [CLS]."""
    rm = judge(tmp_path / "rm", "bert", "words")
    model = loaded(rm)
    own = tokenizer_of(rm)
    assert own.pad_token_id == 0
    import copy

    model, mine = copy.deepcopy(model), copy.deepcopy(own)
    model.config.pad_token_id = pad
    if pad is None:
        mine.pad_token = None
    spec = {"model": model, "tokenizer": mine}
    decoder = descant.compile("base | rerank(rm, k=30, w=1)", {"base": base, "rm": spec})
    for token, value in candidates(base, decoder, PROMPTS[0]).items():
        text = text_of(base, PROMPTS[0], [token])
        assert value == pytest.approx(by_itself(rm, text).item(), abs=2e-4)


def test_special_tokens_are_neither_doubled_nor_dropped(base, tmp_path) -> None:
    rm = judge(tmp_path / "rm", "bert", "words")
    own = tokenizer_of(rm)
    seen: list[list[int]] = []
    decoder = descant.compile(
        "base | rerank(rm, k=2)",
        {"base": base, "rm": {"path": rm, "template": "[CLS]Q: {prompt} [SEP] A:"}},
    )
    decoder.session.bound.lanes[1].model.register_forward_pre_hook(
        lambda module, args, inputs: seen.extend(inputs["input_ids"].tolist()), with_kwargs=True
    )
    decoder.generate("The river", max_new_tokens=2, eos_token_id=[])
    cls, sep = own.cls_token_id, own.sep_token_id
    assert len(seen) > 3
    for ids in seen:
        assert ids[0] == cls and ids.count(cls) == 1 and ids.count(sep) == 2
        assert ids[: ids.index(sep)] == own("Q: The river")["input_ids"][:-1]


def test_a_pair_of_texts_is_a_template_with_a_separator(base, tmp_path) -> None:
    """As DeBERTa rewards are asked, with question and answer: no segments, so the same ids."""
    rm = judge(tmp_path / "rm", "deberta", "words")
    spec = {"path": rm, "template": "{prompt}[SEP]"}
    decoder = descant.compile("base | rerank(rm, k=4, w=1)", {"base": base, "rm": spec})
    own, ours = tokenizer_of(rm), AutoTokenizer.from_pretrained(base)
    for token, value in candidates(base, decoder, PROMPTS[0]).items():
        answer = ours.decode([token])
        inputs = own(PROMPTS[0] + "[SEP]" + answer, return_tensors="pt")
        if answer.strip():
            pair = own(PROMPTS[0], answer)["input_ids"]
            assert inputs["input_ids"][0].tolist() == pair
        with torch.no_grad():
            said = loaded(rm)(input_ids=inputs["input_ids"]).logits.item()
        assert value == pytest.approx(said, abs=2e-4)


def test_the_response_alone(base, tmp_path) -> None:
    """How toxic is what was written, whatever was asked."""
    rm = judge(tmp_path / "rm", "bert", "words")
    decoder = descant.compile("base | rerank(rm@none, k=4, w=1)", {"base": base, "rm": rm})
    ours = AutoTokenizer.from_pretrained(base)
    for token, value in candidates(base, decoder, PROMPTS[0]).items():
        assert value == pytest.approx(by_itself(rm, ours.decode([token])).item(), abs=2e-4)


CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)


@pytest.mark.parametrize(("family", "tokens"), [("llama", "sentences"), ("llama", "roberta")])
def test_a_chat_template_of_its_own_says_all_of_its_special_tokens(
    base, tmp_path, family, tokens
) -> None:
    rm = judge(tmp_path / "rm", family, tokens)
    spec = {"path": rm, "template": CHAT}
    decoder = descant.compile(
        "base | rerank(rm, k=4, w=1)", {"base": {"path": base, "template": CHAT}, "rm": spec}
    )
    ours = tokenizer_of(base)
    lm = AutoModelForCausalLM.from_pretrained(base).eval()
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "one?"}]
    text = "<system>Be kind.<user>one?<answer>"
    ids = ours(text, add_special_tokens=False)["input_ids"]
    row, said = decoder.scores(messages, [])[-1], plain.logprobs(lm, ids)
    for token in row.isfinite().nonzero()[:, 0].tolist():
        expected = alone(rm, text + written(ours, ids, [token]), special=False).item()
        assert (row[token] - said[token]).item() == pytest.approx(expected, abs=2e-4)


def test_texts_are_read_in_forwards_of_bounded_size(base, tmp_path, monkeypatch) -> None:
    from descant.models.lanes import batch_classifier as whole

    rm = judge(tmp_path / "rm", "bert", "words")
    formula, models = "base | rerank(rm, k=6, w=1)", {"base": base, "rm": rm}
    expected = descant.compile(formula, models).generate(PROMPTS, max_new_tokens=4)
    monkeypatch.setattr(whole, "TOKENS", 60)
    decoder, sizes = descant.compile(formula, models), []
    decoder.session.bound.lanes[1].model.register_forward_pre_hook(
        lambda module, args, inputs: sizes.append(inputs["input_ids"].numel()), with_kwargs=True
    )
    found = decoder.generate(PROMPTS, max_new_tokens=4)
    assert [one.token_ids for one in found] == [one.token_ids for one in expected]
    assert max(sizes) <= 60 and len(sizes) > 8


MOST, EOS, SEED = 10, 2, 11


class Searched:
    """What a search is, for one prompt, written down plainly: draws, and a judge of whole texts."""

    def __init__(self, base: str, rm: str, kind, prompt: str) -> None:
        self.model, self.own = AutoModelForCausalLM.from_pretrained(base).eval(), tokenizer_of(base)
        self.prompt, self.rm, self.kind = prompt, rm, kind
        self.ids = self.own(prompt)["input_ids"]
        high, low = seed_key(SEED)
        self.seed = (high << 32) ^ low

    def draw(self, number: int, answer: list[int]) -> int:
        scores = plain.logprobs(self.model, [*self.ids, *answer])
        key = torch.tensor([seed_key(self.seed, number)], dtype=torch.int32)
        return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

    def judge(self, answer: list[int]) -> float:
        return self.kind(self.rm, self.prompt + written(self.own, self.ids, answer)).item()

    def unsure(self, answer: list[int]) -> float:
        scores = plain.logprobs(self.model, [*self.ids, *answer])
        return -(scores.exp() * scores).sum().item()


KINDS = [("bert", "words", by_itself), ("llama", "sentences", alone)]


@pytest.mark.parametrize(("family", "tokens", "kind"), KINDS, ids=["encoder", "cached"])
@pytest.mark.parametrize(
    ("stage", "beams", "samples", "length"),
    [("best_of(rm, n=4)", 1, 4, MOST), ("blockwise(rm, beams=2, samples=2, length=3)", 2, 2, 3)],
)
def test_a_search_by_the_plain_rule(
    base, tmp_path, family, tokens, kind, stage, beams, samples, length
) -> None:
    rm = judge(tmp_path / "rm", family, tokens)
    decoder = descant.compile(f"base | {stage}", {"base": base, "rm": rm})
    found = decoder.generate(PROMPTS, max_new_tokens=MOST, seed=SEED, eos_token_id=EOS)
    for prompt, one in zip(PROMPTS, found, strict=True):
        plainly = Searched(base, rm, kind, prompt)
        expected = blockwise(plainly.draw, plainly.judge, beams, samples, length, MOST, EOS)
        assert one.token_ids == expected


@pytest.mark.parametrize(("family", "tokens", "kind"), KINDS, ids=["encoder", "cached"])
def test_segments_are_rejected_by_the_plain_rule(base, tmp_path, family, tokens, kind) -> None:
    rm = judge(tmp_path / "rm", family, tokens)
    target = alone(rm, PROMPTS[0]).item() if kind is alone else by_itself(rm, PROMPTS[0]).item()
    rule = Cards(round(target, 2), 4, 0.2, 0.9, shortest=2, longest=5, retries=4)
    stage = f"reject(rm, target={rule.target}, entropy=4, beta=0.2, alpha=0.9, "
    stage += "shortest=2, longest=5, retries=4, samples=2)"
    decoder = descant.compile(f"base | {stage}", {"base": base, "rm": rm})
    found = decoder.generate(PROMPTS, max_new_tokens=MOST, seed=SEED, eos_token_id=EOS)
    for prompt, one in zip(PROMPTS, found, strict=True):
        plainly = Searched(base, rm, kind, prompt)
        expected = cards(
            lambda start, number, answer, it=plainly: it.draw(start * 65536 + number, answer),
            plainly.unsure, plainly.judge,
            lambda start, number, it=plainly: coin(it.seed, start * 65536 + number),
            rule, MOST, EOS,
        )  # fmt: skip
        assert one.token_ids == expected


def test_the_tokenizer_of_these_tests_is_of_its_kind() -> None:
    assert words().convert_ids_to_tokens(words()("The river")["input_ids"])[0] == "[CLS]"
