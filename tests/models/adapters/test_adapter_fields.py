"""Every kind and every field of the installed peft is understood, without effect, or refused.

A field that a later peft adds fails here until it is put into one of the classes.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from peft import LoraConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING as CONFIGS

from descant import ModelError
from descant.models.adapters.fields import (
    COMMON,
    KINDS,
    LORA,
    MERGED_ONLY,
    NO_EFFECT,
    NO_WEIGHTS,
    REFUSED,
    UNDERSTOOD,
    check_merge,
    check_row,
)

FIELDS = [field.name for field in dataclasses.fields(LoraConfig)]
SET = {  # a value that changes a forward
    "modules_to_save": ["lm_head"], "trainable_token_indices": [1], "target_parameters": ["weight"],
    "use_bdlora": {"nblocks": 2}, "kasa_config": {"beta": 1e-4}, "alora_invocation_tokens": [5],
    "arrow_config": {"top_k": 3}, "layer_replication": [[0, 2]], "megatron_config": {"a": 1},
    "use_qalora": True,
}  # fmt: skip
PLAIN = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_lora_is_in_one_class(field) -> None:
    classes = (UNDERSTOOD, NO_EFFECT, MERGED_ONLY, REFUSED)
    assert sum(field in names for names in classes) == 1


def test_the_classes_hold_fields_alone() -> None:
    assert UNDERSTOOD | NO_EFFECT | MERGED_ONLY.keys() | REFUSED.keys() == set(FIELDS)


@pytest.mark.parametrize("kind", [kind.value for kind in CONFIGS])
def test_a_kind_is_rows_or_merged_or_refused(kind) -> None:
    assert sum((kind == LORA, kind in KINDS, kind in NO_WEIGHTS)) == 1
    if kind in KINDS:
        names = {field.name for field in dataclasses.fields(CONFIGS[kind])}
        own = {*KINDS[kind].split(), *(FIELDS if kind == "ADALORA" else ())}
        assert own <= names <= own | COMMON | {"modules_to_save"}


def test_what_is_at_its_default_is_taken() -> None:
    saved = {**LoraConfig().to_dict(), "peft_type": LORA}
    check_row("a", saved)
    check_merge("a", saved)
    check_row("a", {"peft_type": LORA})  # an older peft had fewer fields


@pytest.mark.parametrize("field", [*MERGED_ONLY, *REFUSED])
def test_a_field_that_rows_cannot_have_is_refused_by_name(field) -> None:
    config = {**PLAIN, field: SET[field]}
    with pytest.raises(ModelError, match=rf"the adapter a .*\({field}\), which") as caught:
        check_row("a", config)
    if field in MERGED_ONLY:
        assert "merge: true" in caught.value.cure
        check_merge("a", config)
    else:
        with pytest.raises(ModelError, match=field):
            check_merge("a", config)


@pytest.mark.parametrize(
    ("init", "merges"),
    [
        ("pissa", True), ("olora", True), ("PiSSA", True), ("pissa_niter_16", False),
        ("corda", False), ("loftq", False), ("lora_ga", False), ("tomorrow", False),
    ],
)  # fmt: skip
def test_an_adapter_that_changed_its_base_is_refused(init, merges) -> None:
    config = {**PLAIN, "init_lora_weights": init}
    with pytest.raises(ModelError, match=f"changed its base .*{init.lower()}") as caught:
        check_row("a", config)
    assert "path_initial_model_for_weight_conversion" in caught.value.cure
    assert ("merge: true" in caught.value.cure) == merges
    if merges:
        check_merge("a", config)
    else:
        with pytest.raises(ModelError, match="changed its base"):
            check_merge("a", config)


@pytest.mark.parametrize("check", [check_row, check_merge])
def test_a_field_of_a_later_peft_is_refused_by_name(check) -> None:
    later = {**PLAIN, "peft_version": "9.1.0", "use_tomorrow": {"k": 3}}
    with pytest.raises(ModelError, match=r"by peft 9\.1\.0 with use_tomorrow: \{'k': 3\}, a field"):
        check("a", later)
    check("a", {**PLAIN, "use_tomorrow": None, "a_list": [], "flag": False})


def test_a_field_of_the_installed_peft_at_its_default_is_taken(monkeypatch) -> None:
    known = NO_EFFECT - {"qalora_group_size"}
    monkeypatch.setattr("descant.models.adapters.fields.NO_EFFECT", known)
    check_row("a", {**PLAIN, "qalora_group_size": 16})
    with pytest.raises(ModelError, match="qalora_group_size: 8"):
        check_row("a", {**PLAIN, "qalora_group_size": 8})


@pytest.mark.parametrize("kind", [*KINDS, *NO_WEIGHTS, "TOMORROW", None])
def test_another_kind_than_lora_is_refused_by_name(kind) -> None:
    with pytest.raises(ModelError, match=re.escape(f"the adapter a is {kind}")) as caught:
        check_row("a", {"peft_type": kind})
    assert ("merge: true" in caught.value.cure) == (kind in KINDS)
    if kind in KINDS:
        with pytest.raises(ModelError, match="with a_field: 7, a field that is not known"):
            check_merge("a", {"peft_type": kind, "a_field": 7})
    else:
        with pytest.raises(ModelError, match=f"is {kind}, (which|a kind)"):
            check_merge("a", {"peft_type": kind})


def test_weights_that_are_drawn_in_every_forward_are_refused() -> None:
    with pytest.raises(ModelError, match="draws its weights in every forward"):
        check_merge("a", {"peft_type": "PVERA", "sample_at_inference": True})


def test_the_page_names_every_kind_and_what_is_refused() -> None:
    page = (Path(__file__).parents[3] / "docs" / "loading.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    kinds = {row: set(row.strip("| ").split(" | ")[0].split(", ")) for row in rows}
    assert set(KINDS) in kinds.values() and set(NO_WEIGHTS) in kinds.values()
    for fields, end in ((MERGED_ONLY, "| no | yes |"), (REFUSED, "| no | no |")):
        assert any(all(f"`{f}`" in row for f in fields) and row.endswith(end) for row in rows)
