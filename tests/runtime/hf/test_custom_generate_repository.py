"""The repository of examples that ``model.generate(custom_generate="…")`` loads."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

import descant

REPOSITORY = Path(__file__).parents[3] / "examples" / "custom_generate" / "descant"


def test_a_formula_is_an_argument_of_generate(demo_models, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    path = demo_models["base"]["path"]
    model = AutoModelForCausalLM.from_pretrained(path, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    inputs = tokenizer(["How do I boil eggs?", "Eggs"], padding=True, return_tensors="pt")
    arms = {name: demo_models[name] for name in ("arm_help", "arm_harm")}
    formula, options = "base + a*arm_help - arm_harm", {"max_new_tokens": 12, "do_sample": False}
    base = {"base": {"model": model, "tokenizer": tokenizer}}
    decoder = descant.compile(formula, {**base, **arms}, params={"a": 1.0})
    for a in (1.0, 3.0):
        out = model.generate(
            **inputs, custom_generate=str(REPOSITORY), trust_remote_code=True, tokenizer=tokenizer,
            formula=formula, models=arms, params={"a": a}, **options,
        )  # fmt: skip
        expected = model.generate(**inputs, custom_generate=decoder, params={"a": a}, **options)
        assert out.tolist() == expected.tolist()
    assert len(vars(model)["_descant"]) == 1  # compiled once
    lines = (REPOSITORY / "custom_generate" / "generate.py").read_text().splitlines()
    assert len(lines) <= 15
