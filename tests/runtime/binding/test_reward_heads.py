"""Heads of every kind, by each path: the number is what the model alone says of the whole text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from judges import at_the_end, judge, judged, language, loaded
from reference_rules import plain
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import descant

PROMPT, MADE = "the river goes", " on to"
LABELS = {0: "bad", 1: "good", 2: "dull"}
MULTI = "multi_label_classification"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return language(tmp_path_factory.mktemp("base"), "byte_level")


def config_of(folder: str, **more) -> None:
    file = Path(folder) / "config.json"
    said = json.loads(file.read_text()) | more
    file.write_text(json.dumps({key: value for key, value in said.items() if value is not None}))


def rewards(base: str, formula: str, rm: object, prompt=PROMPT) -> dict[int, float]:
    """What a formula's reranking adds to each candidate of the language model after a text."""
    decoder = descant.compile(f"base | {formula}", {"base": base, "rm": rm}, dtype="float32")
    ids = prompt if isinstance(prompt, list) else AutoTokenizer.from_pretrained(base)(prompt)
    ids = ids if isinstance(ids, list) else ids["input_ids"]
    made = AutoTokenizer.from_pretrained(base)(MADE, add_special_tokens=False)["input_ids"]
    row = decoder.scores(ids, made)[-1]
    lm = plain.logprobs(AutoModelForCausalLM.from_pretrained(base).eval(), [*ids, *made])
    kept = row.isfinite().nonzero()[:, 0].tolist()
    return {token: (row[token] - lm[token]).item() for token in kept}


def texts(base: str, candidates) -> dict[int, list[int]]:
    """The whole text that each candidate makes, in the tokens of the formula."""
    own = AutoTokenizer.from_pretrained(base)
    made = own(MADE, add_special_tokens=False)["input_ids"]
    return {token: [*own(PROMPT)["input_ids"], *made, token] for token in candidates}


HEADS = [
    ("llama", "Sequence", {}, {}),
    ("llama", "Token", {}, {}),  # ``score`` with a bias, for every token
    ("gpt2", "Token", {}, {}),  # ``classifier``
    ("opt", "Sequence", {}, {}),
    ("mistral", "Sequence", {}, {}),
    ("llama", "Sequence", {"id2label": LABELS}, {"label": "good"}),
    ("llama", "Sequence", {"id2label": LABELS, "problem_type": MULTI}, {"label": "dull"}),
    ("gpt2", "Sequence", {"id2label": LABELS, "problem_type": "regression"}, {"label": 2}),
    ("llama", "Sequence", {"problem_type": MULTI}, {}),  # one label, and it is a probability
]


@pytest.mark.parametrize("path", ["tokens", "text"])
@pytest.mark.parametrize(
    ("family", "kind", "more", "spec"), HEADS, ids=lambda value: str(value)[:40]
)
def test_a_head_by_each_path(base, tmp_path, family, kind, more, spec, path) -> None:
    config = {k: v for k, v in more.items() if k != "id2label"}
    config |= {"num_labels": 3} if "id2label" in more else {}
    folder = judge(tmp_path / "rm", family, "byte_level", kind, **config)
    if "id2label" in more:
        config_of(folder, id2label=more["id2label"], label2id=None)
    found = rewards(base, "rerank(rm, k=5, w=1)", {"path": folder, "read": path, **spec})
    label = {"good": 1, "dull": 2, 2: 2}.get(spec.get("label"), 0)
    assert len(found) == 5
    for token, ids in texts(base, found).items():
        if path == "text":
            ids = AutoTokenizer.from_pretrained(folder)(
                PROMPT + MADE + AutoTokenizer.from_pretrained(base).decode([token])
            )["input_ids"]
        expected = at_the_end(loaded(folder), ids)[label].item()
        assert found[token] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("family", ["bloom", "mpt", "falcon"])
def test_models_that_count_places_by_themselves_read_whole_texts(base, tmp_path, family) -> None:
    """ALiBi sees slots, and candidates side by side are in slots that are not their places."""
    folder = judge(tmp_path / "rm", family, "byte_level")
    own = AutoTokenizer.from_pretrained(base)
    for token, value in rewards(base, "rerank(rm, k=6, w=1)", folder).items():
        ids = own(PROMPT + MADE + own.decode([token], skip_special_tokens=True))["input_ids"]
        assert value == pytest.approx(at_the_end(loaded(folder), ids).item(), abs=2e-4)
    with pytest.raises(descant.FormulaError, match="for it computes positions by itself"):
        rewards(base, "rerank(rm, k=6)", {"path": folder, "read": "tokens"})


def with_lora(folder: str, adapter: Path, on: str) -> torch.nn.Module:
    """A classifier with a new LoRA adapter, which is saved in a folder of its own."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(init_lora_weights=False, r=4, target_modules=[on])
    adapted = get_peft_model(type(loaded(folder)).from_pretrained(folder), config).eval()
    adapted.save_pretrained(adapter)
    return adapted


@pytest.mark.parametrize(("family", "on"), [("llama", "q_proj"), ("bert", "query")])
def test_an_adapter_on_a_reward_that_reads_text(base, tmp_path, family, on) -> None:
    folder = judge(tmp_path / "rm", family, "sentences" if family == "llama" else "words")
    adapted = with_lora(folder, tmp_path / "lora", on)
    models = {"base": base, "rm": folder, "lora": {"adapter": str(tmp_path / "lora"), "on": "rm"}}
    decoder = descant.compile("base | rerank(3*lora - rm, k=4, w=1)", models)
    assert len(decoder.session.bound.lanes) == 2
    ours, own = AutoTokenizer.from_pretrained(base), AutoTokenizer.from_pretrained(folder)
    ids = ours(PROMPT)["input_ids"]
    row = decoder.scores(PROMPT, [])[-1]
    lm = plain.logprobs(AutoModelForCausalLM.from_pretrained(base).eval(), ids)
    for token in row.isfinite().nonzero()[:, 0].tolist():
        inputs = own(PROMPT + ours.decode([token]), return_tensors="pt")
        with torch.no_grad():
            one, two = adapted(**inputs).logits.item(), loaded(folder)(**inputs).logits.item()
        assert one != pytest.approx(two, abs=1e-3)
        assert (row[token] - lm[token]).item() == pytest.approx(3 * one - two, abs=1e-3)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> tuple[str, str, torch.nn.Module]:
    """The folders of a classifier of three classes and of an adapter on it; and both in peft."""
    folder = tmp_path_factory.mktemp("labelled")
    rm = judge(folder / "rm", "llama", "byte_level", num_labels=3)
    config_of(rm, id2label=LABELS, label2id=None)
    return rm, str(folder / "lora"), with_lora(rm, folder / "lora", "q_proj")


@torch.no_grad()
def of_peft(model: torch.nn.Module, ids: list[int]) -> torch.Tensor:
    """``(labels,)`` what peft's model says of one text."""
    return model(torch.tensor([ids])).logits[0].log_softmax(-1)


# What the base and its adapter declare, and the class and the read mode of the adapter's rewards.
ADAPTERS = [
    ({"label": "good"}, {"label": "dull"}, 2, "tokens"),
    ({}, {"label": "dull"}, 2, "tokens"),
    ({"label": "good"}, {}, 1, "tokens"),
    ({"label": 0}, {"read": "text"}, 0, "text"),
    ({"read": "tokens", "label": "good"}, {"read": "text", "label": 2}, 2, "text"),
    ({"read": "text", "label": "good"}, {"read": "tokens"}, 1, "tokens"),
    ({"read": "text"}, {"label": "good"}, 1, "text"),
]


@pytest.mark.parametrize(("of_base", "own", "label", "read"), ADAPTERS)
def test_an_adapter_has_its_own_label_and_read_mode(
    base, labelled, of_base, own, label, read
) -> None:
    folder, adapter, adapted = labelled
    specs = {"rm": {"path": folder, **of_base}, "lora": {"adapter": adapter, "on": "rm", **own}}
    ours = AutoTokenizer.from_pretrained(base)
    prompt = ours(PROMPT)["input_ids"]

    def expected(ids: list[int], read: str) -> float:
        if read == "text":
            ids = ours(PROMPT + ours.decode(ids, skip_special_tokens=True))["input_ids"]
        else:
            ids = [*prompt, *ids]
        return of_peft(adapted, ids)[label].item()

    decoder = descant.compile("base | rerank(lora, k=8, w=1)", {"base": base, **specs})
    row = decoder.scores(PROMPT, [])[-1]
    lm = plain.logprobs(AutoModelForCausalLM.from_pretrained(base).eval(), prompt)
    kept = row.isfinite().nonzero()[:, 0].tolist()
    assert len(kept) == 8
    for token in kept:
        said = (row[token] - lm[token]).item()
        assert said == pytest.approx(expected([token], read), abs=2e-4)
    search = descant.compile("base | best_of(lora, n=4)", {"base": base, **specs})
    best = search.inspect(PROMPT, max_new_tokens=6, eos_token_id=[], seed=1)
    ids = best.completion.token_ids
    assert best.search_score == pytest.approx(expected(ids, read), abs=2e-4)
    assert expected(ids, "text") != pytest.approx(expected(ids, "tokens"), abs=2e-4)
    [score] = descant.score("lora", [PROMPT], [best.completion.text], models=specs)
    assert score == pytest.approx(expected(ids, "text"), abs=2e-4)


def test_an_adapter_and_its_base_may_read_in_two_ways(base, labelled) -> None:
    folder, adapter, adapted = labelled
    specs = {
        "rm": {"path": folder, "label": "good"},
        "lora": {"adapter": adapter, "on": "rm", "label": "dull", "read": "text"},
    }
    decoder = descant.compile("base | rerank(rm + 2*lora, k=6, w=1)", {"base": base, **specs})
    assert "lora reads text by its own tokenizer, as declared" in str(decoder.plan)
    ours = AutoTokenizer.from_pretrained(base)
    ids = ours(PROMPT)["input_ids"]
    row = decoder.scores(PROMPT, [])[-1]
    lm = plain.logprobs(AutoModelForCausalLM.from_pretrained(base).eval(), ids)
    for token in row.isfinite().nonzero()[:, 0].tolist():
        text = ours(PROMPT + ours.decode([token], skip_special_tokens=True))["input_ids"]
        total = at_the_end(loaded(folder), [*ids, token])[1] + 2 * of_peft(adapted, text)[2]
        assert (row[token] - lm[token]).item() == pytest.approx(total.item(), abs=2e-4)


def with_value_head(base: str, folder: Path, layout: str) -> tuple[str, torch.nn.Linear]:
    """A language model with a value head beside it, as two libraries save it."""
    shutil.copytree(base, folder)
    torch.manual_seed(4)
    head = torch.nn.Linear(32, 1)
    weights = {"v_head.summary.weight": head.weight.data, "v_head.summary.bias": head.bias.data}
    file = folder / "model.safetensors"
    if layout == "beside":
        save_file(weights, folder / "value_head.safetensors")
    elif layout == "plain":
        save_file({**load_file(file), "v_head.weight": head.weight.data}, file, {"format": "pt"})
        head.bias.data.zero_()
    else:
        save_file({**load_file(file), **weights}, file, {"format": "pt"})
    if layout == "sharded":
        every = load_file(file)
        file.unlink()
        parts = {"one": {}, "two": {}}
        for i, (key, value) in enumerate(sorted(every.items())):
            parts["one" if i % 2 else "two"][key] = value
        index = {}
        for part, some in parts.items():
            save_file(some, folder / f"model-{part}.safetensors", {"format": "pt"})
            index |= dict.fromkeys(some, f"model-{part}.safetensors")
        said = {"metadata": {"total_size": 1}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(said))
    return str(folder), head


@pytest.mark.parametrize("path", ["tokens", "text"])
@pytest.mark.parametrize("layout", ["among", "beside", "plain", "sharded"])
def test_a_value_head_beside_a_language_model(base, tmp_path, layout, path) -> None:
    folder, head = with_value_head(base, tmp_path / "rm", layout)
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    found = rewards(base, "rerank(rm, k=4, w=1)", {"path": folder, "read": path})
    own = AutoTokenizer.from_pretrained(base)
    for token, ids in texts(base, found).items():
        if path == "text":
            ids = own(PROMPT + MADE + own.decode([token]))["input_ids"]
        with torch.no_grad():
            hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert found[token] == pytest.approx(head(hidden).item(), abs=2e-4)


def test_such_a_checkpoint_is_a_language_model_where_it_is_a_term(base, tmp_path) -> None:
    folder, _ = with_value_head(base, tmp_path / "rm", "among")
    plain_one = descant.compile("base", {"base": base}).generate(PROMPT, max_new_tokens=6)
    policy = {"policy": folder, "value": folder}
    one = descant.compile("policy", policy).generate(PROMPT, max_new_tokens=6)
    assert one[0].token_ids == plain_one[0].token_ids
    both = descant.compile("policy | rerank(value, k=3)", policy)
    assert (
        both.session.bound.lanes[0].model.base_model is both.session.bound.lanes[1].model.base_model
    )
    both.generate(PROMPT, max_new_tokens=3)
    with pytest.raises(descant.FormulaError, match="policy is a language model, and rerank"):
        descant.compile("policy | rerank(policy, k=3)", policy)


def test_a_value_head_that_is_no_linear_layer(base, tmp_path) -> None:
    folder, _ = with_value_head(base, tmp_path / "rm", "among")
    file = Path(folder) / "model.safetensors"
    weights = load_file(file)
    del weights["v_head.summary.weight"]
    save_file({**weights, "v_head.0.weight": torch.ones(8, 32)}, file, {"format": "pt"})
    with pytest.raises(descant.FormulaError, match="not one linear layer from 32 to 1"):
        descant.compile("base | rerank(rm)", {"base": base, "rm": folder})


def test_a_value_head_in_memory(base) -> None:
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    torch.manual_seed(4)
    model.v_head = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(32, 1))
    found = rewards(base, "rerank(rm, k=4, w=1)", {"model": model, "tokenizer": base})
    assert model.v_head.training  # its owner's business
    model.eval()
    for token, ids in texts(base, found).items():
        with torch.no_grad():
            hidden = model.base_model(torch.tensor([ids])).last_hidden_state[0, -1]
            assert found[token] == pytest.approx(model.v_head(hidden).item(), abs=2e-4)


@pytest.mark.parametrize("path", ["tokens", "text"])
@pytest.mark.parametrize("pad", ["eos", "absent", "real"])
def test_whatever_the_padding_token_is(base, tmp_path, pad, path) -> None:
    """Real tokens that are the padding token, at the end of a text and in it; rows are ragged."""
    folder = judge(tmp_path / "rm", "llama", "byte_level")
    own = AutoTokenizer.from_pretrained(folder)
    letter = own("r", add_special_tokens=False)["input_ids"][0]
    pads = {"eos": own.eos_token_id, "absent": None, "real": letter}
    config_of(folder, pad_token_id=pads[pad])
    if pad == "absent":
        assert "pad_token_id" not in (tmp_path / "rm" / "config.json").read_text()
    model = loaded(folder)
    assert model.config.pad_token_id == pads[pad]
    spec = {"path": folder, "read": path}
    decoder = descant.compile("base | rerank(rm, k=330, w=1)", {"base": base, "rm": spec})
    lm = AutoModelForCausalLM.from_pretrained(base).eval()
    for text in ("the rrr", "a"):
        ids = own(text)["input_ids"]
        row, said = decoder.scores(text, [])[-1], plain.logprobs(lm, ids)
        for token in (letter, own.eos_token_id, own("o", add_special_tokens=False)["input_ids"][0]):
            whole = [*ids, token]
            if path == "text":
                whole = own(text + own.decode([token], skip_special_tokens=True))["input_ids"]
            expected = at_the_end(model, whole).item()
            assert (row[token] - said[token]).item() == pytest.approx(expected, abs=2e-4)
    texts = ["the rrr", "a", "r"]
    short = descant.compile("base | rerank(rm, k=6, w=2)", {"base": base, "rm": spec})
    together = short.generate(texts, max_new_tokens=6, eos_token_id=[])
    each = [short.generate(text, max_new_tokens=6, eos_token_id=[])[0] for text in texts]
    assert [one.token_ids for one in together] == [one.token_ids for one in each]


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_a_checkpoint_without_its_head(base, tmp_path, family) -> None:
    folder = judge(tmp_path / "rm", family, "words" if family == "bert" else "byte_level")
    weights = load_file(tmp_path / "rm" / "model.safetensors")
    kept = {k: v for k, v in weights.items() if not k.startswith(("score", "classifier"))}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "rm" / "model.safetensors", {"format": "pt"})
    with pytest.raises(descant.FormulaError, match=r"lack (score|classifier)\.\w+") as found:
        descant.compile("base | rerank(rm)", {"base": base, "rm": folder})
    assert "they would be random numbers" in str(found.value)


@pytest.mark.parametrize(
    ("wanted", "more", "said"),
    [
        (None, {}, "has 3 outputs, and a reward is one\n.*\n.*\nchoose a class with label=: 0"),
        ("goood", {}, "has no class goood(.|\n)*did you mean good"),
        (7, {}, "has no class 7(.|\n)*0 .bad., 1 .good., 2 .dull."),
        ("goood", {"problem_type": MULTI}, "has no label goood(.|\n)*did you mean good"),
        (None, {"problem_type": MULTI}, "choose a label with label=: 0 .bad."),
    ],
)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_labels_that_are_not_there(base, tmp_path, family, wanted, more, said) -> None:
    tokens = "words" if family == "bert" else "byte_level"
    folder = judge(tmp_path / "rm", family, tokens, num_labels=3, **more)
    config_of(folder, id2label=LABELS, label2id=None)
    with pytest.raises(descant.FormulaError, match=said):
        descant.compile(
            "base | rerank(rm)", {"base": base, "rm": {"path": folder, "label": wanted}}
        )


CODE = """
import torch
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class LlamaForRewardModelWithGating(LlamaPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.model = LlamaModel(config)
        self.regression_layer = torch.nn.Linear(config.hidden_size, 5, bias=False)
        self.gating = torch.nn.Linear(config.hidden_size, 5, bias=False)
        self.post_init()

    def forward(self, input_ids=None, attention_mask=None, **kwargs):
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        rewards = self.regression_layer(hidden[:, -1])
        score = (self.gating(hidden[:, 0]).softmax(-1) * rewards).sum(-1)
        return SequenceClassifierOutput(logits=score)
"""


@pytest.fixture
def gated(base, tmp_path, monkeypatch) -> str:
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    shutil.copytree(base, tmp_path / "rm")
    torch.manual_seed(8)
    weights = load_file(tmp_path / "rm" / "model.safetensors")
    del weights["lm_head.weight"]
    more = {name: torch.randn(5, 32) for name in ("regression_layer.weight", "gating.weight")}
    save_file({**weights, **more}, tmp_path / "rm" / "model.safetensors", {"format": "pt"})
    (tmp_path / "rm" / "modeling_custom.py").write_text(CODE)
    name = "LlamaForRewardModelWithGating"
    code = {"AutoModelForSequenceClassification": f"modeling_custom.{name}"}
    config_of(str(tmp_path / "rm"), architectures=[name], auto_map=code)
    return str(tmp_path / "rm")


def test_code_of_its_own_is_refused_unless_it_is_trusted(base, gated) -> None:
    with pytest.raises(descant.FormulaError, match="is a LlamaForRewardModelWithGating") as said:
        descant.compile("base | rerank(rm)", {"base": base, "rm": gated})
    assert "modeling_custom" in str(said.value) and "trust_remote_code: true" in str(said.value)


def test_code_of_its_own_reads_whole_texts_one_by_one(base, gated) -> None:
    from transformers import AutoModelForSequenceClassification

    spec = {"path": gated, "trust_remote_code": True}
    found = rewards(base, "rerank(rm, k=4, w=1)", spec)
    model = AutoModelForSequenceClassification.from_pretrained(gated, trust_remote_code=True).eval()
    own = AutoTokenizer.from_pretrained(base)
    for token, value in found.items():
        inputs = own(PROMPT + MADE + own.decode([token]), return_tensors="pt")
        with torch.no_grad():
            assert value == pytest.approx(model(**inputs).logits.item(), abs=2e-4)
    plan = str(descant.compile("base | rerank(rm, k=4)", {"base": base, "rm": spec}).plan)
    assert "the whole text of 4 candidates, nothing cached (runs its own code)" in plan
    with pytest.raises(descant.FormulaError, match="reads whole texts, for it runs its own code"):
        descant.compile("base | rerank(rm)", {"base": base, "rm": {**spec, "read": "tokens"}})


def test_how_outputs_become_rewards_is_not_one_for_all() -> None:
    class Said:
        problem_type = None

    outputs = torch.tensor([1.0, -2.0, 0.5])
    found = {}
    for Said.problem_type in (None, MULTI, "regression"):
        found[Said.problem_type] = judged(outputs, Said).tolist()
    assert len({tuple(one) for one in found.values()}) == 3
