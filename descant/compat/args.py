"""ARGS' own class ``ARGS`` (Khanov et al., ICLR 2024), over the formula ``llm | rerank(rm, …)``.

What differs is in docs/migrating.md. Importing this imports no torch.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ArgumentError
from .refused import Interface

if TYPE_CHECKING:
    from torch import Tensor

LONGEST = 2048  # tokens of a prompt, where a model's configuration has no max_sequence_length
FORMULA = "llm | rerank(rm, k=topk, w=weight)"


class ARGS(Interface):
    """Reward-guided search.

    Args:
        llm_path: a folder or hub id.
        rm_path: a reward model with one output, that reads the language model's tokens.
        torch_dtype: of both; ARGS' own is float16.

    Attributes:
        decoder: the descant decoder, which takes many prompts at once.
        tokenizer: of the language model.
    """

    cures: ClassVar = {
        "LLM": 'descant.compile("llm", searcher.models).scores(prompt, ids)',
        "RM": 'descant.score("rm", …), or searcher.decoder.inspect(prompt)',
        "generate_greedy_step_large": "searcher.decoder.stream(prompt, params={…})",
        "generate_step": "searcher.decoder.stream(prompt, params={…})",
    }

    def __init__(
        self,
        llm_path: str,
        rm_path: str,
        llm_dev: str = "cuda:0",
        rm_dev: str = "cuda:1",
        torch_dtype: Any = "float16",
    ) -> None:
        import descant

        self.llm_dev, self.rm_dev, self.formula = llm_dev, rm_dev, FORMULA
        llm = {"path": llm_path, "dtype": torch_dtype, "device": llm_dev}
        rm = {"path": rm_path, "dtype": torch_dtype, "device": rm_dev}
        self.models = {"llm": llm, "rm": rm | {"tokenizer": llm_path, "read": "tokens"}}
        params = {"topk": 1, "weight": 0.0}
        _check_devices(llm_dev, rm_dev)
        self.decoder = descant.compile(FORMULA, self.models, params=params, device=llm_dev)
        self.tokenizer = self.decoder.tokenizer

    def get_input_ids(self, prompt: str) -> Tensor:
        """``(1, length)``: the prompt as the tokenizer makes it."""
        ids: Tensor = self.tokenizer(prompt, return_tensors="pt").input_ids
        return ids.to(self.llm_dev)

    def tokens_to_text(self, tokens: Tensor) -> list[str]:
        """The text of each row, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def generate(
        self,
        prompt: str,
        weight: float = 0.0,
        topk: int = 1,
        max_new_token: int = 128,
        method: str = "greedy",
        temperature: float = 0.7,
        chunk_size: int | str = 5,
        debug: bool = False,
        *,
        stop_at_eos: bool = True,
    ) -> Tensor | None:
        """Complete a prompt.

        Args:
            prompt: text, as it is.
            weight: of the reward.
            topk: candidates per token.
            max_new_token: tokens after which it ends.
            method: ``greedy`` and ``greedy_large`` take the best candidate, ``topk`` draws from
                all of them at ``temperature``, with noise seeded from torch's own generator.
            temperature: for ``topk`` alone.
            chunk_size, debug: without effect: the candidates are positions of one forward.
            stop_at_eos: ours alone; off, it continues past an end of text, as ARGS' own code does.

        Returns:
            ``(1, length)`` token ids, the prompt's and the new ones; None where the prompt is too
            long, as in ARGS' own code.
        """
        import torch
        from transformers import AutoConfig

        if method not in ("greedy", "greedy_large", "topk"):
            raise ArgumentError(f"Invalid method '{method}'; use greedy, greedy_large or topk")
        ids = self.get_input_ids(prompt)
        paths = (spec["path"] for spec in self.models.values())
        configs = [AutoConfig.from_pretrained(path).to_dict() for path in paths]
        longest = min(int(config.get("max_sequence_length", LONGEST)) for config in configs)
        if ids.shape[-1] > longest:
            problem = f"the prompt has {ids.shape[-1]} tokens and the models read {longest}"
            warnings.warn(f"{problem}: None", stacklevel=2)
            return None
        [completion] = self.decoder.generate(
            [ids[0].tolist()],
            max_new_tokens=max_new_token,
            temperature=temperature if method == "topk" else 0,
            seed=int(torch.randint(2**62, ())),
            params={"topk": topk, "weight": float(weight)},
            eos_token_id=None if stop_at_eos else [],
        )
        return torch.cat((ids, ids.new_tensor([completion.token_ids])), dim=-1)


def _check_devices(*devices: str) -> None:
    """Refuse GPUs that do not exist; ARGS' defaults are two."""
    import torch

    gpus = torch.cuda.device_count()
    for device in devices:
        kind, _, number = device.partition(":")
        if kind == "cuda" and int(number or 0) >= gpus:
            cure = "cuda:0 for both" if gpus else "cpu"
            problem = f"ARGS is to run on {device}, and there are {gpus} GPUs here"
            raise ArgumentError(f"{problem}; give llm_dev= and rm_dev=: {cure}")
