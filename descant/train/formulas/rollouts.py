"""Rollouts of a model that is being trained, drawn by a formula: TRL's ``rollout_func``.

TRL's GRPOTrainer asks it for completions (``GRPOTrainer(…, rollout_func=Rollouts(…))``). The model
in training is one of the formula's, in memory, and its weights are read as they are now.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ArgumentError

OWN = ("max_new_tokens", "num_return_sequences", "seed", "logprobs", "logprobs_mode")


class Rollouts:
    """Completions for TRL, as its ``rollout_func`` gives them.

    Args:
        formula: over the declared models and the one in training.
        models: the others, as in ``descant.compile``.
        policy: the name of the model in training in the formula.
        seed: of all draws; each call draws others.
        settings: further arguments of ``Decoder.generate``, for all calls. Temperature, ``top_k``,
            ``top_p`` and ``min_p`` are the trainer's, unless they are said here.

    Raises:
        ArgumentError: a setting that the trainer decides, or the name of a declared model.
        FormulaError, ModelError: on the first call, as ``descant.compile``.
    """

    def __init__(
        self,
        formula: str = "policy",
        models: Mapping[str, Any] | None = None,
        *,
        policy: str = "policy",
        seed: int = 0,
        params: Mapping[str, float] | None = None,
        **settings: Any,
    ) -> None:
        if policy in (models or {}):
            problem = f"{policy} is declared, and the name of the model in training"
            raise ArgumentError(f"{problem}; give another name: policy=…")
        if own := [name for name in OWN if name in settings]:
            raise ArgumentError(f"{', '.join(own)}: the trainer decides it, or TRL needs it so")
        self.formula, self.policy, self.settings = formula, policy, settings
        self._models, self._params, self._seed = {**(models or {})}, params, seed
        self._calls, self._decoder, self._trained = 0, None, None

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, Any]:
        """One completion for each prompt, texts or messages; a prompt comes as often as it is in.

        Returns:
            ``prompt_ids``, what the model in training read; ``completion_ids``; and ``logprobs``
            of the tokens in what they were drawn from, the formula's.
        """
        decoder, args = self._compiled(trainer), trainer.args
        settings = {
            name: getattr(args, name, None) for name in ("temperature", "top_k", "top_p", "min_p")
        }
        settings |= self.settings
        seeds = [self._seed + self._calls + number for number in range(len(prompts))]
        self._calls += len(prompts)
        completions = decoder.generate(
            list(prompts), max_new_tokens=args.max_completion_length, seed=seeds,
            logprobs=True, logprobs_mode="processed_logprobs", progress=False,
            **{name: value for name, value in settings.items() if value is not None},
        )  # fmt: skip
        return {
            "prompt_ids": [self._read(decoder, prompt) for prompt in prompts],
            "completion_ids": [each.token_ids for each in completions],
            "logprobs": [each.logprobs for each in completions],
        }

    def _compiled(self, trainer: Any) -> Any:
        """A decoder over the model that the trainer trains."""
        import descant

        trained = trainer.accelerator.unwrap_model(trainer.model)
        if self._decoder is None or trained is not self._trained:
            tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
            own = {"model": trained, "tokenizer": tokenizer}
            models = {**self._models, self.policy: own}
            self._decoder = descant.compile(self.formula, models, params=self._params)
            self._trained = trained
            terms = self._decoder.session.bound.terms
            if all(each.term.model != self.policy for each in terms):
                raise ArgumentError(f"{self.policy}, which is trained, is not in {self.formula}")
        return self._decoder

    def _read(self, decoder: Any, prompt: Any) -> list[int]:
        """The ids that the model in training reads of a prompt."""
        terms = decoder.session.bound.terms
        number = next(n for n, each in enumerate(terms) if each.term.model == self.policy)
        [request] = decoder.session.builder.requests(prompt, max_new_tokens=1)
        return list(request.prompts[number])
