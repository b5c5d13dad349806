"""Every logits processor of transformers as a stage: what a row gets alone, or refused by name.

The rule is a plain loop: the whole text at each step, batch 1, and a processor made for that row.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from drawn_tokens import MOST, PROMPTS, SAMPLED, V, exchanges
from reference_rules.plain import logprobs
from transformers import LogitsProcessor, PrefixConstrainedLogitsProcessor
from transformers.generation import logits_process

import descant
from descant.errors import ArgumentError
from descant.runtime.scores.noise import gumbel, seed_key
from descant.runtime.scores.own.processors import REFUSED, STATELESS

CPU = torch.device("cpu")
SYNTH_ID = {
    "ngram_len": 3, "keys": [654, 400, 836, 123, 340], "sampling_table_size": 2**10,
    "sampling_table_seed": 0, "context_history_size": 64, "device": CPU,
}  # fmt: skip

# Arguments that change what is drawn; t are tokens that the formula draws without.
TAKEN: dict[str, Callable[[list[int]], tuple[Any, ...]]] = {
    "EpsilonLogitsWarper": lambda t: (3e-2,),
    "EtaLogitsWarper": lambda t: (0.2,),
    "ExponentialDecayLengthPenalty": lambda t: ((3, 2.5), t[0], 2),
    "ForcedBOSTokenLogitsProcessor": lambda t: (7,),
    "ForcedEOSTokenLogitsProcessor": lambda t: (8, 5),
    "InfNanRemoveLogitsProcessor": lambda t: (),
    "LogitNormalization": lambda t: (),
    "MinLengthLogitsProcessor": lambda t: (7, t, "cpu"),
    "MinNewTokensLengthLogitsProcessor": lambda t: (4, 5, t, "cpu"),
    "MinPLogitsWarper": lambda t: (0.5,),
    "NoBadWordsLogitsProcessor": lambda t: ([[t[1]], [t[2], t[3]]],),
    "NoRepeatNGramLogitsProcessor": lambda t: (1,),
    "RepetitionPenaltyLogitsProcessor": lambda t: (1.8,),
    "SequenceBiasLogitsProcessor": lambda t: ([[[t[1]], -9.0], [[t[2], t[3]], -9.0]],),
    "SuppressTokensAtBeginLogitsProcessor": lambda t: (t, 4, "cpu"),
    "SuppressTokensLogitsProcessor": lambda t: (t, "cpu"),
    "SynthIDTextWatermarkLogitsProcessor": lambda t: tuple(SYNTH_ID.values()),
    "TemperatureLogitsWarper": lambda t: (3.0,),
    "TopHLogitsWarper": lambda t: (0.3,),
    "TopKLogitsWarper": lambda t: (2,),
    "TopPLogitsWarper": lambda t: (0.3,),
    "TypicalLogitsWarper": lambda t: (0.3,),
    "WatermarkLogitsProcessor": lambda t: (V, "cpu", 0.5, 6.0),
}
ALIKE = {"InfNanRemoveLogitsProcessor", "LogitNormalization"}  # of log-probabilities that are whole
ONLY_SHORT = {"ForcedBOSTokenLogitsProcessor"}  # of a text of one token
ENCODER = torch.tensor([[3, 4, 5]])
NOT_TAKEN: dict[str, tuple[Any, ...]] = {
    "AlternatingCodebooksLogitsProcessor": (2, 10, 10),
    "BarkEosPrioritizerLogitsProcessor": (2, 0.1),
    "ClassifierFreeGuidanceLogitsProcessor": (1.5,),
    "DiaClassifierFreeGuidanceLogitsProcessor": (1.5,),
    "DiaEOSChannelFilterLogitsProcessor": (2, 5),
    "DiaEOSDelayPatternLogitsProcessor": ([0, 2], 5, 20),
    "EncoderNoRepeatNGramLogitsProcessor": (2, ENCODER),
    "EncoderRepetitionPenaltyLogitsProcessor": (1.3, ENCODER),
    "PrefixConstrainedLogitsProcessor": (lambda batch_id, ids: [3], 1),
    "UnbatchedClassifierFreeGuidanceLogitsProcessor": (1.5, None),
    "WhisperNoSpeechDetection": (5, 1),
    "WhisperTimeStampLogitsProcessor": (
        SimpleNamespace(no_timestamps_token_id=9, eos_token_id=2, bos_token_id=1), 1
    ),
}  # fmt: skip
SHIPPED = {
    name: kind
    for name, kind in vars(logits_process).items()
    if inspect.isclass(kind)
    and issubclass(kind, LogitsProcessor)
    and kind is not LogitsProcessor
    and kind.__module__ == logits_process.__name__
}


def test_every_processor_of_transformers_is_known() -> None:
    """A version with one more has to say here what becomes of it."""
    assert set(SHIPPED) <= set(TAKEN) | set(NOT_TAKEN)
    assert not set(TAKEN) & set(NOT_TAKEN)
    assert set(TAKEN) - set(STATELESS) == {"SynthIDTextWatermarkLogitsProcessor"}
    assert set(STATELESS) <= set(TAKEN)
    assert set(REFUSED) == set(NOT_TAKEN) | {"FormulaProcessor"}


@pytest.fixture
def base(zoo) -> Any:
    return zoo.model("base")


def plain(
    model: Any, prompt: list[int], processor: Any, temperature: float = 0.0, seed: int = 0
) -> list[int]:
    """The answer to one prompt by a processor that has been called for nothing else."""
    text, key = list(prompt), torch.tensor([seed_key(seed)], dtype=torch.int32)
    for step in range(MOST):
        scores = processor(torch.tensor([text]), logprobs(model, text)[None])[0]
        if temperature:
            scores = scores / temperature + gumbel(key, torch.tensor([step]), len(scores))[0]
        text.append(int(scores.argmax()))
    return text[len(prompt) :]


def tokens(decoder: Any, prompts: Any = PROMPTS, **settings: Any) -> list[list[int]]:
    settings = {"max_new_tokens": MOST, "eos_token_id": []} | settings
    return [one.token_ids for one in decoder.generate(prompts, **settings)]


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", TAKEN)
def test_a_batch_is_each_row_alone(compiled, base, name, settings) -> None:
    if name not in SHIPPED:
        pytest.skip(f"this version of transformers has no {name}")
    without = tokens(compiled("base"), **settings)
    arguments = TAKEN[name]([token for each in without for token in each[:3]])
    descant.logits_processor("own", SHIPPED[name](*arguments))
    decoder, prompts = compiled("base | own()"), PROMPTS
    if name in ONLY_SHORT:
        prompts = [[1], *PROMPTS]
        without = tokens(compiled("base"), prompts, **settings)
    expected = [plain(base, each, SHIPPED[name](*arguments), **settings) for each in prompts]
    found = tokens(decoder, prompts, **settings)
    assert found == expected
    assert tokens(decoder, prompts, **settings) == found  # the second call
    assert tokens(decoder, prompts[::-1], **settings, batch_size=2) == expected[::-1]
    assert [tokens(decoder, [each], **settings)[0] for each in prompts] == expected
    assert (found == without) == (name in ALIKE or _keeps_the_best(name, settings))


def _keeps_the_best(name: str, settings: dict[str, Any]) -> bool:
    """Whether the best token stays the best."""
    warpers = ("Epsilon", "Eta", "MinP", "Temperature", "TopH", "TopK", "TopP")
    return not settings and name.startswith(warpers)


@pytest.mark.parametrize("name", NOT_TAKEN)
def test_what_is_not_of_ids_and_scores_is_refused_by_name(name) -> None:
    if name not in SHIPPED:
        pytest.skip(f"this version of transformers has no {name}")
    if name.startswith("Unbatched"):
        made = object.__new__(SHIPPED[name])
    else:
        made = SHIPPED[name](*NOT_TAKEN[name])
    for given in ({"processor": made}, {"factory": lambda: made}):
        with pytest.raises(ArgumentError, match=f"own: {name} .*; (write|register|generate)"):
            descant.logits_processor("own", **given)
    assert "own" not in descant.formula.STAGES


# What a state has to follow.


class Turns(LogitsProcessor):
    """Depends on all calls before, on ids and scores alike: the best token, and the last one's."""

    def __init__(self) -> None:
        self.sums, self.read = torch.zeros(V), [0]
        self.table = torch.arange(V, dtype=torch.float) % 7

    def __call__(self, ids: Any, scores: Any) -> Any:
        self.sums += scores[0].clamp(min=-20) * 0.3  # in place
        self.read.append(int(ids[0, -1]))
        moved = scores + 0.5 * self.sums.roll(sum(self.read))
        return moved + self.table.roll(self.read[-1]) * 0.4


@pytest.fixture
def turns() -> None:
    descant.logits_processor("turns", Turns())


MANY = PROMPTS + [[1, 60 + i, 3] for i in range(4)]


@pytest.mark.pages
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_a_state_follows_its_row(compiled, base, turns, batch_size) -> None:
    """Rows end at different times, and others take their slots."""
    settings = {"temperature": 0.8, "seed": 5, "eos_token_id": [*range(0, V, 9)]}
    expected = [plain(base, each, Turns(), 0.8, 5) for each in MANY]
    ends = [next((i for i, t in enumerate(each) if t % 9 == 0), MOST) for each in expected]
    expected = [each[: end + 1] for each, end in zip(expected, ends, strict=True)]
    decoder = compiled("base | turns()")
    assert len(set(map(len, expected))) > 2
    for _ in range(2):
        assert tokens(decoder, MANY, batch_size=batch_size, **settings) == expected


@pytest.mark.parametrize("draft", ["base", "arm", "base | turns()", "prompt", "auto"])
def test_a_draft_changes_no_token(compiled, base, turns, draft) -> None:
    for settings in ({}, {"temperature": 0.8, "seed": 5}):
        decoder = compiled("base | turns()", draft=draft)
        expected = [plain(base, each, Turns(), **settings) for each in PROMPTS]
        assert tokens(decoder, draft=draft, draft_length=8, **settings) == expected
        if draft.startswith("base"):
            assert decoder.session.engine.stats.rounds


SEARCHES = [
    "best_of(rm, n=3)", "blockwise(rm, beams=2, samples=2, length=3)",
    "blockwise(arm - base, beams=2, samples=2, length=3)",
    "reject(rm, target=1, entropy=3, beta=0.1, retries=3)",
    'particles(rm, n=3, until="e")', "best_of(rm, n=3, keep=0.5, every=3)",
]  # fmt: skip


class Keeps(LogitsProcessor):
    """Keeps what it is given, and looks at it again."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def __call__(self, ids: Any, scores: Any) -> Any:
        self.given.append((ids, scores))
        return scores + 0.2 * sum(old.roll(int(text.sum())) for text, old in self.given)


@pytest.mark.parametrize(("kind", "draft"), [(Turns, None), (Turns, "base"), (Keeps, None)])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_state_follows_a_search(compiled, search, kind, draft) -> None:
    """A row that goes on as another, or from before: as with a function of the whole text.

    It makes the state anew from the scores of every beginning of the text.
    """
    known: dict[tuple[int, ...], torch.Tensor] = {}
    starts = {tuple(each) for each in PROMPTS}

    def anew(ids: Any, scores: Any) -> Any:
        text = tuple(ids[0].tolist())
        known[text] = scores.clone()
        start = next(n for n in range(len(text) + 1) if text[:n] in starts)
        processor = kind()
        for end in range(start, len(text) + 1):
            out = processor(ids[:, :end], known[text[:end]].clone())
        return out

    descant.logits_processor("turns", kind())
    descant.logits_processor("anew", anew)
    settings = {"temperature": 0.9, "seed": 8, "max_new_tokens": 14, "eos_token_id": [2, 40, 41]}
    if draft:
        settings |= {"draft": draft, "draft_length": 3}
    expected = tokens(compiled(f"base | anew() | {search}"), **settings)
    decoder = compiled(f"base | turns() | {search}")
    assert tokens(decoder, **settings) == expected
    assert [tokens(decoder, [each], **settings)[0] for each in PROMPTS] == expected
    without = tokens(compiled(f"base | {search}"), **settings)
    assert without != expected


def test_a_log_likelihood_has_the_states_of_its_tokens(compiled, base, turns) -> None:
    decoder = compiled("base | turns()")
    answers = [plain(base, each, Turns()) for each in PROMPTS]
    found = decoder.loglikelihood(PROMPTS, answers)
    for prompt, answer, one in zip(PROMPTS, answers, found, strict=True):
        processor, expected = Turns(), []
        for end, token in enumerate(answer):
            text = [*prompt, *answer[:end]]
            scores = processor(torch.tensor([text]), logprobs(base, text)[None])[0]
            expected.append(float(scores.log_softmax(-1)[token]))
        assert one.logprobs == pytest.approx(expected, abs=2e-4) and one.is_greedy
        scores = decoder.scores(prompt, answer)
        assert scores[:-1].argmax(dim=-1).tolist() == answer


@pytest.mark.parametrize("beams", [1, 3])
def test_a_loop_of_transformers_exchanges_rows(compiled, base, turns, beams) -> None:
    """Beam search over a formula, its rows side by side and one after the other."""
    decoder = compiled("base | turns()", models={"base": base})
    prompts, together = exchanges(decoder, base, beams)
    if beams == 1:
        assert together == [plain(base, each, Turns())[:8] for each in prompts]


def test_a_step_that_failed_is_taken_again(zoo, base) -> None:
    """The batch is emptied, and rows begin again from what they have drawn."""
    from descant.models import make_spec
    from descant.runtime import Service

    failing = [5]

    class Fails(Turns):
        def __call__(self, ids: Any, scores: Any) -> Any:
            out = super().__call__(ids, scores)
            failing[0] -= len(self.read) == 6
            if len(self.read) == 6 and failing[0] == 3:
                raise MemoryError("a chance")
            return out

    descant.logits_processor("fails", Fails())
    service = Service({"base": make_spec("base", zoo.path("base"))}, slots=4, max_model_len=64)
    decoder = service.decoder("base | fails()", {})
    more = {"max_new_tokens": MOST, "eos_token_id": [], "temperature": 0.0}
    requests = [service.submit(decoder, prompt, **more)[0] for prompt in PROMPTS]
    ended: dict[int, Any] = {}
    while service.busy:
        ended |= {id(each.request): each for each in service.step() if each.finish_reason}
    assert failing[0] < 1 and all(answer.error is None for answer in ended.values())
    found = [ended[id(request)].tokens for request in requests]
    assert found == [plain(base, each, Turns()) for each in PROMPTS]
    assert not any(request.states for request in requests)


def test_states_are_dropped_with_their_rows(compiled, turns, monkeypatch) -> None:
    """A row keeps those of its last texts; a request that has ended, none."""
    from descant.runtime.loops.scheduler import Scheduler

    seen: list[int] = []
    original = Scheduler._no_more

    def counted(self: Any, request: Any) -> None:
        seen.append(sum(len(level) for level in request.states.values()))
        original(self, request)
        assert not request.states

    monkeypatch.setattr(Scheduler, "_no_more", counted)
    tokens(compiled("base | turns()"), max_new_tokens=40)
    assert len(seen) == len(PROMPTS) and max(seen) <= 5


# What may be given.


class Uncopied(Turns):
    """As a matcher of another language's library."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle 'Matcher' object")


def test_what_cannot_be_copied_needs_a_factory(compiled, base) -> None:
    with pytest.raises(ArgumentError, match=r"own: Uncopied cannot be copied .* give factory="):
        descant.logits_processor("own", Uncopied())
    descant.logits_processor("own", factory=Uncopied)
    expected = [plain(base, each, Turns()) for each in PROMPTS]
    decoder = compiled("base | own()")
    for size in (8, 2):
        assert tokens(decoder, batch_size=size) == expected
    refused = "own keeps a state, .* leave out draft and searches"
    with pytest.raises(ArgumentError, match=refused):
        tokens(compiled("base | own() | best_of(rm, n=3)"), PROMPTS[:1])


def test_a_factory_makes_a_processor_for_each_row(compiled, base) -> None:
    made: list[Any] = []
    descant.logits_processor("own", factory=lambda: made.append(Turns()) or made[-1])
    assert tokens(compiled("base | own()")) == [plain(base, each, Turns()) for each in PROMPTS]
    assert len(made) == 2 + len(PROMPTS)  # two to look at


def test_the_processor_is_copied_as_it_is_given(compiled, base) -> None:
    """What becomes of it later is nothing to its stage."""
    given = Turns()
    descant.logits_processor("own", given)
    given(torch.tensor([[1, 2]]), torch.zeros(1, V))
    given.table.zero_()
    assert tokens(compiled("base | own()")) == [plain(base, each, Turns()) for each in PROMPTS]


def test_one_that_prepares_for_a_vocabulary_serves_another(compiled, base) -> None:
    """transformers' bias has a vector as long as the first scores that it sees."""
    descant.logits_processor("own", logits_process.SequenceBiasLogitsProcessor([[[3], 50.0]]))
    table = descant.TableModel.random(12, seed=4)
    assert tokens(descant.compile("t | own()", {"t": table}), [[5]], max_new_tokens=2) == [[3, 3]]
    assert tokens(compiled("base | own()"), max_new_tokens=2) == [[3, 3]] * len(PROMPTS)


def test_the_tensors_that_a_call_leaves_alone_are_kept_once(compiled, monkeypatch) -> None:
    """SynthID's table has 2**16 numbers, and a state of it for each token would be 512 kB."""
    from descant.runtime.scores.own import processors

    kept: list[Any] = []
    original = processors._kept
    monkeypatch.setattr(processors, "_kept", lambda *args: kept.append(original(*args)) or kept[-1])
    watermark = logits_process.SynthIDTextWatermarkLogitsProcessor(**SYNTH_ID)
    descant.logits_processor("own", watermark)
    tokens(compiled("base | own()"), PROMPTS[:2])
    assert len(kept) == 2 * MOST
    assert len({each.sampling_table.data_ptr() for each in kept}) == 1
    assert len({each.state.context_history.data_ptr() for each in kept}) == 2 * MOST


def test_a_model_that_a_processor_has_is_shared(compiled, base) -> None:
    class Guide(Turns):
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def __call__(self, ids: Any, scores: Any) -> Any:
            assert self.model is base
            return super().__call__(ids, scores) + 0.5 * logprobs(self.model, ids[0].tolist())

    descant.logits_processor("own", Guide(base))
    assert tokens(compiled("base | own()")) == [plain(base, each, Guide(base)) for each in PROMPTS]


def test_a_list_of_processors_is_one(compiled, base) -> None:
    def both() -> Any:
        parts = [logits_process.TopKLogitsWarper(9), Turns()]
        return logits_process.LogitsProcessorList(parts)

    descant.logits_processor("own", both())
    assert tokens(compiled("base | own()")) == [plain(base, each, both()) for each in PROMPTS]
    inner = PrefixConstrainedLogitsProcessor(lambda row, ids: [3], 1)
    with pytest.raises(ArgumentError, match="other: PrefixConstrained"):
        descant.logits_processor("other", logits_process.LogitsProcessorList([inner]))


def test_two_stages_of_one_processor_have_a_state_each(compiled, base, turns) -> None:
    class Twice:
        def __init__(self) -> None:
            self.first, self.second = Turns(), Turns()

        def __call__(self, ids: Any, scores: Any) -> Any:
            return self.second(ids, self.first(ids, scores))

    expected = [plain(base, each, Twice()) for each in PROMPTS]
    assert tokens(compiled("base | turns() | turns()")) == expected


def test_a_state_has_no_place_in_parentheses(compiled, turns) -> None:
    with pytest.raises(descant.FormulaError) as caught:
        compiled("(base | turns()) + arm")
    assert caught.value.problem.startswith("turns keeps a state")
    assert caught.value.cure == "put it at the end of the formula"
    descant.logits_processor("stateless", logits_process.TopKLogitsWarper(3))
    assert len(tokens(compiled("(base | stateless()) + arm"))) == len(PROMPTS)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({}, "give own a processor, or factory=: one of the two"),
        ({"processor": Turns(), "factory": Turns}, "give own a processor, or factory=: one of"),
        ({"processor": Turns}, r"own: Turns is no processor.*; give factory=lambda: Turns\(…\)"),
        ({"processor": 3}, "own: int is no processor"),
        ({"factory": lambda ids, scores: scores}, "the factory of own fails: .*; give one without"),
        ({"factory": Turns().__class__.__call__.__get__}, "the factory of own fails"),
    ],
)
def test_what_is_no_processor_is_said(given, problem) -> None:
    with pytest.raises(ArgumentError, match=problem):
        descant.logits_processor("own", **given)
    shared = Turns()
    with pytest.raises(ArgumentError, match="the factory of own gives one object twice"):
        descant.logits_processor("own", factory=lambda: shared)


def test_a_formula_is_no_processor_of_another(compiled) -> None:
    processor = descant.FormulaProcessor(compiled("base"))
    with pytest.raises(ArgumentError, match="FormulaProcessor is a formula; write that formula"):
        descant.logits_processor("own", processor)
