"""language-model-arithmetic's ``ModelArithmetic`` and operators, over formulas.

>>> from descant.compat.model_arithmetic import PromptedLLM
>>> base, arm = (PromptedLLM("", model=f"org/{name}") for name in ("base", "arm"))
>>> print(base + 0.5 * arm)
mean(base + 0.5*arm)

The division is theirs: see docs/migrating.md. Importing this imports no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ..errors import ArgumentError
from .models import FormulaModels
from .operators import Classifier as Classifier
from .operators import Constant as Constant
from .operators import Intersection as Intersection
from .operators import Max as Max
from .operators import Min as Min
from .operators import Normalize as Normalize
from .operators import Operator as Operator
from .operators import Product as Product
from .operators import PromptedLLM as PromptedLLM
from .operators import SelfDebias as SelfDebias
from .operators import Sum as Sum
from .operators import Superseded as Superseded
from .operators import TopPTopK as TopPTopK
from .operators import Union as Union
from .refused import Interface, Untranslatable

if TYPE_CHECKING:
    from ..runtime import Decoder

_STAGE = "write a stage of your own with descant.stage: formula | yours(…)"
_MISSING = {
    "Abs": _STAGE,
    "AddNorm": "leave it out: it changes nothing",
    "Autocomplete": "train a small language model on the corpus, and add it as a term",
    "BaseClass": "formulas are text, and text saves itself",
    "ClassifierStrength": "declare a parameter, base + s*(x - y), and give its value per request",
    "CustomDataset": "say data: in a run file, and descant run",
    "Evaluation": "descant run and descant sweep, with score: in the run file",
    "Functional": _STAGE,
    "HardConstraint": 'descant.logits_processor("no_words", NoBadWordsLogitsProcessor(…)), and '
    "formula | no_words()",
    "Indicator": "where(entropy(x) > 1, x, y) chooses for a row; for tokens, max(x, y)",
    "KL_indicator": "where(entropy(x) > 1, x, y) chooses for a row; for tokens, max(x, y)",
    "Monitor": "print(M.decoder.plan) says what a step costs, M.decoder.inspect why each token",
    "OpenAIQuery": "descant compare judges with models of the OpenAI interface",
    "OptimizableConstant": "declare a parameter, base + a*arm, and give its values per request",
    "RetroActiveOperator": "base | reject(reward) rejects segments and draws them anew",
    "RunnableOperator": "descant.TableModel, or a term that is a model",
    "Uniform": "it only adds its weight to the sum: base + a*Uniform is temp(base, 1 + a)",
    "enable_logging": 'logging.getLogger("descant")',
}
_SAVED = "write M.formula and M.models into a run file, which descant run reads"
_METHODS = {
    "clear_memory": "del M",
    "forward": "M.decoder.scores(prompt, completion_ids)",
    "generate": "M.generate_text(prompts), or M.decoder.generate(token_ids)",
    "loaded_models": "M.models says what is declared",
    "monitor": "print(M.decoder.plan), or M.decoder.inspect(prompt)",
    "runnable_operators": "M.decoder.plan says which models are read",
    "save_pretrained": _SAVED,
    "set_inputs": "M.decoder.scores(prompt, completion_ids)",
    "set_system_prompt": 'one formula per prompt: base@"You are a child."',
    "to_pretrained": _SAVED,
}


def __getattr__(name: str) -> Any:
    if name in _MISSING:
        raise Untranslatable(f"{name} is not in {__name__}", _MISSING[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ModelArithmetic(Interface):
    """A formula of language-model-arithmetic, and its models, loaded.

    Args:
        formula: made of the operators of this module.
        default_model: of operators that name none.
        dtype: of models whose operators name none.
        tokenizer: in memory, where it is not the first model's own.
        max_length: tokens of the longest prompt; a longer one is refused, not cut.

    Attributes:
        models: what each name in it stands for, as ``descant.compile`` takes it.
        decoder: the descant decoder, for what this class does not do.
        tokenizer: of the models.

    Raises:
        Untranslatable: no formula is that; says what to write instead.
    """

    cures = _METHODS

    def __init__(
        self,
        formula: Operator,
        default_model: Any = None,
        dtype: Any = "bfloat16",
        intermediate_argmax: bool = False,
        epsilon: float = 1e-6,
        retroactive_operators: Sequence[Any] = (),
        calculate_statistics: bool = True,
        needs_input_tokens_lm_eval: bool = False,
        lm_eval_task: str | None = None,
        tokenizer: Any = None,
        max_length: int | None = None,
    ) -> None:
        if intermediate_argmax:
            raise Untranslatable("intermediate_argmax", "leave it out: it is of speculation")
        if retroactive_operators:
            raise Untranslatable("retroactive_operators", _MISSING["HardConstraint"])
        if needs_input_tokens_lm_eval or lm_eval_task is not None:
            raise Untranslatable("lm_eval_task", "leave it out, and evaluate M.decoder")
        from ..api import declared
        from ..runtime import WeightPool

        models = FormulaModels(default_model)
        self.formula = str(formula.meaning(models, False).formula(models))
        self.tokenizer = tokenizer or models.tokenizer()
        self.models = models.specs(dtype, self.tokenizer, tokenizer is not None)
        self._renderings, self._max_length = models.renderings, max_length
        self._specs, self._pool = declared(self.models), WeightPool()
        self._decoders: dict[str, Decoder] = {}
        self.decoder = self._with_stages()

    def generate_text(
        self,
        sentences: str | Sequence[str],
        max_new_tokens: int = 1024,
        stop_texts: Sequence[str] | None = None,
        batch_size: int | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        num_return_sequences: int = 1,
        do_speculation: bool = False,
        use_cache: bool = True,
        **ignored: Any,
    ) -> list[str]:
        """Complete prompts, as language-model-arithmetic's method of this name.

        Noise is seeded from torch's own generator, so that ``torch.manual_seed`` and
        ``transformers.set_seed`` make a script repeatable; its draws are not theirs.

        Args:
            stop_texts: strings at which a text ends; they stay in it.
            batch_size: rows decoded at once.
            temperature: of the divided scores; 0 takes the best token.
            top_p: the fewest tokens whose probabilities, at that temperature, reach this.
            top_k: the most probable tokens; 0 is all.
            num_return_sequences: texts per prompt, next to each other.
            do_speculation, use_cache: without effect: the distribution is the same.
            **ignored: language-model-arithmetic takes any keyword and drops it; here, a warning.

        Returns:
            The texts without their prompts, with ``</s>``, or what the tokenizer has, where one
            ended a text.
        """
        import torch

        if ignored:
            warnings.warn(f"generate_text ignores {', '.join(ignored)}", stacklevel=2)
        prompts = [sentences] if isinstance(sentences, str) else list(sentences)
        self._check(prompts)
        tokenizer = self.tokenizer
        special = set(tokenizer.all_special_tokens) & set(stop_texts or ())
        ends = {tokenizer.convert_tokens_to_ids(token) for token in special}
        stages = []
        if temperature > 0 and (top_k > 0 or top_p < 1):
            stages.append(f"temperature({temperature})")
            stages += [f"top_k({top_k})"] * (top_k > 0) + [f"top_p({top_p})"] * (top_p < 1)
        completions = self._with_stages(*stages).generate(
            prompts,
            max_new_tokens=max_new_tokens,
            temperature=1.0 if stages else temperature,
            seed=torch.randint(2**62, (len(prompts),)).tolist(),
            num_return_sequences=num_return_sequences,
            stop_strings=[text for text in stop_texts or () if text not in special],
            eos_token_id=sorted(ends | {tokenizer.eos_token_id} - {None}),
            batch_size=batch_size or 32,
            progress=False,
        )
        return [self._text(completion.token_ids) for completion in completions]

    def _with_stages(self, *stages: str) -> Decoder:
        """The formula's decoder with stages after it; all decoders share the loaded weights."""
        from ..api import plan_of, where
        from ..runtime import Decoder, bind

        text = " | ".join((self.formula, *stages))
        if text not in self._decoders:
            plan = plan_of(text, self._specs)
            bound = bind(plan, self._specs, *where(None, None), pool=self._pool)
            self._decoders[text] = Decoder(bound, None)
        return self._decoders[text]

    def eval(self) -> None:
        """Without effect: models are always in evaluation mode."""

    @property
    def device(self) -> Any:
        """Where the models are that name no device."""
        import torch

        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> ModelArithmetic:
        """Not here: raises ``Untranslatable``, on the class and on what is made of it."""
        raise Untranslatable(f"{cls.__name__}.from_pretrained is not here", _SAVED)

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        """Not here, as ``forward``."""
        raise Untranslatable("ModelArithmetic(input_ids) is not here", _METHODS["forward"])

    def _check(self, prompts: Sequence[str]) -> None:
        """Refuse prompts that our templates would render in another way than theirs."""
        bos = self.tokenizer.bos_token
        for prompt in prompts:
            for operator, shown in self._renderings:
                text = operator.prompt_template(operator.system_prompt, prompt)
                if text != shown.text(prompt):
                    problem = f"a prompt_template changes the prompt {prompt[:40]!r}"
                    cure = "it may only insert the two texts; change the prompt before"
                    raise Untranslatable(problem, cure)
                if bos and not shown.opening and prompt.startswith(bos):
                    problem = "language-model-arithmetic reads after a BOS of its own"
                    cure = "leave it out: every text begins with one"
                    raise Untranslatable(f"the prompt begins with {bos}, which {problem}", cure)
            if self._max_length is None:
                continue
            for view in self.decoder.rendered(prompt):
                if (length := len(view.tokens or ())) > self._max_length:
                    problem = f"{view.term} reads {length} tokens of the prompt, and max_length is "
                    cure = "language-model-arithmetic would cut off its end; shorten it"
                    raise ArgumentError(f"{problem}{self._max_length}: {cure}")

    def _text(self, ids: Sequence[int]) -> str:
        """With special tokens, and with the space that a first word may begin with."""
        text: str = self.tokenizer.decode([self.tokenizer.eos_token_id, *ids])
        return text[len(self.tokenizer.eos_token) :]
