"""Which published method a formula has the form of, for the formulas of the cookbook."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from descant.api import declared, names_of
from descant.formula import make_plan
from descant.methods.citations import citations
from descant.methods.recognised import forms

NAMES = "base arm arm2 strong expert anti tuned ref amateur sft m1 m2 vlm rm rm1 rm2 v cls prm chat"
SPECS = declared(
    {name: {"path": f"org/{name}"} for name in NAMES.split()}
    | {"prm": {"path": "org/prm", "steps": {"by": "\n\n"}}}
    | {name: {"adapter": f"org/{name}", "on": "base"} for name in ("help", "harm", "dpo")}
    | {"honest": {"vector": "honest.safetensors", "on": "chat"}}
    | {"early": {"head": "own", "on": "base", "layer": 2}}
)
PARAMS = [{"a": 0.25, "g": 1.5}, {"a": 0.75, "g": 3.0}]
GENARM, ARGS = {"xu2025genarm"}, {"khanov2024args"}
CASES = {
    "base": set(),
    "base + a*arm": GENARM,
    "base + (1-a)*help + a*harm": GENARM,
    "mean(base + a*arm)": {"dekoninck2024arithmetic"},
    "base + 2*max(arm, arm2)": {"dekoninck2024arithmetic"},
    "debias(base, base@bias, 50)": {"schick2021debiasing"},
    "base + a*(expert - anti)": {"liu2024proxy", "mitchell2024emulator"},
    "base + a*(dpo - base)": {"liu2024realignment", "shi2024mod"},  # collected: (1-a), a
    "strong - a*(dpo - base)": {"zhou2024disalignment"},
    "strong + a*(dpo - base)": {"liu2024proxy", "mitchell2024emulator"},
    "top_p(base, 0.9) + a*(expert - anti)": {"holtzman2020curious", "liu2021dexperts"},
    "plausible(expert, 0.1) - a*temp(amateur, 0.5)": {"li2023contrastive"},
    "plausible(base, 0.1) - head(base, early)": {"chuang2024dola"},
    "1.5*base - 0.5*base@none": {"shi2024trusting"},
    "(1 + js(base, base@none))*base - js(base, base@none)*base@none": {"wang2025adacad"},
    "(1+a)*vlm - a*vlm@noimage": {"leng2024visual"},
    "base@bias + g*(base - base@bias)": {"sanchez2023guidance", "pei2023preadd"},
    "a*m1 + (1-a)*m2": {"shi2024mod"},
    "pmean(-1; a: m1, 1-a: m2)": {"shi2024mod"},
    "pmean(2; a: m1, 1-a: m2)": set(),
    "mix(a: m1, 1-a: m2)": set(),
    "mix(0.5: m1, 0.5: align(m2))": {"yu2024gac", "yao2025unite"},
    "where(step < 2, mix(0.4: base, 0.6: expert), base)": {"xu2024safedecoding"},
    "where(max_prob(base) < 0.4, strong, base)": {"fei2024nudging"},
    "base[a*help + (1-a)*harm]": {"rame2023soups"},
    "chat[2*honest]": {"rimsky2024steering"},
    "where(head(chat, refuses) > 0.5, chat[2*honest], chat)": {
        "lee2025conditional", "rimsky2024steering",
    },
    "base | rerank(rm, k=10, w=1.5)": ARGS,
    "base | rerank(rm, k=10, w=1.5, ahead=20)": {"chakraborty2024transfer"},
    "base | rerank(rm, k=20, w=50, clamp=(0, 1))": {"deng2023rad"},
    "base | rerank(v, k=20, w=a, norm=center, keep=all)": {"han2024value"},
    "top_k(base, 10) | rerank(rm, k=10, w=a)": {"rashid2024critical"},
    "base | rerank(cls, k=50, label=1, norm=prefix, keep=all)": {"dekoninck2024arithmetic"},
    "base | rerank(cls, k=200, label=1)": {"yang2021fudge"},
    "base | best_of(rm, n=16)": set(),
    "base | best_of(rm, n=16, beta=a)": {"verdun2025soft"},
    "base | best_of(rm, n=16, keep=0.5, every=64)": {"sun2024speculative"},
    "base | best_of(prm, n=16)": {"lightman2023verify"},
    "base | blockwise(v, beams=1, samples=4, length=16)": {"mudgal2024controlled"},
    "base | blockwise(min(rm1, rm2), beams=1, samples=4, length=16)": {"son2025robust"},
    "base | blockwise(tuned - ref, beams=2, samples=2, length=30)": {"zhou2024search"},
    "base | blockwise(rm1 - rm2, beams=2, samples=2, length=30)": {"mudgal2024controlled"},
    "base | top_k(40) | reject(rm, target=8.5)": {"li2024cards"},
    "base | particles(rm, n=16)": {"zhao2024twisted"},
    'base | particles(prm, n=16, until="\\n\\n")': {"puri2025probabilistic", "zhao2024twisted"},
    "base | particles((g-1)*base, n=16)": {"karan2025reasoning"},
    "base + a*arm | choice('yes', 'no')": GENARM | {"willard2023efficient"},
    "base + 0.5*help + 0.5*harm | rerank(rm, k=10, w=1.5)": GENARM | ARGS,
}  # fmt: skip


@pytest.mark.parametrize("formula", CASES)
def test_forms_of_the_cookbook(formula, tmp_path) -> None:
    probe = tmp_path / "probe.safetensors"
    save_file({"weight": torch.zeros(1, 4)}, probe)
    head = {"head": str(probe), "on": "chat", "layer": 2}
    specs = SPECS | declared({"chat": "org/chat", "refuses": head})
    names = names_of(specs, {"a": 0.5, "g": 2.0}, {"bias": "Be rude."})
    found = forms(
        make_plan(formula, names), specs, PARAMS, lambda name: name in ("tuned", "ref", "base")
    )
    assert {key for form in found for key in form.keys} == CASES[formula]
    assert {key for form in found for key in form.keys} <= set(citations())


def test_signs_that_change_are_no_form() -> None:
    """From a = 0.25 to 0.75 the second coefficient changes its sign."""
    names = names_of(SPECS, {"a": 0.5}, {})
    for formula in ("base + (a - 0.5)*arm", "strong + (a - 0.5)*(expert - anti)"):
        assert forms(make_plan(formula, names), SPECS, PARAMS) == []


def test_every_entry_is_whole_and_short() -> None:
    works = citations()
    assert len(works) > 40
    for key, work in works.items():
        assert work.bibtex.count("{") == work.bibtex.count("}")
        assert all(work.field(name) for name in ("author", "title", "year"))
        year = work.field("year")
        assert year in key and work.short.endswith(year)
    assert works["rame2023soups"].short == "Ram{\\'e} et al., NeurIPS 2023"
