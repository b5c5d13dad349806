"""Rewards of another tokenizer: what is run and what is cached changes nothing of what is said."""

from __future__ import annotations

import pytest
from judges import alone, at_the_end, by_itself, judge, language, loaded, written
from reference_rules import plain
from transformers import AutoModelForCausalLM, AutoTokenizer

import descant

PROMPTS = ["the river goes", "a 好", "def add(one, two): return one"]
SAID = " on to the riverside 🙂. 你好 👍🏽 naïve, one + two"
CASES = [  # the formula's tokenizer, the reward's family and its tokenizer
    ("byte_level", "llama", "sentences"),
    ("byte_level", "mistral", "split"),
    ("byte_level", "gpt2", "words"),
    ("sentences", "llama", "byte_level"),
    ("sentences", "opt", "roberta"),
    ("words", "llama", "byte_level"),
    ("byte_level", "bloom", "sentences"),
    ("byte_level", "bert", "words"),
    ("sentences", "roberta", "roberta"),
]
ENCODERS = ("bert", "roberta")


class Pair:
    """A language model, a reward model of another tokenizer, and what the two say of a text."""

    def __init__(self, folder, ours: str, family: str, theirs: str, **more) -> None:
        self.base = language(folder / "base", ours)
        self.rm = judge(folder / "rm", family, theirs, **more)
        self.own = AutoTokenizer.from_pretrained(self.base)
        self.model = AutoModelForCausalLM.from_pretrained(self.base).eval()
        self.alone = by_itself if family in ENCODERS else alone

    def decoder(self, formula: str, **spec):
        models = {"base": self.base, "rm": {"path": self.rm, **spec}}
        return descant.compile(formula, models, dtype="float32", device="cpu")

    def ids(self, prompt: str) -> list[int]:
        """What the language model reads of a prompt: nothing that ends a text."""
        ids = self.own(prompt)["input_ids"]
        return ids[:-1] if ids[-1] in (self.own.sep_token_id, self.own.eos_token_id) else ids

    def reward(self, prompt: str, made: list[int], label: int = 0) -> float:
        ids = self.ids(prompt)
        return self.alone(self.rm, prompt + written(self.own, ids, made))[label].item()


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def pair(request, tmp_path_factory) -> Pair:
    return Pair(tmp_path_factory.mktemp("pair"), *request.param)


def test_every_step_of_a_text_is_scored_as_the_whole_text_alone(pair) -> None:
    """Letters of several bytes are written byte by byte, and merges reach back over the end."""
    decoder = pair.decoder("base | rerank(rm, k=4, w=1)")
    letters = [pair.own(letter, add_special_tokens=False)["input_ids"] for letter in SAID]
    apart = [token for ids in letters for token in ids][:45]
    for prompt, made in ((PROMPTS[0], apart), (PROMPTS[1], pair.own(SAID)["input_ids"][1:])):
        scores = decoder.scores(prompt, made)
        ids = pair.ids(prompt)
        for step in range(0, len(made) + 1, 4):
            lm = plain.logprobs(pair.model, [*ids, *made[:step]])
            for token in scores[step].isfinite().nonzero()[:, 0].tolist():
                expected = pair.reward(prompt, [*made[:step], token])
                assert (scores[step, token] - lm[token]).item() == pytest.approx(expected, abs=2e-4)


def test_rows_do_not_change_each_other(pair) -> None:
    decoder = pair.decoder("base | rerank(rm, k=4, w=3)")
    together = decoder.generate(PROMPTS, max_new_tokens=12, eos_token_id=[])
    for prompt, one in zip(PROMPTS, together, strict=True):
        [single] = decoder.generate(prompt, max_new_tokens=12, eos_token_id=[])
        assert one.token_ids == single.token_ids
    [last, first] = decoder.generate(
        [PROMPTS[2], PROMPTS[0]], max_new_tokens=12, batch_size=1, eos_token_id=[]
    )
    assert [first.token_ids, last.token_ids] == [together[0].token_ids, together[2].token_ids]


def test_the_rewards_text_by_itself_is_taken_from_its_candidates(pair) -> None:
    decoder = pair.decoder("base | rerank(rm, k=5, w=1, norm=prefix, keep=all)")
    ids, made = pair.ids(PROMPTS[0]), pair.own(" on")["input_ids"][1:]
    lm = plain.logprobs(pair.model, [*ids, *made])
    row = decoder.scores(PROMPTS[0], made)[-1]
    for token in lm.topk(5).indices.tolist():
        gain = pair.reward(PROMPTS[0], [*made, token]) - pair.reward(PROMPTS[0], made)
        assert (row[token] - lm[token]).item() == pytest.approx(gain, abs=2e-4)


def test_only_what_changes_is_run(tmp_path) -> None:
    pair = Pair(tmp_path, "byte_level", "llama", "sentences")
    decoder = pair.decoder("base | rerank(rm, k=8, w=1)")
    lane = decoder.session.bound.lanes[1]
    run: list[int] = []
    lane.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: run.append(args[0].numel())
    )
    prompt = " ".join(PROMPTS * 4)
    decoder.generate(prompt, max_new_tokens=20, eos_token_id=[])
    read = len(AutoTokenizer.from_pretrained(pair.rm)(prompt)["input_ids"])
    assert run[0] == read and len(run) == 21  # the prompt, and then one forward for each token
    assert sum(run[1:]) / 20 < 8 * 5 < read
    assert lane.footprint().token_bytes > 0


def test_a_cache_grows_with_its_texts(tmp_path) -> None:
    """Many tokens of the reward for one of the formula: there is no telling beforehand."""
    pair = Pair(tmp_path, "larger", "llama", "words")
    made = pair.own(SAID * 5)["input_ids"][1:]
    row = pair.decoder("base | rerank(rm, k=3, w=1)").scores("a", made)[-1]
    lm = plain.logprobs(pair.model, [*pair.own("a")["input_ids"], *made])
    for token in row.isfinite().nonzero()[:, 0].tolist():
        expected = pair.reward("a", [*made, token])
        assert (row[token] - lm[token]).item() == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("family", "theirs", "said"),
    [
        ("bert", "words", "reads at most 128"),
        ("roberta", "roberta", "reads at most 128"),  # of 130 places, two are not for tokens
        ("gpt2", "words", "reads at most 256"),
    ],
)
def test_a_text_that_is_too_long_is_refused_and_never_cut(tmp_path, family, theirs, said) -> None:
    pair = Pair(tmp_path, "byte_level", family, theirs)
    with pytest.raises(descant.ModelError, match=said):
        pair.decoder("base | rerank(rm, k=2)").generate("one + two " * 90, max_new_tokens=2)


def test_half_a_letter_is_read_as_such(tmp_path) -> None:
    pair = Pair(tmp_path, "byte_level", "llama", "sentences")
    emoji = pair.own("👀", add_special_tokens=False)["input_ids"]
    assert len(emoji) > 2
    row = pair.decoder("base | rerank(rm, k=330, w=1)").scores("a", emoji[:-1])[-1]
    lm = plain.logprobs(pair.model, [*pair.own("a")["input_ids"], *emoji[:-1]])
    whole = alone(pair.rm, "a👀").item()
    half = alone(pair.rm, "a" + "\N{REPLACEMENT CHARACTER}").item()
    assert (row[emoji[-1]] - lm[emoji[-1]]).item() == pytest.approx(whole, abs=2e-4)
    ends = pair.own.eos_token_id  # no text: the half letter alone
    assert (row[ends] - lm[ends]).item() == pytest.approx(half, abs=2e-4)
    assert whole != pytest.approx(half, abs=1e-2)


def test_a_space_between_prompt_and_response_is_not_lost(tmp_path) -> None:
    """A decoder of Llama 2's kind leaves out the space of a text's first word."""
    pair = Pair(tmp_path, "sentences", "llama", "byte_level")
    ids = pair.own("the river")["input_ids"]
    space = pair.own.get_vocab()["▁"]
    row = pair.decoder("base | rerank(rm, k=400, w=1)").scores("the river", [])[-1]
    lm = plain.logprobs(pair.model, ids)
    expected = alone(pair.rm, "the river ").item()
    assert (row[space] - lm[space]).item() == pytest.approx(expected, abs=2e-4)


def test_two_tokenizers_over_the_same_weights(tmp_path) -> None:
    pair = Pair(tmp_path, "byte_level", "llama", "larger")
    models = {
        "base": pair.base,
        "rm": pair.rm,
        "same": {"path": pair.rm, "tokenizer": pair.base},
        "text": {"path": pair.rm, "tokenizer": pair.base, "read": "text"},
    }
    decoder = descant.compile("base | rerank(rm + 2*same + 4*text, k=3, w=1)", models)
    ids = pair.own("the river")["input_ids"]
    lm, row = plain.logprobs(pair.model, ids), decoder.scores("the river", [])[-1]
    own = pair.own
    for token in row.isfinite().nonzero()[:, 0].tolist():
        text = "the river" + written(own, ids, [token])
        model = loaded(pair.rm)
        expected = (
            alone(pair.rm, text)
            + 2 * at_the_end(model, [*ids, token])
            + 4 * at_the_end(model, own(text)["input_ids"])
        )
        assert (row[token] - lm[token]).item() == pytest.approx(expected.item(), abs=1e-3)
    assert len(decoder.session.bound.lanes) == 4


def test_what_the_plan_says_of_each_path(tmp_path) -> None:
    pair = Pair(tmp_path, "byte_level", "llama", "sentences")
    judge(tmp_path / "enc", "bert", "words")
    judge(tmp_path / "tree", "llama", "byte_level")
    models = {"base": pair.base, "rm": pair.rm}
    models |= {name: str(tmp_path / name) for name in ("enc", "tree")}
    decoder = descant.compile("base | rerank(rm + enc + tree, k=4)", models)
    plan = str(decoder.plan)
    assert ": text, the changed tail of 4 candidates over the cached prefix" in plan
    assert ": text, the whole text of 4 candidates, nothing cached (reads both ways)" in plan
    assert ": tree, 4 candidates in one forward over the cached text" in plan
    assert "rm reads text by its own tokenizer, for its tokenizer is another" in plan
    decoder.generate(PROMPTS, max_new_tokens=5)
    assert "tokens a row in all, over the cached prefix" in str(decoder.plan)
    searches = descant.compile("base | best_of(rm, n=2)", models)
    assert ": text, the changed tail of each answer, when it is scored" in str(searches.plan)
