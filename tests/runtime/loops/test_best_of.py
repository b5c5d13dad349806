"""Best of n whose worse rows are dropped: against the plain rule, and the slots that it frees."""

from __future__ import annotations

import pytest
import torch
from checkpoints import MODELS
from reference_rules.particles import rejecting
from reference_rules.plain import logprobs, reward
from reference_rules.search import implicit

from descant.models import make_spec
from descant.runtime import Service
from descant.runtime.scores.noise import gumbel, seed_key

PROMPTS = ([1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13])
SEED, MOST, EOS = 11, 12, 2
CASES = [("rm", 7, 0.5, 3), ("arm - base", 4, 0.3, 2), ("rm", 5, 0.7, 5)]


@pytest.mark.pages
@pytest.mark.parametrize(("r", "n", "keep", "every"), CASES)
def test_the_plain_rule(zoo, compiled, r, n, keep, every):
    base, arm, rm = (zoo.model(name) for name in ("base", "arm", "rm"))
    decoder = compiled(f"base | best_of({r}, n={n}, keep={keep}, every={every})")
    options = {"max_new_tokens": MOST, "seed": SEED, "eos_token_id": EOS}
    found = decoder.generate([list(p) for p in PROMPTS], batch_size=2 * n, **options)
    drafted = decoder.generate([list(p) for p in PROMPTS], draft="prompt", **options)
    high, low = seed_key(SEED)
    for prompt, completion, other in zip(PROMPTS, found, drafted, strict=True):

        def draw(row, answer, prompt=prompt):
            scores = logprobs(base, [*prompt, *answer])
            key = torch.tensor([seed_key((high << 32) ^ low, row)], dtype=torch.int32)
            return int((scores + gumbel(key, torch.tensor([len(answer)]), len(scores))[0]).argmax())

        def judge(answer, prompt=prompt):
            if r == "rm":
                return reward(rm, [*prompt, *answer])
            return implicit(arm, base, prompt, answer)

        def over(answer):
            return len(answer) == MOST or EOS in answer

        answers, counts = rejecting(draw, judge, n, keep, every, over)
        assert completion.token_ids == other.token_ids == max(answers.values(), key=judge)
        assert counts[-1] < n
        [alone] = decoder.generate([list(prompt)], **options)
        assert alone.token_ids == completion.token_ids


def test_forwards_shrink(zoo, compiled):
    decoder = compiled(
        "base | best_of(rm, n=8, keep=0.5, every=3)", models={"base": zoo.model("base")}
    )
    rows: list[int] = []
    hook = zoo.model("base").base_model.register_forward_hook(
        lambda module, args, kwargs, out: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        decoder.generate([list(PROMPTS[2])], max_new_tokens=12, seed=0, eos_token_id=())
    finally:
        hook.remove()
    assert rows[1:] == [8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]  # the prompt gave the first token
    line = "8 rows, 4 after 3, 2 after 6, 1 after 9 tokens: 161 row-tokens of 1,024 in answers"
    assert line in str(decoder.plan)


def test_a_request_that_waits_gets_the_slots(zoo):
    specs = {name: make_spec(name, zoo.path(name)) for name in MODELS}
    service = Service(specs, slots=4, max_model_len=64)
    search = service.decoder("base | best_of(rm, n=4, keep=0.5, every=3)")
    plain = service.decoder("base")
    options = {"max_new_tokens": 12, "temperature": 1.0, "eos_token_id": ()}
    [first] = service.submit(search, list(PROMPTS[0]), seed=1, **options)
    waiting = [service.submit(plain, list(p), seed=2, **options)[0] for p in PROMPTS[:2]]
    ended, running = {}, []
    while service.busy:
        for answer in service.step():
            if answer.finish_reason:
                ended[id(answer.request)] = answer.tokens
        running.append((search.scheduler.batch.count, plain.scheduler.batch.count))
    assert (2, 2) in running and (4, 0) in running
    [alone] = search.alone().generate([list(PROMPTS[0])], seed=1, **options)
    assert ended[id(first)] == alone.token_ids
    for request, prompt in zip(waiting, PROMPTS, strict=False):
        [same] = plain.alone().generate([list(prompt)], seed=2, **options)
        assert ended[id(request)] == same.token_ids
