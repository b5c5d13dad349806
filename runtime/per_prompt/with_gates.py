"""Parameters that are others for each prompt: ``Decoder.fit_gates`` and ``prompt_weights``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...grammar.parse import language
from ...models import Prompt
from ...models.heads.written import write_head
from ..binding.bound import Bound
from ..fit import differentiable
from ..fit.objectives import LIKELIHOOD, held_out
from ..fit.reading import read_texts
from ..fit.space import space_of
from ..fit.text_fit import TextFit
from ..loops.hidden_states import hidden_states
from .gates import Bounds, Gates, best_gates, check_bounds, in_formula
from .of_sums import pieces_of, states_in_order
from .perplexity import prompt_weights


@dataclass(frozen=True)
class GateFit:
    """Gates that were fitted to texts. The decoder is as it was.

    Attributes:
        formula: the decoder's, with ``head(on, gate_a)`` for each fitted parameter ``a``.
        models: the gates as ``compile`` takes them beside the other models: ``gate_a`` by name.
        on, layer: the model whose hidden states they read, and the decoder layer, from 0.
        penalty: the L2 penalty that held-out texts chose.
        loglikelihood: of the tokens that were learnt, nats per token.
        held_out: likewise, of the texts that were held out; and ``constant``, of the same, with the
            best constants in place of the gates.
        tokens: that were learnt, and ``texts``.
    """

    formula: str
    models: dict[str, dict[str, Any]]
    on: str
    layer: int
    penalty: float
    loglikelihood: float
    held_out: float
    constant: float
    tokens: int = 0
    texts: int = 0

    @property
    def helps(self) -> bool:
        """Whether the gates are better than constants, on texts that none of the two has seen."""
        return self.held_out > self.constant

    def save(self, folder: str | Path) -> dict[str, dict[str, Any]]:
        """Write each gate as ``descant train probe`` writes a head.

        Returns:
            The gates' declarations for a run file: ``{gate_a: {head: folder/gate_a, on: base}}``.
        """
        declared = {}
        for name, spec in self.models.items():
            path = Path(folder) / name
            weight, bias = spec["head"]
            write_head(path, weight, bias, self.layer, self.on)
            declared[name] = {"head": str(path), "on": self.on, "layer": self.layer}
        return declared


class WithGates:
    """What makes the parameters of a decoder's formula functions of the prompt."""

    _params: dict[str, float]
    _bound: Bound

    def prompt_weights(
        self, prompts: Sequence[Prompt], *, temperature: float = 1.0, batch_size: int = 32
    ) -> dict[str, list[float]]:
        """For each prompt, how much each term of ``a*one + b*two`` weighs, by its perplexity.

        The weights of PackLLM (Mavromatis et al. 2024), ``softmax(-log PPL / temperature)``; give
        them to ``generate(prompts, params=…)``. Arguments and errors are those of
        ``per_prompt.perplexity.prompt_weights``.
        """
        return prompt_weights(self, prompts, temperature, batch_size)

    def fit_gates(
        self,
        prompts: Prompt | Sequence[Prompt],
        completions: Any,
        *,
        on: str,
        layer: int,
        bounds: Mapping[str, Bounds],
        params: Mapping[str, float] | None = None,
        holdout: float = 0.2,
        seed: int = 0,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> GateFit:
        """Parameters as functions of a hidden state, those that make texts most likely.

        A gate is one linear output of the state that a term has before each token. A parameter
        with bounds is ``lower + (upper - lower)*sigmoid(gate)``, one without is the gate itself.

        Args:
            prompts, completions: as for ``fit``.
            on: a term of the formula with weights of its own, whose states are read.
            layer: which decoder layer's, counted from 0.
            bounds: ``{"a": (0, 2), "b": None}``: which parameters become gates, and their range.
            params: what the parameters are to begin with; left out, the decoder's values.
            holdout: the share of texts that choose the penalty of the gates' weights, and say
                whether gates are better than constants.
            seed: which texts are held out.
            batch_size: texts read at once.
            progress: a progress bar; left out, only on a terminal.

        Raises:
            FormulaError: a formula that is no sum in which the parameters are coefficients, or one
                that cannot have a head where a parameter stands.
            ArgumentError: a parameter that no term uses, or arguments that do not fit together.
            ModelError: no such term, or layer.
        """
        decoder: Any = self
        plan = self._bound.plan
        check_bounds(bounds)
        values = {**self._params, **(params or {})}
        space = space_of(plan.params, values, bounds, ())
        differentiable.check(plan, space.names)
        summands = differentiable.summands(plan, space.names)
        if summands is None:
            problem = "gates are for sums in which the parameters are coefficients"
            raise plan.error(problem, plan.use(space.names[0]), "fit constants: decoder.fit(…)")
        names = {name: f"gate_{name}" for name in space.names}
        formula = _with_heads(plan.source, on, names, bounds)
        texts = TextFit(decoder, space, values, LIKELIHOOD, 1.0)
        try:
            requests, ids = texts.read(read_texts, prompts, completions, batch_size, progress)
            states = hidden_states(self._bound, on, layer, requests, ids)
            kept = texts.texts.kept
            ordered, owners = states_in_order(kept, dict(states))
            chosen, _ = held_out(len(ids), holdout, seed, "texts")
            learnt = torch.isin(owners, torch.tensor(chosen))
            fixed = {name: float(v) for name, v in values.items() if name not in space.names}
            found = best_gates(
                pieces_of(summands, space.names, fixed, kept), ordered, learnt,
                [bounds[name] for name in space.names], list(space.start),
            )  # fmt: skip
        finally:
            texts.close()
        models = _models(found, names, on, layer)
        return GateFit(
            formula, models, on, layer, found.penalty, found.loglikelihood, found.held_out,
            found.constant, int(learnt.sum()), len(chosen),
        )  # fmt: skip


def _models(
    gates: Gates, names: Mapping[str, str], on: str, layer: int
) -> dict[str, dict[str, Any]]:
    return {
        gate: {"head": (gates.weight[i : i + 1].clone(), gates.bias[i : i + 1].clone()),
               "on": on, "layer": layer}
        for i, gate in enumerate(names.values())
    }  # fmt: skip


def _with_heads(
    formula: str, on: str, gates: Mapping[str, str], bounds: Mapping[str, Bounds]
) -> str:
    """A formula with a gate in the place of each parameter."""
    tokens = [*language().lex(formula)]
    written, end = "", 0
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        keyword = following is not None and following.type == "EQUAL"
        if token.type != "NAME" or str(token) not in gates or keyword:
            continue
        gate = in_formula(bounds[str(token)], f"head({on}, {gates[str(token)]})")
        written += formula[end : token.start_pos] + gate
        end = token.end_pos or 0
    return written + formula[end:]
