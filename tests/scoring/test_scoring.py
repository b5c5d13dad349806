"""Scores against plain transformers, batch 1, without any cache."""

import math

import pytest
import torch
from judges import alone, by_itself, judge, words
from sweeps import SPECS, lines, run_of
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import descant
from descant.demo import PROMPTS
from descant.inputs.expand import key_of
from descant.models import ModelError
from descant.runs.models import Models
from descant.scoring.coherence import CoherenceScorer
from descant.scoring.words import repetition, word_measures
from descant.sweep import sweep

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


def test_a_reward_by_its_chat_template(caplog):
    """A text by template: chat is a message; a raw one is logged, and is another reward."""
    bare = {**SPECS["reward_help"], "template": None}
    chat, messages = bare | {"template": "chat"}, [{"role": "user", "content": PROMPTS[0]}]
    expected = descant.score(bare, [messages], ["So."])
    assert descant.score(chat, [PROMPTS[0]], ["So."]) == expected
    assert not caplog.messages
    assert descant.score(bare, [PROMPTS[0]], ["So."]) != expected
    [warning] = caplog.messages
    assert warning.startswith("the reward model: text is read as it is")
    with pytest.raises(ModelError, match="no chat template named 'caht'"):
        descant.score(bare | {"template": "caht"}, [PROMPTS[0]], ["So."])


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


def plain_likelihood(name, prompt, ids):
    """The log-probability of an answer, by the loss of a model of transformers and peft."""
    spec = SPECS["base"]
    tokenizer = AutoTokenizer.from_pretrained(spec["path"])
    model = AutoModelForCausalLM.from_pretrained(spec["path"], dtype=torch.float32)
    if name != "base":
        peft = pytest.importorskip("peft")
        model = peft.PeftModel.from_pretrained(model, SPECS[name]["adapter"])
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        chat_template=spec["template"], tokenize=False, add_generation_prompt=True,
    )  # fmt: skip
    before = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    text, labels = torch.tensor([before + ids]), torch.tensor([[-100] * len(before) + ids])
    with torch.no_grad():
        return -float(model.eval()(input_ids=text, labels=labels).loss) * len(ids)


@pytest.mark.parametrize("judge", ["base", "arm_help"])
def test_perplexity_and_kl_are_those_of_each_answer_alone(tmp_path, judge):
    score = {"ppl": {"perplexity": judge}, "kl": {"kl": judge}}
    run = run_of(tmp_path, formula="base + a*arm_harm", score=score, front=None)
    run.generate.batch_size = 5
    sweep(run, tmp_path / "out")
    said = {}
    for line in lines(tmp_path / "out", "scores"):
        said.setdefault(key_of(line), {}).update(line["scores"])
    answers = lines(tmp_path / "out")
    for record in answers[::5]:
        found, ids = said[key_of(record)], record["token_ids"]
        alone = plain_likelihood(judge, record["prompt"], ids)
        assert found["ppl"] == pytest.approx(math.exp(-alone / len(ids)), rel=1e-4)
        assert found["kl"] == pytest.approx(record["logprob"] - alone, abs=1e-3)
    assert len(answers) == len(said) == 24


def test_judges_share_weights_and_leave_them_as_they_were(tmp_path):
    models = Models(run_of(tmp_path), None)
    base, _ = models.language_model("base")
    before = base.loglikelihood(PROMPTS[0], [5, 6])
    arm, close = models.language_model("arm_help")
    assert len(models.loaded) == 1 and arm.loglikelihood(PROMPTS[0], [5, 6]) != before
    close()
    [model] = models.loaded.values()
    assert not any(module._forward_hooks for module in model.modules())
    [again], [first] = base.loglikelihood(PROMPTS[0], [5, 6]), before
    assert again.logprobs == pytest.approx(first.logprobs)  # the prompt is not read again
    assert again.greedy == first.greedy


def test_a_search_has_no_logprobs():
    decoder = descant.compile("base + a*arm_help | top_k(20)", SPECS, params={"a": 0.5})
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
    said = base.loglikelihood([PROMPTS[0]] * 600, [row.token_ids for row in rows])
    draws = [sum(row.logprobs) - one.total for row, one in zip(rows, said, strict=True)]
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
