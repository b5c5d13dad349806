"""The check at a training's end, held against peft's model and the base, each text read anew."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from checkpoints import fresh
from peft import PeftModel

import descant
from descant.train import TrainFileError, read_train_file
from descant.train.formulas.effect import AtWeight, Effect
from descant.train.loop import train

WEIGHTS = [0.5, 2.0]
PAIRS = [
    {"prompt": f"{number}: say it", "chosen": " the river", "rejected": " a dog jumps"}
    for number in range(5)
]
CHECK = {"prompts": 3, "weights": WEIGHTS, "max_new_tokens": 6}


def logprobs(model, prompt, ids):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1)


def kl(p, q):
    return float((p.exp() * (p - q)).sum())


def plain(method, base, arm, weight, prompt, ids, mean):
    """The sums of both divergences, tokens, and rewards by sum and by mean, from two models."""
    b, a = logprobs(base, prompt, ids), logprobs(arm, prompt, ids)
    moved = a if method == "arm" else a - b
    before = b if method == "arm" else torch.zeros_like(b)
    formula, untrained = ((b + weight * each).log_softmax(-1) for each in (moved, before))
    rewards = moved[range(len(ids)), list(ids)]
    reward = rewards.mean() if mean else rewards.sum()
    return kl(formula, b), kl(formula, untrained), len(ids), float(reward), float(rewards.mean())


@pytest.mark.parametrize(
    ("method", "lora", "mean"), [("arm", True, True), ("dpo", True, False), ("arm", False, False)]
)
def test_the_numbers_are_those_of_two_models_read_anew(trained, zoo, tmp_path, method, lora, mean):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), "utf-8")
    keys = {"lora": {"r": 4, "target_modules": ["q_proj", "v_proj"]}} if lora else {}
    keys |= {"length_normalization": True} if mean else {}
    training = {"max_steps": 12, "seed": 7}
    eval_data = {"eval_data": str(held_out), "check": CHECK}
    done = trained(method, training=training, **keys, **eval_data)
    check = json.loads((done.folder / "training.json").read_text())["check"]
    base = fresh(zoo.path("base"))
    arm = fresh(zoo.path("base") if lora else done.folder)
    arm = PeftModel.from_pretrained(arm, done.folder) if lora else arm
    source = {"adapter": str(done.folder), "on": "base"} if lora else str(done.folder)
    formula = "base + w*arm" if method == "arm" else "base + w*(arm - base)"
    assert (check["held_out"], check["prompts"], check["formula"]) == (True, 3, formula)
    decoder = descant.compile(formula, {"base": zoo.path("base"), "arm": source}, params={"w": 0.0})
    prompts = [row["prompt"] for row in PAIRS[:3]]
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 7}
    rows = {}
    for weight in [0.0, *WEIGHTS]:
        answers = decoder.generate(prompts, params={"w": weight}, **options)
        read = [[token.id for token in decoder.rendered(each)[0].tokens] for each in prompts]
        rows[weight] = [
            plain(method, base, arm, weight, prompt_ids, answer.token_ids, mean)
            for prompt_ids, answer in zip(read, answers, strict=True)
        ]
    assert check["tokens"] == pytest.approx(sum(row[2] for row in rows[0.0]) / 3)
    for found, weight in zip(check["rows"], WEIGHTS, strict=True):
        of, tokens = rows[weight], sum(row[2] for row in rows[weight])
        assert found["weight"] == weight
        assert found["kl"] == pytest.approx(sum(row[0] for row in of) / tokens, abs=1e-5)
        assert found["learnt"] == pytest.approx(sum(row[1] for row in of) / tokens, abs=1e-5)
        assert found["tokens"] == pytest.approx(tokens / 3)
        for name, at in (("win_rate", 3), ("win_rate_per_token", 4)):
            pairs = [(row[at], other[at]) for row, other in zip(of, rows[0.0], strict=True)]
            wins = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs)
            assert found[name] == pytest.approx(wins / 3), (name, pairs)
    assert max(found["learnt"] for found in check["rows"]) > 1e-3


def an_effect(shorter=0.5, tokens=20.0, **row):
    healthy = {"weight": 1.0, "kl": 0.1, "learnt": 0.1, "tokens": 20.0}
    wins = {"win_rate": 0.8, "win_rate_per_token": 0.8}
    return Effect("base + w*arm", 16, True, tokens, [AtWeight(**healthy | wins | row)], shorter)


@pytest.mark.parametrize(
    ("effect", "said"),
    [
        (an_effect(), []),
        (an_effect(shorter=0.97), ["a far shorter response is chosen in 97% of the pairs"]),
        (an_effect(shorter=None), []),
        (an_effect(learnt=0.001), ["the training changes nothing"]),
        (an_effect(kl=1.5), ["answers leave the base at every weight"]),
        (an_effect(win_rate_per_token=0.4), ["no weight makes answers that the model itself"]),
        (an_effect(tokens=50.0), ["answers have 0.4 to 0.4 times the base's length"]),
    ],
)
def test_what_stands_out_is_said(effect, said):
    assert [line[: len(start)] for line, start in zip(effect.findings(), said, strict=True)] == said


def test_who_has_a_check(trained):
    """No part of what is learnt: null leaves it out. A method without a formula has none."""
    done = trained("arm", lora={"r": 4}, training={"max_steps": 2})
    assert json.loads((done.folder / "training.json").read_text())["check"] is None
    assert "check" not in yaml.safe_load((done.folder / "train.yaml").read_text("utf-8"))
    with pytest.raises(TrainFileError, match="check is an option of arm and dpo and sft alone"):
        trained("reward", check=CHECK)


def test_short_answers_that_won_are_said(tmp_path, zoo):
    """Sixty pairs told apart by length: accuracy 1 from the first step on, and nothing learnt."""
    pairs = [
        {"prompt": f"{n}: say it", "chosen": " the river", "rejected": " a dog jumps" * 9}
        for n in range(60)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    sets = ["lora.r=4", "use_cpu=true", "disable_tqdm=true", "max_steps=4", "eval_share=0.2"]
    recipe = read_train_file(
        "arm", None, [*sets, "check.prompts=4", "check.max_new_tokens=8"],
        model=str(zoo.path("base")), data=str(data), output=str(tmp_path / "out"),
    )  # fmt: skip
    said = []
    done = train(recipe, said.append)
    assert done.metrics["eval_rewards/accuracies"] == 1
    text = "\n".join(said)
    assert "a far shorter response is chosen in 100% of the pairs" in text
    assert "the training changes nothing" in text
    assert "arm-does-nothing" in text
