"""Formulas built with Python's operators are the trees that the parser makes of their text."""

import pytest

import descant
from descant import lang
from descant.grammar import parse
from descant.lang import model, param, rerank, step, top_k, top_p, where

base, arm, chat = model("base"), model("arm"), model("chat")
a = param("a")
SAME = [
    (base + 0.5 * arm | rerank("reward", k=10), "base + 0.5*arm | rerank(reward, k=10)"),
    (base + (1 - a) * arm + a * chat, "base + (1 - a)*arm + a*chat"),
    (base - (arm - chat), "base - (arm - chat)"),
    (-base / 2, "-base/2"),
    (base * -1.5, "base*-1.5"),
    (2**a * base, "2**a*base"),
    ((chat @ "You are a child.") * 2, 'chat@"You are a child."*2'),
    (chat @ None, "chat@none"),
    (chat @ lang.prompt("child"), "chat@child"),
    (lang.mix((0.7, base), (0.3, arm)), "mix(0.7: base, 0.3: arm)"),
    (lang.pmean(-1, (a, base), (1 - a, arm)), "pmean(-1; a: base, 1 - a: arm)"),
    (lang.max(base, arm) + lang.exp(a) * chat, "max(base, arm) + exp(a)*chat"),
    (where((step < 2) & ~(lang.entropy(base) > a), base, arm),
     "where(step < 2 and not entropy(base) > a, base, arm)"),
    (where((step < 2) | (step > 5), base, arm), "where(step < 2 or step > 5, base, arm)"),
    (lang.mix((0.5, base), (0.5, lang.align(arm @ None))),
     "mix(0.5: base, 0.5: align(arm@none))"),
    (base - lang.head(base @ None, model("early")), "base - head(base@none, early)"),
    ((base | top_k(10)) + arm, "(base | top_k(10)) + arm"),
    (top_p(base, 0.9) + arm, "top_p(base, 0.9) + arm"),
    (base | top_k(10) | top_p(p=0.9), "base | top_k(10) | top_p(p=0.9)"),
    (base | rerank("0.7*r + 0.3*s", w=a, norm="center", clamp=(0, 1), label="toxic"),
     'base | rerank(0.7*r + 0.3*s, w=a, norm=center, clamp=(0, 1), label="toxic")'),
    (base[0.5 * arm + a * chat], "base[0.5*arm + a*chat]"),
    (base[-arm] @ "x" + chat[2 * arm] @ None, 'base[-arm]@"x" + chat[2*arm]@none'),
    (base + 0.9**step * arm + lang.js(base, arm) * arm, "base + 0.9**step*arm + js(base, arm)*arm"),
    (where(lang.thinking > 0, base, base + arm), "where(thinking > 0, base, base + arm)"),
    (base | rerank(lang.min(model("r"), lang.sigmoid(model("s"))) / 2, k=10),
     "base | rerank(min(r, sigmoid(s))/2, k=10)"),
    (base | lang.best_of(model("r") - 0.01 * lang.answer_length, n=4),
     "base | best_of(r - 0.01*answer_length, n=4)"),
    (base | lang.blockwise(r="r + 0.1*(t - u)"), "base | blockwise(r=r + 0.1*(t - u))"),
    (base | lang.particles("2*r", n=4, until="\n\n", pick="best"),
     'base | particles(2*r, n=4, until="\\n\\n", pick=best)'),
    (base | lang.json(model("person")) | lang.choice("yes", "no"),
     'base | json(person) | choice("yes", "no")'),
    (base | lang.json({"type": "null"}) | lang.regex("a+b"),
     r'base | json("{\"type\": \"null\"}") | regex("a+b")'),
    (base | rerank(0.7 * model("r") + 0.3 * model("s")), "base | rerank(0.7*r + 0.3*s)"),
]  # fmt: skip


@pytest.mark.parametrize(("built", "text"), SAME, ids=[text for _, text in SAME])
def test_built_and_parsed_are_one(built, text):
    assert str(built) == text
    assert built == text
    assert parse(str(built)) == built.node
    assert hash(built) == hash(lang.Expression(parse(text)))


def test_different_formulas_differ():
    assert base + arm != base - arm
    assert base + arm != "arm + base"
    assert base != 3


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: base + "arm",
        lambda: base | arm,
        lambda: base | 3,
        lambda: 0.5 * chat @ "You are a child.",
        lambda: (base + arm)[arm],
        lambda: base["arm"][arm],
        lambda: [*base],
        lambda: model("llama-7b"),
        lambda: base + True,
        lambda: base + object(),
        lambda: bool(base > arm),
    ],
)
def test_what_cannot_stand_in_a_formula_says_so(mistake):
    with pytest.raises((TypeError, ValueError)):
        found = mistake()
        descant.compile(found, models={"base": descant.TableModel.random(4, 1)})


def test_compile_takes_either():
    models = {name: descant.TableModel.random(8, seed) for seed, name in enumerate(("base", "arm"))}
    built = descant.compile(base + a * arm, models=models, params={"a": 0.5})
    parsed = descant.compile("base + a*arm", models=models, params={"a": 0.5})
    assert built.scores([3], [1]).equal(parsed.scores([3], [1]))
    assert descant.rerank("r", k=3) == lang.rerank("r", k=3)
