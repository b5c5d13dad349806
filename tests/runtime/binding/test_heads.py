"""``head(x, v)``, held against transformers' hidden states of one text, read anew without a cache.

What transformers calls ``hidden_states[N + 1]`` is the output of decoder layer N; its last is
behind the final norm, and so the last layer's output is seen by a hook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tiny_architectures as tiny
import torch
from checkpoints import fresh
from safetensors.torch import save_file
from steered import steered
from tape import Tape, on_tape
from torch import Tensor, nn

import descant
from descant import FormulaError, ModelError
from descant.api import plan_of
from descant.models import make_spec
from descant.models.lanes.transformers_lane import TransformersLane
from descant.runtime import Service, bind

PROMPTS = [[1, 17, 30, 9], [1, 44], [1, 5, 250, 7, 91, 13], [1, 9, 9]]
V, HIDDEN = 300, 32


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


PROBE = 0.3 * numbers(1, 1, HIDDEN), numbers(2, 1)
MEDUSA = 0.3 * numbers(3, V, HIDDEN), 0.3 * numbers(4, V)
CALM = {0: 0.4 * numbers(5, HIDDEN), 1: 0.4 * numbers(6, HIDDEN)}


@pytest.fixture
def models(zoo) -> dict[str, Any]:
    return {
        "base": {"path": zoo.path("base"), "dtype": "float32"},
        "arm": {"path": zoo.path("arm"), "dtype": "float32"},
        "lora4": zoo.adapter("lora4"),
        "calm": {"vector": CALM, "on": "base"},
        "early": {"head": "own", "on": "base", "layer": 0},
        "last": {"head": "own", "on": "base", "layer": 1},
        "refuses": {"head": PROBE, "on": "base", "layer": 1},
        "first": {"head": PROBE, "on": "base", "layer": 0},
        "medusa": {"head": MEDUSA, "on": "base", "layer": 1},
    }


def first_of(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


class Plain:
    """One model, without descant: each text alone, whole, and its layers seen by hooks."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(
        self, text: Sequence[int], vector: tuple[Any, float, int] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """``(V,)`` log-probabilities after a text, and ``(hidden,)`` of its last token by layer."""
        layers, states = self.model.model.layers, {}
        with steered(layers, [vector] if vector else []):
            hooks = [
                layer.register_forward_hook(
                    lambda m, a, out, n=n: states.update(
                        {n: out if isinstance(out, Tensor) else out[0]}
                    )
                )
                for n, layer in enumerate(layers)
            ]
            out = self.model(input_ids=torch.tensor([list(text)]), use_cache=False)
            for hook in hooks:
                hook.remove()
        return out.logits[0, -1].log_softmax(-1), [states[n][0, -1] for n in range(len(layers))]

    @torch.no_grad()
    def own(self, state: Tensor) -> Tensor:
        return self.model.lm_head(self.model.model.norm(state)).log_softmax(-1)


@pytest.fixture
def plain(zoo) -> Plain:
    return Plain(fresh(zoo.path("base")))


def number(state: Tensor) -> Tensor:
    return PROBE[0][0] @ state + PROBE[1][0]


Rule = Callable[[Plain, Sequence[int], int], Tensor]


def dola(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    final, states = plain(text)
    early = plain.own(states[0])
    return torch.where(final.exp() >= 0.1 * final.exp().max(), final - early, -torch.inf)


def steering(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    final, states = plain(text)
    return plain(text, (CALM, 2.0, start))[0] if number(states[1]) > 0.5 else final


def fading(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    final, states = plain(text)
    return final + (-number(states[0]).abs()).exp() * plain([1, *text[start:]])[0]


def by_medusa(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    final, states = plain(text)
    return final + 0.5 * (MEDUSA[0] @ states[1] + MEDUSA[1]).log_softmax(-1)


def of_steered(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    """The head sees the state after what steers its own layer."""
    final, states = plain(text, (CALM, 1.5, start))
    return final - 0.5 * plain.own(states[0]) + 0.1 * number(states[1])


def drawn_to(plain: Plain, text: Sequence[int], start: int) -> Tensor:
    """A number of a head in an argument."""
    final, states = plain(text)
    return final / (1 + number(states[1]).abs())


RULES: dict[str, Rule] = {
    "plausible(base, 0.1) - head(base, early)": dola,
    "where(head(base, refuses) > 0.5, base[2*calm], base)": steering,
    "base + exp(-abs(head(base, first)))*base@none": fading,
    "base + 0.5*head(base, medusa)": by_medusa,
    "base[c*calm] - 0.5*head(base[c*calm], early) + 0.1*head(base[c*calm], refuses)".replace(
        "c*", "1.5*"
    ): of_steered,
    "temp(base, 1 + abs(head(base, refuses)))": drawn_to,
}


def along(decoder: Any, plain: Plain, rule: Rule, within: float = 1e-4, **settings: Any) -> None:
    """Each row of a batch draws, greedily, what the rule says after its text; and so are scores."""
    settings = {"max_new_tokens": 6, "eos_token_id": []} | settings
    prompts = settings.pop("prompts", PROMPTS)
    done = decoder.generate(prompts, **settings)
    for completion, prompt in zip(done, prompts, strict=True):
        scores = decoder.scores(prompt, completion.token_ids[:-1])
        for step, token in enumerate(completion.token_ids):
            expected = rule(plain, [*prompt, *completion.token_ids[:step]], len(prompt))
            kept = expected > -torch.inf
            assert torch.equal(scores[step] > -torch.inf, kept)
            difference = scores[step].log_softmax(-1) - expected.log_softmax(-1)
            scale = expected[kept].abs().max().clamp(min=10) / 10
            assert difference[kept].abs().max() < within * scale
            assert token == expected.argmax()


@pytest.mark.pages
@pytest.mark.parametrize("formula", RULES)
def test_the_formula_is_its_rule(models, plain, formula) -> None:
    """Rows of one batch, and whole answers in chunks (``scores``), against one text at a time."""
    decoder = descant.compile(formula, models)
    assert decoder.plan.forwards == 1
    along(decoder, plain, RULES[formula])


def test_both_sides_of_the_condition_are_taken(models, plain) -> None:
    sides = [number(plain(prompt)[1][1]) > 0.5 for prompt in PROMPTS]
    assert any(sides) and not all(sides)


@pytest.mark.parametrize("formula", RULES)
def test_heads_in_batches_are_heads_alone(models, formula) -> None:
    """Sampled, whoever the neighbours are; and drafted, where positions are verified in a chunk."""
    decoder = descant.compile(formula, models)
    settings = {"max_new_tokens": 8, "temperature": 1.0, "eos_token_id": [], "progress": False}
    seeds = [*range(len(PROMPTS))]
    together = decoder.generate(PROMPTS, seed=seeds, **settings)
    ids = [each.token_ids for each in together]
    for prompt, seed, expected in zip(PROMPTS, seeds, ids, strict=True):
        assert decoder.generate(prompt, seed=seed, **settings)[0].token_ids == expected
    for draft in ("arm", "head(base, early)", "prompt", "auto"):
        drafted = decoder.generate(PROMPTS, seed=seeds, draft=draft, draft_length=3, **settings)
        assert [each.token_ids for each in drafted] == ids, draft


def test_one_row_serves_a_term_and_its_heads(models) -> None:
    formula = "base + 0.1*head(base, refuses)*head(base, early) + head(base, medusa)"
    decoder = descant.compile(formula, models)
    [lane] = decoder.session.bound.lanes
    assert len(decoder.session.bound.terms) == 1 and lane.width == V + 1 + 2 * V
    shown = str(decoder.plan)
    for line in ("head(base, early)", "head(base, medusa)", "head(base, refuses)", "up to layer 0"):
        assert line in shown
    assert "1 per request" in shown and "2 per request" not in shown
    bare = descant.compile("base", models)
    assert bare.session.bound.lanes[0].width == V
    size = decoder.session.bound.lanes[0].footprint().weight_bytes
    own = fresh(models["base"]["path"]).lm_head.weight.nbytes
    weights = 4 * (HIDDEN + 1) * (1 + V) + own
    assert size == bare.session.bound.lanes[0].footprint().weight_bytes + weights


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("formula", RULES)
def test_recorded_steps_give_heads(models, plain, monkeypatch, formula, masks) -> None:
    live = on_tape(monkeypatch)
    decoder = live(descant.compile(formula, models), not masks)
    for _ in range(2):
        found = decoder.generate(PROMPTS[:3], max_new_tokens=10, eos_token_id=[])
    assert decoder.session.engine.graphs.why_eager is None
    assert sum(tape.replays for tape in Tape.made) > 2 * len(Tape.made) > 2
    for completion, prompt in zip(found, PROMPTS, strict=False):
        text = [*prompt]
        for token in completion.token_ids:
            assert token == RULES[formula](plain, text, len(prompt)).argmax()
            text.append(token)


def test_a_service_reads_heads_that_come_later(models, plain) -> None:
    """One formula's requests run as another with heads joins the lane, and go on as they would."""
    specs = {name: make_spec(name, spec) for name, spec in models.items()}
    service = Service(specs, slots=6, max_model_len=64)
    settings = {"max_new_tokens": 12, "eos_token_id": []}
    bare = service.decoder("base")
    rows = {}
    for prompt in PROMPTS[:2]:
        [request] = service.submit(bare, prompt, **settings)
        rows[id(request)] = ("base", prompt, request)
    answers = []
    for _ in range(4):
        answers += service.step()
    for formula in RULES:
        served = service.decoder(formula)
        for prompt in PROMPTS[1:3]:
            [request] = service.submit(served, prompt, **settings)
            rows[id(request)] = (formula, prompt, request)
        answers += service.step()
    while service.busy:
        answers += service.step()
    ended = {id(each.request): each.tokens for each in answers if each.finish_reason}
    assert ended.keys() == rows.keys()
    for which, (formula, prompt, _) in rows.items():
        [alone] = descant.compile(formula, models).generate(prompt, **settings)
        assert ended[which] == alone.token_ids


def test_who_waits_again_draws_the_same(models, monkeypatch) -> None:
    """Preempted rows are read again."""
    from descant.runtime.engine import engine as engines

    formula = "base[calm] - 0.5*head(base[calm], early)*head(base[calm], refuses)"
    more = {"max_new_tokens": 24, "temperature": 1.0, "seed": [*range(6)], "eos_token_id": []}
    prompts = [[3 + (i * 7 + j) % 200 for j in range(5 + 6 * i)] for i in range(6)]
    expected = descant.compile(formula, models).generate(prompts, **more)
    monkeypatch.setattr(TransformersLane, "page_size", 16)
    monkeypatch.setattr(engines, "room", lambda *_: 112)
    decoder = descant.compile(formula, models)
    found = decoder.generate(prompts, **more)
    assert decoder.session.engine.stats.preempted > 0
    assert [each.token_ids for each in found] == [each.token_ids for each in expected]


def test_the_last_layer_with_its_own_head_is_the_model(models) -> None:
    decoder = descant.compile("base - head(base, last)", models)
    assert decoder.scores(PROMPTS[0], [5, 6, 7]).abs().max() < 1e-4
    [row] = decoder.loglikelihood(PROMPTS[:1], [[5, 6]])
    assert row.logprobs == pytest.approx([-torch.tensor(float(V)).log().item()] * 2, abs=1e-4)


def test_dola_picks_its_layer_in_every_step() -> None:
    """The paper's dynamic form, over three candidates of a model of five layers."""
    config = tiny.config("llama")
    config.num_hidden_layers = 5
    plain = Plain(tiny.shaken(type(tiny.model("llama"))(config), 3))
    heads = {f"e{n}": {"head": "own", "on": "base", "layer": n} for n in range(3)}
    far = [f"js(base, head(base, e{n}))" for n in range(3)]
    by = [f"plausible(base, 0.1) - head(base, e{n})" for n in range(3)]
    formula = (
        f"where({far[0]} >= max({far[1]}, {far[2]}), {by[0]},"
        f" where({far[1]} >= {far[2]}, {by[1]}, {by[2]}))"
    )
    picked = set()

    def rule(plain: Plain, text: Sequence[int], start: int) -> Tensor:
        final, states = plain(text)
        early = [plain.own(states[n]) for n in range(3)]
        layer = max(range(3), key=lambda n: divergence(final, early[n]))
        picked.add(layer)
        return torch.where(final.exp() >= 0.1 * final.exp().max(), final - early[layer], -torch.inf)

    decoder = descant.compile(formula, {"base": plain.model} | heads)
    assert decoder.plan.forwards == 1
    along(decoder, plain, rule, max_new_tokens=12, prompts=[[5, 6, 7], [9], [44, 3, 8, 60], [2, 2]])
    assert picked == {0, 1, 2}


def divergence(one: Tensor, other: Tensor) -> float:
    mean = torch.log((one.exp() + other.exp()) / 2)
    parts = ((each.exp() * (each - mean)).sum() for each in (one, other))
    return float(sum(parts)) / 2


def test_a_head_of_an_adapter_reads_the_adapted_row(models, zoo) -> None:
    import peft

    adapted = peft.PeftModel.from_pretrained(fresh(zoo.path("base")), zoo.path("lora4"))
    plain = Plain(adapted.merge_and_unload().eval())
    decoder = descant.compile(
        "lora4 + head(lora4, refuses)*base@none", models | {"x": models["base"]}
    )
    both = _Both(plain, Plain(fresh(zoo.path("base"))))
    # Merged weights round otherwise than added ones, and the number multiplies that.
    along(decoder, both, adapted_rule, within=1e-3)


class _Both:
    def __init__(self, adapted: Plain, base: Plain) -> None:
        self.adapted, self.base = adapted, base


def adapted_rule(both: Any, text: Sequence[int], start: int) -> Tensor:
    final, states = both.adapted(text)
    return final + number(states[1]) * both.base([1, *text[start:]])[0]


def test_inspect_shows_heads_and_numbers(models, plain) -> None:
    formula = "where(head(base, refuses) > 0.5, base - 0.5*head(base, early), base)"
    decoder = descant.compile(formula, models)
    seen = set()
    for prompt in PROMPTS:
        inspected = decoder.inspect(prompt, max_new_tokens=3, eos_token_id=[])
        assert inspected.terms == ("base", "head(base, early)")
        text = [*prompt]
        for choice in inspected.tokens:
            final, states = plain(text)
            [condition] = choice.conditions
            [value] = condition.states.values()
            assert [*condition.states] == ["head(base, refuses)"]
            assert value == pytest.approx(number(states[1]).item(), abs=1e-4)
            seen.add(condition.holds)
            for candidate in choice.candidates:
                own, early = candidate.logprobs
                assert own == pytest.approx(final[candidate.id].item(), abs=1e-4)
                if condition.holds:
                    expected = plain.own(states[0])[candidate.id].item()
                    assert early == pytest.approx(expected, abs=1e-4)
                else:
                    assert early is None
            text.append(choice.id)
    assert seen == {True, False}


@pytest.mark.parametrize("formula", RULES)
def test_shapes_alone_give_the_same_plan(models, formula) -> None:
    """What ``explain`` prints, without weights; what is measured is another each time."""
    specs = {name: make_spec(name, spec) for name, spec in models.items()}
    plan = plan_of(formula, specs)
    lanes = [bind(plan, specs, None, "cpu", skeleton=skeleton).lanes for skeleton in (True, False)]
    one, other = ([lane.footprint().weight_bytes for lane in each] for each in lanes)
    assert one == pytest.approx(other, rel=0.01)  # which has biases too
    wrong = specs | {"v": make_spec("v", {"head": "own", "on": "base", "layer": 9})}
    with pytest.raises(FormulaError, match="the head v is on layer 9 of base, which has 2"):
        bind(plan_of("head(base, v)", wrong), wrong, None, "cpu", skeleton=True)


# -- Declarations


def test_a_file_and_a_probe_s_folder_are_read(models, tmp_path) -> None:
    weight, bias = PROBE
    save_file({"weight": weight, "bias": bias}, tmp_path / "head.safetensors")
    (tmp_path / "head.json").write_text('{"layer": 1, "base": "x", "labels": ["no", "yes"]}')
    bare = tmp_path / "bare.safetensors"
    save_file({"weight": MEDUSA[0]}, bare)
    linear = nn.Sequential(nn.Dropout(0.5), nn.Linear(HIDDEN, 1))
    with torch.no_grad():
        linear[1].weight.copy_(weight)
        linear[1].bias.copy_(bias)
    ways = {
        "a": {"head": str(tmp_path), "on": "base"},
        "b": {"head": tmp_path / "head.safetensors", "on": "base", "layer": 1},
        "c": {"head": linear, "on": "base", "layer": 1},
        "d": {"head": [weight[0], bias], "on": "base", "layer": 1},
        "e": {"head": str(bare), "on": "base", "layer": 1},
        "f": {"head": MEDUSA[0], "on": "base", "layer": 1},
    }
    expected = descant.compile("head(base, refuses)*base", models).scores(PROMPTS[0], [3])
    for name in "abcd":
        found = descant.compile(f"head(base, {name})*base", models | ways).scores(PROMPTS[0], [3])
        torch.testing.assert_close(found, expected)
    assert linear.training and linear[0].training  # as its owner left it
    one, two = (descant.compile(f"head(base, {n})", models | ways) for n in "ef")
    assert torch.equal(one.scores(PROMPTS[0], [3]), two.scores(PROMPTS[0], [3]))


def wrong(models: dict[str, Any], **spec: Any) -> Any:
    return descant.compile("base + head(base, v)", models | {"v": {"on": "base"} | spec})


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"head": "own"}, "v is of no layer"),
        ({"head": "own", "layer": 2}, "the head v is on layer 2 of base, which has 2"),
        ({"head": numbers(1, 1, 31), "layer": 0}, "reads 31 numbers, and base has states of 32"),
        ({"head": numbers(1, 7, 32), "layer": 0}, "neither 1 nor the vocabulary of base, 300"),
        ({"head": numbers(1, 1, 32) * torch.nan, "layer": 0}, "not finite"),
        ({"head": (numbers(1, 1, 32), numbers(1, 2)), "layer": 0}, "a bias of (2,)"),
        ({"head": numbers(1, 2, 2, 2), "layer": 0}, "a weight of (2, 2, 2)"),
        ({"head": nn.Identity(), "layer": 0}, "no linear layer"),
        ({"head": nn.Sequential(nn.Linear(32, 1), nn.Flatten(0)), "layer": 0}, "gives (5,)"),
        ({"head": nn.Linear(8, 1), "layer": 0}, "cannot read a layer of base"),
        ({"head": {"weight": 1}, "layer": 0}, "v is a dict"),
        ({"head": "/nowhere/head.safetensors", "layer": 0}, "is not there"),
        ({"head": "own", "layer": 0, "on": "nobody"}, "on nobody, which is not declared"),
        ({"head": "own", "layer": 0, "on": "lora4"}, "on lora4, which is itself an adapter"),
        ({"head": "own", "layer": 0, "on": "early"}, "on early, which is itself a head"),
        ({"head": "own", "layer": -1}, "layer"),
        ({"head": "own", "layer": 0, "dtype": "float32"}, "a head takes its base's dtype"),
        ({"head": "own", "layer": 0, "system": "x"}, "a head takes its base's system"),
        ({"head": "own", "layer": 0, "on": None}, "a head needs the model that it goes on"),
        ({"path": "x", "layer": 0, "on": None}, "layer: 0 is of a head"),
    ],
)  # fmt: skip
def test_heads_that_say_nothing_of_use(models, spec, problem) -> None:
    with pytest.raises(ValueError) as caught:
        wrong(models, **spec)
    assert isinstance(caught.value, (ModelError, FormulaError)) and problem in str(caught.value)


def test_files_that_are_no_heads(models, tmp_path) -> None:
    def problem(tensors: dict[str, Tensor] | bytes, config: str = "") -> str:
        file = tmp_path / "head.safetensors"
        file.write_bytes(tensors) if isinstance(tensors, bytes) else save_file(tensors, file)
        (tmp_path / "head.json").write_text(config or '{"layer": 0}')
        with pytest.raises(ModelError) as caught:
            wrong(models, head=str(tmp_path), **({"layer": 0} if "1" in config else {}))
        return str(caught.value)

    assert "has other" in problem({"other": numbers(1, 1, 32)})
    assert "has bias, extra, weight" in problem(
        {"weight": numbers(1, 1, 32), "bias": numbers(1, 1), "extra": numbers(1, 1)}
    )
    assert "is in I64" in problem({"weight": torch.ones(1, 32, dtype=torch.long)})
    assert "cannot be read" in problem(b"\x80\x02}q\x00.")
    good = {"weight": numbers(1, 1, 32)}
    assert "is declared on layer 0, and head.json beside it says 1" in problem(good, '{"layer": 1}')
    assert "gives no layer" in problem(good, '{"layer": "x"}')
    assert "gives no layer" in problem(good, "[" * 9)


def test_a_head_of_another_model_is_marked(models) -> None:
    with pytest.raises(FormulaError, match="early is on base, and arm has other weights") as caught:
        descant.compile("base + head(arm, early)", models)
    found = caught.value
    assert found.text[found.span.start : found.span.end] == "head(arm, early)"
    assert found.cure == "write head(base, early), or declare another on arm"


def test_numbers_that_are_not_finite_name_the_head(models) -> None:
    far = {"head": (torch.full((1, HIDDEN), 3e38), None), "on": "base", "layer": 1}
    decoder = descant.compile("base + 0.1*head(base, far)*arm", models | {"far": far})
    with pytest.raises(FormulaError, match=r"head\(base, far\) gave NaN for row 0, token 0"):
        decoder.generate(PROMPTS[0], max_new_tokens=2)


def test_a_table_has_no_layers(models) -> None:
    table = {"base": descant.TableModel.random(20, seed=1), "early": models["early"]}
    with pytest.raises(FormulaError, match="a head on a table, which has no layers"):
        descant.compile("base - head(base, early)", table)


def test_a_head_stands_nowhere_else(models) -> None:
    for formula in ("early", "base + early", "base[early]", "early@none"):
        with pytest.raises(FormulaError, match="early is a head, and not a model") as caught:
            descant.compile(formula, models)
        assert caught.value.cure == "write head(base, early)"


def test_what_cancels_out_is_said(models) -> None:
    decoder = descant.compile("base + 0*head(base, early)", models)
    assert decoder.session.bound.lanes[0].width == V
    assert "head(base, early) has the coefficient 0: not worked out" in str(decoder.plan)


def test_a_loop_of_one_s_own_has_no_layers(models) -> None:
    decoder = descant.compile("base + arm - head(base, early)", models)
    with pytest.raises(FormulaError, match=r"head\(base, early\) reads a layer of base"):
        descant.FormulaProcessor(decoder)
    descant.FormulaProcessor(decoder, base="arm")
