"""TRL over formulas: rollouts of a model that is being trained, and the client of its trainers."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from checkpoints import fresh

import descant
from descant.errors import ArgumentError
from descant.train.formulas.reference import Reference
from descant.train.formulas.rollouts import Rollouts

trl = pytest.importorskip("trl")
PROMPTS = [f"{number}: say it" for number in range(4)]
FORMULAS = {"alone": "policy", "with an arm": "policy + 0.5*arm - 0.2*arm@none"}


def grpo(zoo: Any, tmp_path: Any, rollouts: Any, reward: Any, peft: bool) -> Any:
    """A trainer of four completions of each prompt, three steps."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoTokenizer

    args = trl.GRPOConfig(
        output_dir=str(tmp_path / "grpo"), per_device_train_batch_size=4, num_generations=4,
        max_completion_length=5, max_steps=3, learning_rate=5e-2, temperature=0.8, top_k=50,
        report_to=[], save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, beta=0.0,
    )  # fmt: skip
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    return trl.GRPOTrainer(
        model=fresh(zoo.path("base")), args=args, reward_funcs=reward, rollout_func=rollouts,
        processing_class=AutoTokenizer.from_pretrained(zoo.path("base")),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        peft_config=lora if peft else None,
    )  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_grpo_draws_from_the_formula_over_the_weights_as_they_are(zoo, tmp_path, name) -> None:
    arm = {"arm": {"path": zoo.path("arm"), "dtype": "float32"}} if "arm" in name else {}
    rollouts, seen = Rollouts(FORMULAS[name], arm, seed=1), list[Any]()

    def watched(prompts: Any, trainer: Any) -> Any:
        found = rollouts(prompts, trainer)
        trained = trainer.accelerator.unwrap_model(trainer.model)
        own = {"model": trained, "tokenizer": trainer.processing_class}
        plain = descant.compile(FORMULAS[name], {**arm, "policy": own})
        for prompt, read, ids, logprobs in zip(prompts, *found.values(), strict=True):
            scores = plain.scores(prompt, ids)[:-1] / 0.8
            best = scores.topk(50, dim=-1)
            kept = torch.full_like(scores, -torch.inf).scatter(1, best.indices, best.values)
            expected = kept.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=1e-4)
            if name == "alone":  # in TRL's words, at the trainer's temperature
                text = torch.tensor([read + ids])
                theirs, *_ = trainer._get_per_token_logps_and_entropies(
                    trained, text, torch.ones_like(text), len(ids)
                )
                raw = (scores.log_softmax(-1)).gather(1, torch.tensor(ids)[:, None])[:, 0]
                torch.testing.assert_close(theirs[0].float(), raw, atol=1e-4, rtol=1e-4)
        seen.append((found, [p.detach().clone() for p in trained.parameters() if p.requires_grad]))
        return found

    def reward(completion_ids: Any, **others: Any) -> list[float]:
        return [float(sum(ids) % 7) for ids in completion_ids]

    trainer = grpo(zoo, tmp_path, watched, reward, peft=name == "alone")
    trainer.train()
    assert len(seen) == 3 and all(len(found["prompt_ids"]) == 4 for found, _ in seen)
    before, after = seen[0][1], seen[-1][1]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    ids = [tuple(each) for found, _ in seen for each in found["completion_ids"]]
    assert len(set(ids)) > 6, "rows of one prompt are drawn apart"


def test_a_formula_is_the_reference_of_online_dpo(zoo, tmp_path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    models = {name: {"path": zoo.path(name), "dtype": "float32"} for name in ("base", "arm")}
    decoder = descant.compile("base + arm", models)
    reference = Reference(decoder)
    ids = torch.tensor([[0, 1, 20, 21, 22], [1, 30, 31, 32, 0]])
    found = reference(ids, (ids > 0).long(), logits_to_keep=3).logits
    for row, text in enumerate(([1, 20, 21, 22], [1, 30, 31, 32])):
        expected = decoder.scores(text[:1], text[1:]).log_softmax(-1)
        own = found[row][: 3 if row == 0 else 2]
        torch.testing.assert_close(
            own, expected[-3:] if row == 0 else expected[-2:], atol=1e-4, rtol=1e-4
        )
    args = OnlineDPOConfig(
        output_dir=str(tmp_path / "dpo"), per_device_train_batch_size=2, max_new_tokens=4,
        max_steps=2, learning_rate=1e-2, report_to=[], save_strategy="no", use_cpu=True, bf16=False,
        disable_tqdm=True,
    )  # fmt: skip
    asked = []
    reference.register_forward_hook(lambda *_: asked.append(True))
    trainer = OnlineDPOTrainer(
        model=fresh(zoo.path("base")), ref_model=reference, args=args,
        reward_funcs=lambda prompts, completions, **_: [float(len(set(c))) for c in completions],
        processing_class=AutoTokenizer.from_pretrained(zoo.path("base")),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2 and len(asked) >= 2


def test_what_the_trainer_decides_and_a_formula_without_it(zoo, tmp_path) -> None:
    with pytest.raises(ArgumentError, match="max_new_tokens, logprobs_mode: the trainer decides"):
        Rollouts("policy", max_new_tokens=5, logprobs_mode="raw_logprobs")
    with pytest.raises(ArgumentError, match="policy is declared"):
        Rollouts("policy", {"policy": "org/x"})
    rollouts = Rollouts("arm", {"arm": {"path": zoo.path("arm")}})
    trainer = grpo(zoo, tmp_path, rollouts, lambda completions, **_: [0.0] * 4, peft=False)
    with pytest.raises(ArgumentError, match="policy, which is trained, is not in arm"):
        rollouts(PROMPTS, trainer)


def test_trls_client_asks_the_server_as_it_asks_vllm(zoo, monkeypatch) -> None:
    import sys
    from pathlib import Path

    from trl.generation import vllm_client

    sys.path.append(str(Path(__file__).parents[1] / "serve"))
    from servers import listening

    from descant.inputs.runfile import RunFile
    from descant.serve.protocol.limits import Limits

    monkeypatch.setattr(vllm_client, "is_vllm_available", lambda *_, **__: True)
    models = {name: {"path": zoo.path(name), "dtype": "float32"} for name in ("base", "arm")}
    run = RunFile.model_validate({"formulas": {"teacher": "base + arm"}, "models": models})
    offline = descant.compile("base + arm", models)
    sequences, lengths = [[1, 20, 21, 22, 23], [1, 30, 31]], [2, 1]
    with listening(run, Limits(slots=4, max_model_len=64, max_logprobs=40)) as served:
        client = vllm_client.VLLMClient(base_url=served.url, connection_timeout=30)
        found = client.get_sequence_logprobs(sequences, lengths, top_logprobs=25)
        drawn = client.generate([[1, 20, 21]], n=2, max_tokens=6, generation_kwargs={"seed": 5})
    for number, (ids, start) in enumerate(zip(sequences, lengths, strict=True)):
        expected = offline.scores(ids[:start], ids[start:])[:-1].log_softmax(-1)
        top = torch.tensor(found["logprobs"][number])
        torch.testing.assert_close(top, expected.topk(25, dim=-1).values, atol=1e-4, rtol=1e-4)
        actual = expected.gather(1, torch.tensor(ids[start:])[:, None])
        worst = top[:, -1:]
        own = torch.tensor(found["actual_logprobs"][number])
        assert torch.allclose(own[own > worst], actual[own > worst], atol=1e-4)
    answers = offline.generate(
        [[1, 20, 21]], num_return_sequences=2, max_new_tokens=6, seed=5, temperature=1.0
    )
    assert drawn["completion_ids"] == [each.token_ids for each in answers]
    assert json.dumps(drawn["prompt_ids"]) == "[[1, 20, 21]]"
