"""What each stage of the language does to scores: tensors in, tensors out, a row per slot."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from ...formula.nodes import StageAddress, Staged
from ...formula.words import stages as words
from ...formula.words.constraints import ConstraintStage
from ...formula.words.stages import Rerank, Stage
from .context import Context
from .expressions import reward_value
from .logprobs import ascending, from_up
from .noise import COIN, uniform
from .sampling import cutoffs, repeats
from .token_tables import BIAS, BREAKS, COUNTS, ENDS, SEEN, TEXT


def chain(
    scores: Tensor,
    context: Context,
    owner: Staged | None,
    stages: Sequence[Stage],
    first: int = 0,
) -> Tensor:
    """``scores | stage | stage``: each stage is given what the one before it gave.

    The stages are the owner's from the ``first`` on.
    """
    for number, stage in enumerate(stages, first):
        before, scores = scores, apply(stage, scores, context, (owner, number))
        if context.record is not None:
            context.record.stages[owner, number] = before, scores
    return scores


def chains(
    head: Tensor, context: Context, stages: Sequence[Sequence[Stage]], of_request: StageAddress
) -> Generator[None, None, Tensor]:
    """Scores through the stages of the request, those of the formula, and those of the request.

    It stops where rewards are asked for that may be had with those of other formulas.

    Args:
        head: ``(slots, V)`` the formula without any stage.
        context: whose ``own`` is then what the formula's stages alone give.
        stages: the three chains.
        of_request: of the constraint that a request gives.
    """
    before, own, after = stages
    if after and context.mass_temperatures is not None:
        warm = context.number(after[0].t)[:, 0]  # type: ignore[attr-defined]
        context.mass_temperatures = context.mass_temperatures[: len(warm)] * warm
    scores, first = chain(head, context, None, before) if before else head, len(before)
    if context.masks is not None:
        scores = context.masks.applied(scores, context, of_request)
    if scores is not head and context.own_apart:  # without what the request changes
        context.own = chain(head, context, None, own, first)
        scores = chain(scores, context, None, own, first)
    else:
        for number, stage in enumerate(own, first):
            if isinstance(stage, Rerank) and _asks(stage, scores, context, (None, number)):
                yield
            scores = chain(scores, context, None, [stage], number)
        context.own = scores
    return chain(scores, context, None, after, first + len(own)) if after else scores


def moves_winner(address: StageAddress, stage: Stage | None) -> bool:
    """Whether the chosen token is always one of the candidates, so that its cache can be moved.

    Elsewhere (other tokens stay, the formula goes on around it, the text's own reward is asked for)
    the token is read again with the next candidates: one query more, and never a wrong cache.
    """
    if not isinstance(stage, Rerank):
        return False
    return address[0] is None and stage.keep == "candidates" and stage.norm != "prefix"


@singledispatch
def apply(stage: Stage, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """What a stage makes of the scores; those that it is given stay as they are."""
    raise TypeError(f"no step for the stage {stage}")


@apply.register
def _(stage: words.Search, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """A search judges whole texts and leaves the scores as they are."""
    return scores


@apply.register
def _(stage: words.Lookahead, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """Of a row that begins as a candidate, that token alone; of others, the best.

    A row's key says which of the best tokens it begins with, and after how many drawn ones. Where
    that is excluded, the best is left. The host gets the bits of its score.
    """
    if context.keys is None or context.next_tokens is not None:
        return scores
    best = scores.topk(context.widest(stage.k, scores.shape[-1]), dim=-1)
    rank, begins = context.keys[:, :1].long(), context.keys[:, 1:] == context.steps[:, None]
    rank = torch.where(begins, rank, 0)
    rank = torch.where(best.values.gather(1, rank) == -torch.inf, 0, rank)
    score, token = best.values.gather(1, rank), best.indices.gather(1, rank)
    context.unsure.append(score[:, 0].float().view(torch.int32).long())
    nothing = torch.where(scores.isnan().any(-1, keepdim=True), torch.nan, -torch.inf)
    return nothing.expand_as(scores).scatter(1, token, score)


@apply.register
def _(stage: ConstraintStage, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """Masks what cannot lead to an answer that fits."""
    masks = context.masks
    return scores if masks is None else masks.applied(scores, context, address)


@apply.register
def _(stage: words.TopK, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    if context.known(stage.k).least >= scores.shape[-1]:
        return scores
    width = context.widest(stage.k, scores.shape[-1])
    last = context.number(stage.k).long().clamp(max=width) - 1
    return from_up(scores, scores.topk(width, dim=-1).values.gather(1, last))


@apply.register
def _(stage: words.TopP, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """Of tokens that tie for the last place, those with the lowest ids are kept."""
    order = ascending(scores)
    mass = order.softmax(dim=-1).cumsum_(dim=-1)
    low = torch.searchsorted(mass, 1 - context.number(stage.p), right=True)
    least = order.gather(1, low.clamp_(max=scores.shape[-1] - 1))
    ties = torch.searchsorted(order, least, right=True) - low
    tied = torch.eq(scores, least, out=torch.empty_like(scores)).cumsum_(dim=-1)
    beyond = least.nextafter(torch.full_like(least, torch.inf)) - least
    return from_up(scores, tied.gt_(ties).mul_(beyond).add_(least))


@apply.register
def _(stage: words.RequestTopP, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    known = context.known(stage.p)
    if known.one:
        return scores
    kept = apply.dispatch(words.TopP)(stage, scores, context, address)
    return kept if known.most < 1 else torch.where(known.values >= 1, scores, kept)


@apply.register
def _(stage: words.MinP, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    if not context.runs(stage.p):
        return scores
    lowest = scores.amax(dim=-1, keepdim=True) + context.number(stage.p).log()
    return from_up(scores, lowest)


@apply.register
def _(stage: words.Temperature, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    return scores if context.known(stage.t).one else scores / context.number(stage.t)


@apply.register
def _(penalty: words.RepetitionPenalty, scores: Tensor, context: Context, _: Any) -> Tensor:
    if context.known(penalty.x).one:
        return scores
    x = context.number(penalty.x)
    penalised = scores.clamp(max=0).mul_(x).add_(scores.clamp(min=0).div_(x))
    return torch.where(context.tables[SEEN], penalised, scores)


@apply.register
def _(penalty: words.PresencePenalty, scores: Tensor, context: Context, _: Any) -> Tensor:
    if not context.runs(penalty.x):
        return scores
    return torch.where(context.tables[COUNTS] > 0, scores - context.number(penalty.x), scores)


@apply.register
def _(penalty: words.FrequencyPenalty, scores: Tensor, context: Context, _: Any) -> Tensor:
    if not context.runs(penalty.x):
        return scores
    return scores - context.number(penalty.x) * context.tables[COUNTS]


@apply.register
def _(stage: words.TypicalP, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    known = context.known(stage.p)
    return scores if known.one else cutoffs.typical(scores, known.values)


@apply.register
def _(stage: words.EpsilonCutoff, scores: Tensor, context: Context, _: Any) -> Tensor:
    if not context.runs(stage.x):
        return scores
    return cutoffs.epsilon(scores, context.number(stage.x))


@apply.register
def _(stage: words.EtaCutoff, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    return cutoffs.eta(scores, context.number(stage.x)) if context.runs(stage.x) else scores


@apply.register
def _(stage: words.TopNSigma, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    if not context.runs(stage.n):
        return scores
    return cutoffs.top_n_sigma(scores, context.number(stage.n))


@apply.register
def _(stage: words.Xtc, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """One coin for each step of a request: two such stages toss the same."""
    if not context.runs(stage.probability):
        return scores
    numbers = context.number(stage.probability), context.number(stage.threshold)
    coins = None if context.keys is None else uniform(context.keys, context.steps, COIN)
    return cutoffs.xtc(scores, *numbers, coins)


@apply.register
def _(stage: words.NoRepeatNgram, scores: Tensor, context: Context, _: Any) -> Tensor:
    if not context.runs(stage.n):
        return scores
    n, most = context.number(stage.n), int(context.known(stage.n).most)
    return repeats.no_repeat_ngram(scores, context.tables[TEXT], n, most)


@apply.register
def _(stage: words.Dry, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    if not context.runs(stage.multiplier):
        return scores
    of_text = context.tables[TEXT], context.tables[BREAKS]
    numbers = stage.multiplier, stage.base, stage.allowed_length
    return repeats.dry(scores, *of_text, *map(context.number, numbers))


@apply.register
def _(stage: words.MinTokens, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    if not context.runs(stage.n):
        return scores
    early = context.steps[:, None] < context.number(stage.n)
    return scores.masked_fill(context.tables[ENDS] & early, -torch.inf)


@apply.register
def _(stage: words.LogitBias, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    known = context.columns.biases
    if stage not in known:
        columns = [context.columns[each.number] for each in stage.bias]
        both = torch.tensor([[each.token for each in stage.bias], columns], device=scores.device)
        known[stage] = both[0], both[1]
    tokens, where = known[stage]
    if any(each.number.states for each in stage.bias):
        numbers = torch.cat([context.number(each.number) for each in stage.bias], dim=1)
    else:
        numbers = context.values.index_select(1, where)
    return scores.index_add(1, tokens, numbers)


@apply.register
def _(stage: words.RequestBias, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    return scores + context.tables[BIAS]


@apply.register
def _(stage: Rerank, scores: Tensor, context: Context, address: StageAddress) -> Tensor:
    """ARGS, Algorithm 1: ``score(v) = LM(v | x) + w * r([x, v])`` over the top k."""
    width = context.widest(stage.k, scores.shape[-1])
    best = context.asked.pop(address, None) or scores.topk(width, dim=-1)
    order = torch.arange(width, device=scores.device)
    kept = (order < context.number(stage.k)) & (best.values != -torch.inf)
    values = best.values
    if context.runs(stage.w):
        rewards, before = _rewards(stage, address, best.indices, context)
        reward, weight = _total(stage, rewards, before, context, kept), context.number(stage.w)
        context.broken["stage", address] = (~reward.isfinite() & kept & (weight != 0)).any(-1)
        if stage.clamp is not None:
            reward = reward.clamp(*(context.number(bound) for bound in stage.clamp))
        added = torch.where(weight != 0, weight * reward, 0.0)
        values = values + added
        if context.record is not None:
            context.record.rewards[address] = best.indices, rewards, added.masked_fill(~kept, 0.0)
    if stage.keep == "all":
        return scores.scatter(1, best.indices, torch.where(kept, values, best.values))
    nothing = torch.full_like(scores, -torch.inf)
    return nothing.scatter_(1, best.indices, values.masked_fill(~kept, -torch.inf))


def _asks(stage: Rerank, scores: Tensor, context: Context, address: StageAddress) -> bool:
    """Whether rewards of the best tokens have been asked for, which come with those of others."""
    rewarder = context.rewarders.get(address)
    if rewarder is None or context.next_tokens is not None or not context.runs(stage.w):
        return False
    best = scores.topk(context.widest(stage.k, scores.shape[-1]), dim=-1)
    context.asked[address] = best
    return rewarder.ask(best.indices)


def commit(stage: Rerank, address: StageAddress, tokens: Tensor, context: Context) -> None:
    """Go on with the chosen tokens, ``(slots,)``, in a stage's reward models."""
    if rewarder := context.rewarders.get(address):
        candidates = context.candidates.get(address, tokens[:, None])
        rewarder.keep((candidates == tokens[:, None]).byte().argmax(dim=-1), tokens)


def _rewards(
    stage: Rerank, address: StageAddress, candidates: Tensor, context: Context
) -> tuple[list[Tensor], list[Tensor | None]]:
    """The rewards of candidates and of the texts, per reward model; zeros if no row weighs any."""
    rewarder = context.rewarders.get(address)
    if rewarder is None:
        zeros = torch.zeros_like(candidates, dtype=context.values.dtype)
        return [zeros for _ in stage.reward.terms], [zeros[:, 0] for _ in stage.reward.terms]
    if context.next_tokens is not None:
        candidates = torch.cat((candidates, context.next_tokens[:, None]), dim=1)
    context.candidates[address] = candidates
    return rewarder.rewards(candidates)


def _total(
    stage: Rerank, rewards: list[Tensor], before: list[Any], context: Context, kept: Tensor
) -> Tensor:
    """The reward expression over the candidates that count, normalised: ``(slots, k)``."""
    answered = context.steps[:, None]
    total = _combined(stage, rewards, answered + 1, context)[:, : kept.shape[1]]
    match stage.norm:
        case "center":
            count = kept.sum(dim=-1, keepdim=True).clamp(min=1)
            total = total - torch.where(kept, total, 0.0).sum(dim=-1, keepdim=True) / count
        case "minmax":
            low = torch.where(kept, total, torch.inf).amin(dim=-1, keepdim=True)
            high = torch.where(kept, total, -torch.inf).amax(dim=-1, keepdim=True)
            total = (total - low) / torch.where(high > low, high - low, 1.0)
        case "prefix":
            read = [item[:, None] for item in before if item is not None]
            total = total - _combined(stage, read, answered.clamp(min=1), context)
    return total


def _combined(stage: Rerank, rewards: list[Tensor], length: Tensor, context: Context) -> Tensor:
    """The reward expression's value, by the rewards of texts whose answers are so long."""
    return reward_value(stage.reward, rewards, length.float(), context.number)
