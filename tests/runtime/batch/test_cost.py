"""What the plan says of bytes is what is allocated and read, and what cannot fit is refused."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import transformers
from peak import Peak

import descant
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime.batch import memory
from descant.runtime.engine.launch import ScheduledBatch, launch
from descant.runtime.loops.teacher_forcing import teacher_forced

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13]]


@pytest.mark.parametrize(
    "formula",
    ["base", "base + 0.5*arm", "gpt2", "opt", "base + lora4 - lora8", "base | rerank(rm, k=4)"],
)
def test_caches_are_as_large_as_the_plan_says(compiled, formula) -> None:
    decoder = compiled(formula)
    session, bound = decoder.session, decoder.session.bound
    requests = session.builder.requests(PROMPTS, max_new_tokens=5, eos_token_id=[])
    decoding = session.decode(requests, 3)
    next(decoding)
    capacity = bound.lanes[0].rows.capacity
    tensors = [tensor for lane in bound.lanes for tensor in lane.blocks.cache._tensors()]
    reserved = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert reserved == memory.cache_bytes(bound, 3, capacity)
    assert 0 < sum(lane.footprint().cache_bytes for lane in bound.lanes) <= reserved
    assert len([*decoding]) > 1
    assert sum(lane.footprint().cache_bytes for lane in bound.lanes) == 0  # no row is in use


def test_a_batch_that_cannot_fit_is_refused_before_anything_is_allocated(
    compiled, monkeypatch
) -> None:
    decoder = compiled("base + 0.5*arm")
    bound = decoder.session.bound
    footprints = dict(enumerate(lane.footprint() for lane in bound.lanes))
    least = memory.cache_bytes(bound, 2, 32) + memory.work_bytes(bound, footprints, 2, 32)
    monkeypatch.setattr(memory, "free_bytes", lambda device: least)
    settings = {"max_new_tokens": 5, "eos_token_id": []}
    with pytest.raises(descant.ModelError, match=r"3 rows of 32 tokens need .* are free on cpu"):
        decoder.generate(PROMPTS, **settings)
    assert all(lane.footprint().cache_bytes == 0 for lane in decoder.session.bound.lanes)
    with pytest.raises(descant.ModelError, match="batch_size=2 fits"):
        decoder.generate(PROMPTS, **settings)
    assert len(decoder.generate(PROMPTS, batch_size=2, **settings)) == 3
    decoding = decoder.session.decode(decoder.session.builder.requests(PROMPTS, **settings), 2)
    next(decoding)  # an earlier batch, whose caches give way to the next one's
    held = sum(lane.footprint().cache_bytes for lane in bound.lanes)
    assert held > 0
    most = memory.cache_bytes(bound, 3, 32) + memory.work_bytes(bound, footprints, 3, 32)
    monkeypatch.setattr(memory, "free_bytes", lambda device: most - held)
    assert len(decoder.generate(PROMPTS, batch_size=3, **settings)) == 3
    monkeypatch.setattr(memory, "free_bytes", lambda device: 0)
    fresh = compiled("base + 0.5*arm")
    with pytest.raises(descant.ModelError, match="give fewer max_new_tokens"):
        fresh.generate(PROMPTS, **settings)


def test_what_fits_in_pages_is_refused_by_one_text_and_by_what_a_step_works_in(
    compiled, monkeypatch
) -> None:
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    decoder = compiled("base + 0.5*arm")
    bound = decoder.session.bound
    footprints = dict(enumerate(lane.footprint() for lane in bound.lanes))
    scratch = sum(memory.PAGE * footprint.token_bytes for footprint in footprints.values())

    def fits(rows: int) -> int:
        work = memory.work_bytes(bound, footprints, rows, 32, room_for_copies=False)
        return memory.cache_bytes(bound, 1, 32) + scratch + work

    settings = {"max_new_tokens": 5, "eos_token_id": []}
    expected = [one.token_ids for one in decoder.generate(PROMPTS, **settings)]
    for least, cure in ((fits(2), "batch_size=2 fits"), (fits(1) - 1, "give fewer max_new_tokens")):
        tight = compiled("base + 0.5*arm")
        monkeypatch.setattr(memory, "free_bytes", lambda device, least=least: least)
        said = r"one text of 32 tokens, and a step of 3, need .* of caches and .* are free on cpu"
        with pytest.raises(descant.ModelError, match=f"{said}\n{cure}"):
            tight.generate(PROMPTS, **settings)
        assert all(lane.footprint().cache_bytes == 0 for lane in tight.session.bound.lanes)
    monkeypatch.setattr(memory, "free_bytes", lambda device: fits(3))
    tight = compiled("base + 0.5*arm")
    assert [one.token_ids for one in tight.generate(PROMPTS, **settings)] == expected
    assert all(lane.all_pages == 2 for lane in tight.session.bound.lanes)


SHAPES = {
    # much to cache, much to score, much to read at once
    "caches": ({"hidden_size": 64, "vocab_size": 512}, 8, 300, 12),
    "scores": ({"hidden_size": 128, "vocab_size": 20000}, 6, 8, 4),
    "prompts": ({"hidden_size": 96, "intermediate_size": 1024, "vocab_size": 800}, 4, 700, 3),
}


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    "formula", ["base", "max(base, arm) - arm", "base + arm | rerank(rm, k=4)"]
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_peak_is_what_the_plan_says(shape, formula, temperature) -> None:
    """Within a tenth of everything that is in memory at the worst moment."""
    sizes, rows, prompt, new = SHAPES[shape]
    models = {name: llama(**sizes) for name in ("base", "arm") if name in formula}
    if "rerank" in formula:
        models["rm"] = llama(reward=True, **sizes)
    decoder = descant.compile(formula, models=models)
    weights = sum(p.nbytes for model in models.values() for p in model.parameters())
    prompts = torch.randint(3, 500, (rows, prompt)).tolist()
    with Peak() as peak:
        decoder.generate(
            prompts, max_new_tokens=new, eos_token_id=[], temperature=temperature, seed=0
        )
    capacity = decoder.session.bound.lanes[0].rows.capacity
    said = decoder.plan.peak_bytes(rows, capacity)
    assert said == pytest.approx(weights + peak.peak, rel=0.1)
    assert "to work in" in str(decoder.plan)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("formula", ["base + 0.5*arm", "base + arm | rerank(rm, k=10)"])
def test_the_peak_on_a_gpu_is_what_the_plan_says(formula) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 2816, "vocab_size": 32000}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    models = {name: llama(**sizes).to("cuda") for name in ("base", "arm")}
    if "rerank" in formula:
        models["rm"] = llama(reward=True, **sizes).to("cuda")
    decoder = descant.compile(formula, models=models)
    prompts = torch.randint(3, 500, (16, 400)).tolist()
    decoder.generate(prompts, max_new_tokens=16, eos_token_id=[])
    said = decoder.plan.peak_bytes(16, decoder.session.bound.lanes[0].rows.capacity)
    assert said == pytest.approx(torch.cuda.max_memory_allocated() - before, rel=0.1)


def llama(reward: bool = False, **sizes: int) -> torch.nn.Module:
    """A Llama of four layers with random weights."""
    config = transformers.LlamaConfig(
        num_hidden_layers=4, num_attention_heads=4, num_labels=1, pad_token_id=0,
        **{"intermediate_size": 2 * sizes["hidden_size"], **sizes},
    )  # fmt: skip
    if reward:
        return transformers.LlamaForSequenceClassification(config)
    return transformers.LlamaForCausalLM(config)


def test_free_memory_is_known() -> None:
    assert memory.free_bytes(torch.device("cpu")) > 1 << 20
    assert memory.free_bytes(torch.device("meta")) is None


def test_what_the_last_run_read(compiled) -> None:
    decoder = compiled("base + 0.5*arm")
    assert "last run" not in str(decoder.plan)
    decoder.generate(PROMPTS, max_new_tokens=4, eos_token_id=[])
    stats, lanes = decoder.session.engine.stats, decoder.session.bound.lanes
    assert (stats.steps, stats.tokens) == (4, 12)
    texts = sum(len(prompt) + drawn for prompt in PROMPTS for drawn in range(4))
    read = sum(
        4 * lane.footprint().weight_bytes + texts * lane.footprint().token_bytes for lane in lanes
    )
    assert stats.bytes_read == read
    assert "last run    12 tokens in 4 steps" in str(decoder.plan)
    decoder.generate(PROMPTS[0], max_new_tokens=2, eos_token_id=[])
    assert "last run    2 tokens in 2 steps" in str(decoder.plan)
    decoder.generate(PROMPTS[0], max_new_tokens=1)
    assert "in the forwards that read the prompts" in str(decoder.plan)


def test_prompts_that_were_read(compiled) -> None:
    """A line where there were any: how many tokens, and how many a prefix cache had."""
    decoder, off = compiled("base"), compiled("base", enable_prefix_caching=False)
    for one in (decoder, off):
        stats = one.session.engine.stats
        stats.clear()
        assert "prompts  " not in str(one.plan)
        stats.add_prompts(1000, 900)
        stats.add_prompts(234, 87)
        assert (stats.prompt_tokens, stats.cached_tokens) == (1234, 987)
    says = "\nprompts     1,234 tokens, 987 of them (80%) from the prefix cache"
    assert says in str(decoder.plan)
    assert "\nprompts     1,234 tokens; prefix caching is off" in str(off.plan)
    decoder.session.engine.claimed()  # another run
    assert "prompts  " not in str(decoder.plan)


def test_a_search_multiplies_rows_and_judges_now_and_then(compiled) -> None:
    alone = compiled("base").plan
    for stage, rows in (("best_of(rm, n=a)", 5), ("blockwise(rm, beams=2, samples=a)", 10)):
        decoder = compiled(f"base | {stage}", params={"a": 5})
        plan, [base, rm] = decoder.plan, decoder.session.bound.lanes
        assert plan.forwards == 1 and plan.bytes_per_step == alone.bytes_per_step
        assert "1 forward (1 more where answers are scored)" in str(plan)
        caches = rows * 512 * (base.footprint().token_bytes + rm.footprint().token_bytes)
        assert plan.floor(1e9, 1, 512) == pytest.approx((plan.bytes_per_step + caches) / 1e6)
    assert compiled("base | best_of(arm - base, n=2)").plan.forwards == 2


def test_the_floor_grows_with_the_batch(compiled) -> None:
    plan = compiled("base + 0.5*arm").plan
    alone, empty = plan.floor(1e9, 1, 512), plan.floor(1e9)
    assert empty == pytest.approx(plan.bytes_per_step / 1e6)
    assert plan.floor(1e9, 8, 512) - empty == pytest.approx(8 * (alone - empty))
    assert "8 requests of 2048 tokens" in plan.text(1e9, batch_size=8, context=2048)


@pytest.mark.parametrize(
    "formula",
    ["max(base, arm) - arm", "where(step < 2, arm, base)", "base + arm | rerank(rm, k=4)"],
)
def test_what_a_step_made_is_gone_when_it_ends(compiled, formula) -> None:
    """Nothing waits for Python's collector of cycles, which looks seldom and late."""
    decoder = compiled(formula)
    engine = decoder.session.engine
    requests = decoder.session.builder.requests(PROMPTS, max_new_tokens=8)
    batch = engine.begin(requests, 3)
    batch.admit(requests)
    batch.read()
    held = []
    gc.disable()
    try:
        with Peak() as peak:
            for _ in range(6):
                launch([ScheduledBatch(engine, batch)])[0].collected(engine.errors)
                held.append(peak.now)
    finally:
        gc.enable()
    assert max(held) - held[0] < 100 < decoder.session.bound.vocabulary


@pytest.mark.parametrize(
    "formula", ["base + a*arm", "where(step < 1, arm, base)", "base | rerank(rm, k=4)"]
)
def test_a_batch_is_gone_when_nobody_holds_it(compiled, formula) -> None:
    """Its rows have not ended, and its caches wait for no collector of cycles."""
    decoder = compiled(formula, params={"a": 0.5} if "a*" in formula else {})
    [request] = decoder.session.builder.requests("a stone", max_new_tokens=4)
    steps = teacher_forced(decoder.session.engine, request, [5, 6, 7])
    gc.disable()
    try:
        batch, context, _ = next(steps)
        held = weakref.ref(batch)
        del batch, context, _
        steps.close()
        assert held() is None
    finally:
        gc.enable()
