"""Scores against plain transformers, batch 1, without any cache."""

import math

import pytest
import torch
from judges import alone, by_itself, judge, words
from sweeps import SPECS
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import descant
from descant.demo import PROMPTS
from descant.models import ModelError, make_spec
from descant.scoring.coherence import CoherenceScorer
from descant.scoring.likelihood import LikelihoodScorer
from descant.scoring.words import repetition, word_measures

TEXTS = ["Boil them for ten minutes.", "No.", "Ask a friend, then read the label twice.", ""]
CHAT = [{"role": "user", "content": PROMPTS[0]}]


def plain_reward(spec, prompt, text):
    tokenizer = AutoTokenizer.from_pretrained(spec["path"])
    model = AutoModelForSequenceClassification.from_pretrained(spec["path"], dtype=torch.float32)
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    rendered = tokenizer.apply_chat_template(
        messages, chat_template=spec["template"], tokenize=False, add_generation_prompt=True
    )
    ids = torch.tensor([tokenizer(rendered + text, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        return float(model.eval()(input_ids=ids).logits[0, 0])


def test_rewards_are_those_of_each_text_alone():
    spec = SPECS["reward_help"]
    prompts = [*PROMPTS[:3], CHAT]
    found = descant.score(spec, prompts, TEXTS)
    expected = [plain_reward(spec, p, t) for p, t in zip(prompts, TEXTS, strict=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert descant.score("help", prompts, TEXTS, models={"help": spec}) == found
    assert descant.score(spec, [], []) == []


@pytest.mark.parametrize(
    ("family", "tokens", "label"),
    [("llama", "sentences", None), ("gpt2", "byte_level", 2), ("bert", "words", 1),
     ("xlnet", "left", None), ("roberta", "roberta", 0), ("bloom", "byte_level", None)],
)  # fmt: skip
def test_rewards_of_every_kind_and_tokenizer(tmp_path, family, tokens, label):
    folder = judge(tmp_path / "rm", family, tokens, num_labels=1 if label is None else 3)
    prompts = ["the river goes", "a", "one, two, and the"]
    texts = [" on to the sea", " small stone in the river, and the river", ""]
    found = descant.score({"path": folder, "label": label}, prompts, texts)
    reads = alone if family in ("llama", "gpt2", "bloom") else by_itself
    expected = [
        reads(folder, p + t)[label or 0].item() for p, t in zip(prompts, texts, strict=True)
    ]
    assert found == pytest.approx(expected, abs=2e-4)


def test_what_cannot_score_is_said():
    with pytest.raises(ModelError, match="base is a language model"):
        descant.score("base", ["a"], ["b"], models=SPECS)
    with pytest.raises(ModelError, match=r"has \d+ tokens, and it reads at most"):
        descant.score(SPECS["reward_help"], ["a"], ["word " * 2000])
    with pytest.raises(ValueError, match="1 prompts and 2 texts"):
        descant.score(SPECS["reward_help"], ["a"], ["b", "c"])


@pytest.mark.parametrize("name", ["base", "arm_help"])
def test_likelihood_is_that_of_each_answer_alone(name):
    specs = {key: make_spec(key, value) for key, value in SPECS.items()}
    decoder = descant.compile(name, SPECS)
    answers = [[5, 6, 7], [9], [10, 11, 12, 13, 14]]
    scorer = LikelihoodScorer(name, specs, None, "cpu", {})
    found = scorer.scores(PROMPTS[:3], answers)
    for prompt, ids, value in zip(PROMPTS, answers, found, strict=False):
        rows = torch.log_softmax(decoder.scores(prompt, ids), dim=-1)
        alone = sum(float(rows[i, token]) for i, token in enumerate(ids))
        assert value == pytest.approx(alone, abs=1e-3)


def test_adapters_leave_the_shared_model_as_it_was():
    specs = {key: make_spec(key, value) for key, value in SPECS.items()}
    loaded = {}
    base = LikelihoodScorer("base", specs, None, "cpu", loaded)
    before = base.scores(PROMPTS[:1], [[5, 6]])
    arm = LikelihoodScorer("arm_help", specs, None, "cpu", loaded)
    assert len(loaded) == 1 and arm.scores(PROMPTS[:1], [[5, 6]]) != before
    arm.close()
    model = next(iter(loaded.values()))
    assert not any(module._forward_hooks for module in model.modules())
    assert base.scores(PROMPTS[:1], [[5, 6]]) == before


def test_logprobs_are_of_what_was_drawn_from():
    decoder = descant.compile("base + a*arm_help | top_k(20)", SPECS, params={"a": 0.5})
    found = decoder.generate(
        list(PROMPTS[:3]), temperature=[0.0, 0.7, 1.3], seed=1, max_new_tokens=6, logprobs=True
    )
    assert found[0].logprobs == [0.0] * len(found[0].token_ids)
    for one, heat in zip(found[1:], (0.7, 1.3), strict=True):
        rows = torch.log_softmax(decoder.scores(one.prompt, one.token_ids) / heat, dim=-1)
        expected = [float(rows[i, token]) for i, token in enumerate(one.token_ids)]
        assert one.logprobs == pytest.approx(expected, abs=1e-4)
    assert decoder.generate(PROMPTS[0], max_new_tokens=2)[0].logprobs is None
    searching = descant.compile("base | best_of(reward_help, n=2)", SPECS)
    with pytest.raises(ValueError, match="logprobs is not for a formula that ends in best_of"):
        searching.generate("Hi", logprobs=True)
    with pytest.raises(ValueError, match="temperature has 2 values"):
        decoder.generate(PROMPTS[0], temperature=[0.0, 1.0])


def test_kl_is_what_the_two_distributions_say():
    """The estimate's mean over draws of one token, against the sum over the vocabulary."""
    decoder = descant.compile("base + arm_help", SPECS)
    base = descant.compile("base", SPECS)
    rows = decoder.generate(
        [PROMPTS[0]] * 600, max_new_tokens=1, temperature=1.0, seed=list(range(600)),
        logprobs=True, batch_size=200,
    )  # fmt: skip
    ours = torch.log_softmax(decoder.scores(PROMPTS[0], [])[0].double(), dim=-1)
    theirs = torch.log_softmax(base.scores(PROMPTS[0], [])[0].double(), dim=-1)
    exact = float((ours.exp() * (ours - theirs)).sum())
    scorer = LikelihoodScorer(
        "base", {k: make_spec(k, v) for k, v in SPECS.items()}, None, "cpu", {}
    )
    said = scorer.scores([PROMPTS[0]] * 600, [row.token_ids for row in rows])
    draws = [sum(row.logprobs) - value for row, value in zip(rows, said, strict=True)]
    mean = sum(draws) / len(draws)
    spread = math.sqrt(sum((d - mean) ** 2 for d in draws) / len(draws) / len(draws))
    assert abs(mean - exact) < 4 * spread + 1e-3


@pytest.mark.parametrize(
    ("text", "n", "expected"),
    [("a b c", 2, 0.0), ("a a a a", 1, 0.75), ("a b a b a b", 2, 0.6), ("a", 2, 0.0), ("", 1, 0.0)],
)
def test_repetition(text, n, expected):
    assert repetition(text, n) == pytest.approx(expected)


def test_diversity_is_the_product():
    found = word_measures("the cat and the cat and the dog", 9)
    assert found["rep_2"] == pytest.approx(1 - 4 / 7) and found["rep_3"] == pytest.approx(1 - 4 / 6)
    assert found["rep_4"] == pytest.approx(1 - 4 / 5)
    assert found["diversity"] == pytest.approx(4 / 7 * 4 / 6 * 4 / 5)
    assert (found["distinct_1"], found["length"]) == (0.5, 9.0)


def test_coherence_is_the_cosine_of_embeddings(tmp_path):
    """A tiny encoder of random weights, with mean pooling done by hand beside it."""
    sentence = pytest.importorskip("sentence_transformers")
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=2000, hidden_size=16, num_hidden_layers=2,
                        num_attention_heads=2, intermediate_size=32)  # fmt: skip
    torch.manual_seed(0)
    BertModel(config).save_pretrained(tmp_path / "bert")
    tokenizer = words()
    tokenizer.save_pretrained(tmp_path / "bert")
    parts = [Transformer(str(tmp_path / "bert")), Pooling(16, "mean")]
    sentence.SentenceTransformer(modules=parts, device="cpu").save(str(tmp_path / "embedding"))
    found = CoherenceScorer("near", str(tmp_path / "embedding"), "cpu").scores(
        [PROMPTS[0], CHAT, PROMPTS[1]], TEXTS[:3]
    )
    bert = BertModel.from_pretrained(tmp_path / "bert").eval()

    def vector(text):
        with torch.no_grad():
            hidden = bert(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(dim=0)
        return mean / mean.norm()

    said = [PROMPTS[0], PROMPTS[0], PROMPTS[1]]
    expected = [float(vector(p) @ vector(t)) for p, t in zip(said, TEXTS, strict=False)]
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_language_model_is_read_as_transformers_reads_it():
    """Perplexity by the model's own loss, over one answer."""
    spec = SPECS["base"]
    tokenizer = AutoTokenizer.from_pretrained(spec["path"])
    model = AutoModelForCausalLM.from_pretrained(spec["path"], dtype=torch.float32).eval()
    rendered = tokenizer.apply_chat_template(
        CHAT, chat_template=spec["template"], tokenize=False, add_generation_prompt=True
    )
    before = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    answer = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    labels = torch.tensor([[-100] * len(before) + answer])
    with torch.no_grad():
        loss = float(model(input_ids=torch.tensor([before + answer]), labels=labels).loss)
    scorer = LikelihoodScorer("base", {"base": make_spec("base", spec)}, None, "cpu", {})
    assert scorer.scores([CHAT], [answer])[0] == pytest.approx(-loss * len(answer), abs=1e-3)
