"""Constrained rows in every kind of step: each answer is the one that it would be by itself."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import tokenizer_models
import torch
from constrained import LETTERS, tables
from transformers import LogitsProcessorList

import descant
from descant.formula.words.stages import Search
from descant.grammar import FormulaError
from descant.models import make_spec
from descant.runtime import Service

END = len(LETTERS) + 1
PROMPTS = [[0], [1, 2, 3], [2, 1], [4, 0, 0, 1]]
NAMES = {"grammars": {"pairs": 'start: "ab" start? "1" | "c"'}}
SETTINGS: dict[str, Any] = {"max_new_tokens": 9, "temperature": 1.0}
FORMULAS = [
    'base + 0.5*arm | regex("(ab|c)*1?") | rerank(rm, k=3)',
    '(base | regex("[abc]*1")) - 0.3*arm | grammar(pairs)',
    'where(step < 2, base, (arm | regex(".*1"))) | regex("[abc1]{4,9}") | temperature(0.8)',
    'base | regex("a[bc]{3,6}") | best_of(rm, n=4)',
    'base | regex("(ab|c)*1") | blockwise(rm, beams=2, samples=2, length=3)',
    'arm | regex("(a|ab|c){3,8}1?") | reject(rm, target=2, samples=2, shortest=1, longest=3)',
]


def drawn(answers: Any) -> list[tuple[list[int], str]]:
    return [(answer.token_ids, answer.finish_reason) for answer in answers]


def alone(decoder: Any, prompt: list[int], seed: int, **more: Any) -> tuple[list[int], str]:
    return drawn(decoder.generate(prompt, seed=seed, **{**SETTINGS, **more}))[0]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_batch_gives_what_each_row_gives_alone_and_drafts_change_nothing(formula) -> None:
    decoder = descant.compile(formula, models=tables(), **NAMES)
    expected = [alone(decoder, prompt, seed) for seed, prompt in enumerate(PROMPTS)]
    seeds = [*range(len(PROMPTS))]
    assert drawn(decoder.generate(PROMPTS, seed=seeds, **SETTINGS)) == expected
    for draft in ("prompt", "arm + base"):
        more = {"draft": draft, "draft_length": 3, **SETTINGS}
        assert drawn(decoder.generate(PROMPTS, seed=seeds, **more)) == expected
    assert len({tuple(tokens) for tokens, _ in expected}) > 1


def test_rows_of_a_service_come_go_and_fail_and_meet_nobody_else() -> None:
    """One request reaches a dead end; formulas without constraints share the same lanes."""
    specs = {name: make_spec(name, spec) for name, spec in tables().items()}
    service = Service(specs, slots=5, max_model_len=64)
    formulas = [FORMULAS[0], "base + 0.5*arm", FORMULAS[3], 'base | regex("[abc]{2,8}1")',
                'base | top_k(2) | regex("(ab)*1c")']  # fmt: skip
    decoders = [service.decoder(formula) for formula in formulas]
    decoders[3].session.engine.ahead = 1  # a step is launched before the last is looked at
    asked = [(which, prompt, seed) for seed, prompt in enumerate(PROMPTS) for which in range(5)]
    expected, failed = {}, set()
    for which, prompt, seed in asked:
        try:
            expected[which, seed] = alone(decoders[which].alone(), prompt, seed)
        except FormulaError as error:
            failed.add((which, seed))
            assert "allows no token that is left" in str(error)
    assert {which for which, _ in failed} == {4}
    requests: dict[int, tuple[int, int]] = {}
    answers: dict[tuple[int, int], Any] = {}
    random.Random(3).shuffle(asked)
    while asked or service.busy:
        if asked:
            which, prompt, seed = asked.pop()
            [request] = service.submit(decoders[which], prompt, seed=seed, **SETTINGS)
            requests[id(request)] = which, seed
        answers |= {requests[id(a.request)]: a for a in service.step() if a.finish_reason}
    assert {key for key, answer in answers.items() if answer.error} == failed
    ended = {key: (a.tokens, a.finish_reason) for key, a in answers.items() if not a.error}
    assert ended == expected


def test_the_stages_order_holds_by_a_plain_implementation() -> None:
    """ARGS among what fits, token by token, with nothing of ours but the tables."""
    models = tables()
    size = END + 1
    base, arm = (models[name]["model"].table[:size, :size] for name in ("base", "arm"))
    reward = models["rm"].table
    pattern = re.compile("(ab|c)+1")
    fitting = [text for text in _texts(14) if pattern.fullmatch(text)]
    answer, text = [0], ""
    expected: list[int] = []
    while len(expected) < 6:
        scores = base[answer[-1]].log_softmax(-1) + 0.5 * arm[answer[-1]].log_softmax(-1)
        allowed = [i for i, t in enumerate(LETTERS) if any(f.startswith(text + t) for f in fitting)]
        best = sorted(allowed, key=lambda i: -float(scores[i]))[:2]
        token = max(best, key=lambda i: float(scores[i] + 1.5 * reward[answer[-1], i]))
        expected.append(token)
        answer.append(token)
        text += LETTERS[token]
        if pattern.fullmatch(text):
            break
    formula = 'base + 0.5*arm | regex("(ab|c)+1") | rerank(rm, k=2, w=1.5)'
    decoder = descant.compile(formula, models=models)
    [found] = decoder.generate([0], max_new_tokens=6)
    assert found.token_ids == expected


def _texts(longest: int) -> set[str]:
    """Texts of ab, c and a last 1."""
    texts, new = set[str](), {""}
    while new:
        texts |= new
        new = {each + part for each in new for part in ("ab", "c") if len(each + part) < longest}
    return {each + "1" for each in texts}


def test_answers_end_where_they_are_complete_and_say_how() -> None:
    models = tables()
    greedy = {"max_new_tokens": 4}

    def one(formula: str, **more: Any) -> tuple[list[int], str]:
        return drawn(descant.compile(formula, models=models).generate([0], **{**greedy, **more}))[0]

    assert one('base | choice("ab1")') in [([0, 1, 5], "stop"), ([3, 5], "stop")]
    tokens, reason = one('base | regex("a{9}")')
    assert (tokens, reason) == ([0] * 4, "length")
    tokens, reason = one('(base | regex("c(1.*)?")) + 0*arm')
    assert (tokens[-1] == END and reason == "eos") or reason == "length"
    # ids of the caller end an answer, where it may end, and nowhere else
    tokens, reason = one('base | regex("1*c|a1")', eos_token_id=[5])
    assert (tokens[-1], reason) in [(2, "stop")]
    assert 5 not in tokens
    # the last token of all completes it
    assert one('base | regex("c{4}")')[1] == "stop"
    # an answer that may end and may go on, and has no end to draw
    assert one('base | regex("c*")', eos_token_id=[]) == ([2] * 4, "length")


@pytest.mark.parametrize(
    ("formula", "problem", "caret", "cure"),
    [
        (
            'base | top_k(1) | regex("1c|c1")', "allows no token that is left for row 0, token 0",
            'regex("1c|c1")', "what comes before it excludes",
        ),
        (
            'base | regex("a(ab|x)")', None, "", "",
        ),
        (
            'base | regex("cx|cx1")', "allows no token for row 0, token 1", 'regex("cx|cx1")',
            "no token of the vocabulary goes on",
        ),
        ('base | regex("a(")', "the regex cannot be compiled", 'regex("a(")', ""),
        ("base | json(pair)", "Invalid type: pear", "json(pair)", ""),
        ("base | grammar('start: x')", 'unknown name: "x"', "grammar('start: x')", ""),
    ],
)  # fmt: skip
def test_dead_ends_and_what_does_not_compile_are_marked(formula, problem, caret, cure) -> None:
    def run() -> None:
        schemas = {"pair": {"type": "pear"}}
        descant.compile(formula, models=tables(), schemas=schemas).generate([0], max_new_tokens=5)

    if problem is None:
        return run()
    with pytest.raises(FormulaError) as caught:
        run()
    span = caught.value.span
    assert problem in caught.value.problem and cure in caught.value.cure
    assert formula[span.start : span.end] == caret


def test_answers_of_every_tokenizer_fit_as_texts() -> None:
    """Byte-level, SentencePiece and bytes alone; and aligned terms beside them."""
    models = tokenizer_models.models()
    pattern = r"( ?[a-zé]{2,6}){1,3}[.!]"
    stage = f"regex({pattern!r})".replace("\\", "\\\\")
    for formula in (
        f"q + 0.5*align(l) | {stage}",
        f"l + 0.5*align(q) | {stage}",
        f"bytes | {stage}",
    ):
        decoder = descant.compile(formula, models=models)
        prompts = ["the stone", "one two three "]
        answers = decoder.generate(prompts, max_new_tokens=40, temperature=1.0, seed=4)
        for answer in answers:
            whole = re.fullmatch(pattern, answer.text)
            assert whole if answer.finish_reason in ("stop", "eos") else not whole
        assert any(answer.finish_reason == "stop" for answer in answers)
        again = decoder.generate(prompts[1], max_new_tokens=40, temperature=1.0, seed=4)
        assert again[0].token_ids == answers[1].token_ids
        [of_first] = decoder.loglikelihood([prompts[0]], [answers[0].token_ids])
        along = decoder.scores(prompts[0], answers[0].token_ids)[:-1].log_softmax(-1)
        picked = along.gather(1, torch.tensor(answers[0].token_ids)[:, None])[:, 0]
        assert of_first.logprobs == pytest.approx(picked.tolist(), abs=1e-4)
        assert picked.isfinite().all()


def test_transformers_own_loop_is_constrained_too() -> None:
    models = tokenizer_models.models()
    formula = 'q | regex("[a-z ]{3,9}!")'
    decoder = descant.compile(formula, models=models)
    model, tokenizer = models["q"]["model"], models["q"]["tokenizer"]
    ids = tokenizer("the stone", return_tensors="pt").input_ids
    [answer] = decoder.generate([ids[0].tolist()], max_new_tokens=12)
    more = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    custom = model.generate(ids, custom_generate=decoder, **more)
    assert custom[0, ids.shape[1] :].tolist() == answer.token_ids
    processor = LogitsProcessorList([descant.FormulaProcessor(decoder, base="q")])
    processed = model.generate(ids, logits_processor=processor, **more)[0, ids.shape[1] :].tolist()
    assert processed[: len(answer.token_ids)] == answer.token_ids
    beams = model.generate(ids, logits_processor=processor, num_beams=3, **more)
    text = tokenizer.decode(beams[0, ids.shape[1] :], skip_special_tokens=True)
    assert re.fullmatch("[a-z ]{0,9}!?", text)


def test_the_table_has_every_search() -> None:
    names = {name for name, cls in descant.formula.STAGES.items() if issubclass(cls, Search)}
    assert all(any(name + "(" in each for each in FORMULAS) for name in names - {"particles"})


def test_a_plan_and_an_inspection_say_what_is_masked() -> None:
    formula = '(base | grammar(pairs)) + 0.5*arm | regex("(ab)+1?")'
    decoder = descant.compile(formula, models=tables(), **NAMES)
    assert "constrained grammar(pairs): " in str(decoder.plan)
    assert '            regex("(ab)+1?"): 7 characters; the host makes' in str(decoder.plan)
    inspection = decoder.inspect([0], max_new_tokens=5, n=8)
    name = 'regex("(ab)+1?")'
    place = [part.name for part in inspection.parts].index(name)
    first, second = inspection.tokens[:2]
    assert first.numbers[place] == {"tokens allowed": 2.0}  # a, ab
    assert second.numbers[place]["tokens allowed"] in (1.0, 4.0)  # b; a, ab, 1 and the end
    by = {candidate.id: candidate.removed_by for candidate in first.candidates}
    assert set(by.values()) <= {None, name, "(base | grammar(pairs))"} and name in by.values()
    assert all(by[token] is None for token in (0, 3) if token in by)


def test_the_mass_that_masks_keep_is_there_for_those_who_ask() -> None:
    """At a row's temperature: what a search needs to weigh the constraint."""
    decoder = descant.compile('base | regex("(ab|c)+1")', models=tables())
    session = decoder.session
    requests = session.builder.requests(PROMPTS[:2], max_new_tokens=4, temperature=0.5, seed=1)
    engine = session.engine
    batch = engine.begin(requests, 2)
    batch.admit(requests)
    batch.read()
    context = engine.step.context(batch)
    context.mass_temperatures = batch.temperatures[: batch.width]
    engine.step.scores(batch, context)
    size = END + 1
    table = tables()["base"]["model"].table[:size, :size]
    for row, prompt in enumerate(PROMPTS[:2]):
        probabilities = (table[prompt[-1]].log_softmax(-1) / 0.5).softmax(-1)
        kept = float(probabilities[[0, 2, 3]].sum().log())
        assert float(context.kept_mass[0][row]) == pytest.approx(kept, abs=1e-5)


def test_log_probabilities_are_the_formulas_before_what_a_request_masks() -> None:
    """With a draft too; those of what is drawn from are after it."""
    decoder = descant.compile('base | top_k(4) | regex("[abc1]*")', models=tables())
    asked = {**SETTINGS, "structured_outputs": {"regex": "(ab)*c1"}, "seed": 3, "logprobs": True}
    for more in ({}, {"draft": "prompt"}):
        for out in decoder.generate(PROMPTS, **asked, **more):
            [own] = decoder.loglikelihood([out.prompt], [out.token_ids])
            assert out.logprobs == pytest.approx(own.logprobs, abs=1e-4)
    [out] = decoder.generate(PROMPTS[0], **asked, logprobs_mode="processed_logprobs")
    assert out.logprobs[-1] == pytest.approx(0, abs=1e-6)  # nothing but the 1 may follow the c


def test_a_draft_does_not_constrain() -> None:
    decoder = descant.compile("base", models=tables())
    with pytest.raises(FormulaError, match="regex masks what is verified") as caught:
        decoder.generate(PROMPTS, draft='arm | regex("a*")')
    assert str(caught.value).splitlines()[2].index("^") == len("  arm | ")
