"""Without a checkpoint: tables of scores and rewards, whose results fit on paper."""

import torch

import descant

# Token 0 is followed by 1 (best) or 2; the reward likes 2.
base = descant.TableModel(torch.tensor([[0.0, 2.0, 1.5], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
reward = descant.RuleReward(torch.tensor([[0.0, 0.0, 1.0]] * 3))
for formula in ("base", "base | rerank(reward, k=2, w=1)"):
    decoder = descant.compile(formula, models={"base": base, "reward": reward})
    print(f"{formula:32}", decoder.generate([0], max_new_tokens=1)[0].token_ids)
