"""A formula as a model of EleutherAI's lm-evaluation-harness, registered there as ``descant``.

The harness brings tasks, metrics and tables; here are only its three questions, asked in batches.
Contexts, windows and cuts are those of its own ``hf`` model, so that results can be compared.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import MissingExtra
from ..inputs.runfile import read_run_file
from ..runs.run import compiled, of_one_formula
from ..runtime.progress import progress_bar

try:
    import lm_eval.models  # noqa: F401  it lists the harness's own models, before ours is there
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise MissingExtra("evaluation", "lm_eval") from error

if TYPE_CHECKING:
    from ..runtime import Decoder

__all__ = ["DescantLM"]
_log = logging.getLogger("descant")
Request = tuple[Any, list[int], list[int]]  # what the harness calls it, context, continuation
AUTO = 32  # texts at once, where the harness is told to find a number
BATCHES = 64  # of texts are asked for together; what they said is cached before the next
LENGTH = 2048  # where no model has a limit, as in the harness
UNSAID = (None, "cuda:0")  # the device, where the harness' command line is not told one
IDLE = {"top_k": 0, "top_p": 1, "typical_p": 1, "min_p": 0, "repetition_penalty": 1, "num_beams": 1}


@register_model("descant")
class DescantLM(TemplateLM):
    """A formula that the harness can evaluate.

    Args:
        pretrained: a decoder, or the path of a run file.
        formula: which of the run file's formulas, if it has several.
        batch_size: texts at once; ``auto`` is 32.
        max_batch_size: taken and not needed: memory is checked before anything is read.
        max_length: tokens that a text may have; left out, what all models can read.
        dtype: of models of the run file that name none, and ``device`` alike.
        device: see ``dtype``; ``cuda:0``, which the harness says of itself, is taken for no wish.
        max_gen_toks: new tokens where a task does not say.
        add_bos_token: as for the ``hf`` model: whether texts begin with special tokens; left out,
            what the tokenizer does.
        prefix_token_id: what an empty context is; left out, the BOS, or else the EOS.
        templates: whether a context is a prompt that every model reads through its own template,
            with the formula's system prompts, as in ``generate``. Otherwise all models read the
            context as it stands, in one and the same tokens.
        seed: of the noise, where a task draws.
        **params: the formula's parameters, for every request.

    Raises:
        RunFileError: as ``decoder_of``.
        ValueError: an unknown parameter, models without a tokenizer, prompts that need templates.
    """

    def __init__(
        self,
        pretrained: str | Path | Decoder,
        formula: str | None = None,
        *,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        dtype: str | None = None,
        device: str | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        templates: bool = False,
        seed: int = 0,
        **params: float,
    ) -> None:
        super().__init__()
        if isinstance(pretrained, (str, Path)):
            pretrained = decoder_of(pretrained, formula, dtype, device)
        elif formula is not None or dtype is not None:
            raise ValueError("formula and dtype are for a run file; a decoder has its own")
        self.decoder, self.tokenizer = pretrained, pretrained.tokenizer
        if self.tokenizer is None:
            raise ValueError("the harness gives text, and these models have no tokenizer")
        self.params, self.templates, self.seed = params, templates, int(seed)
        self.batch_size = AUTO if str(batch_size).startswith("auto") else int(batch_size or 1)
        self.max_length = max_length or pretrained.max_length or LENGTH
        self.max_gen_toks, self.add_bos_token = max_gen_toks, add_bos_token
        self._prefix = prefix_token_id
        self._check()

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands where there is no context."""
        if self._prefix is not None:
            return self._prefix
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """Tells caches of requests apart."""
        name = str(self.tokenizer.name_or_path).replace("/", "__")
        return f"{name}__templates" if self.templates else name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template for the harness's records; none of its own where models have theirs."""
        if self.templates:
            return ""
        found: str | None = super().chat_template(chat_template)
        return found

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as a context: rendered, or, for models with templates of their own, as JSON."""
        if self.templates:
            return json.dumps(chat_history, ensure_ascii=False)
        from jinja2 import TemplateError

        def render(messages: Sequence[Mapping[str, str]]) -> str:
            return self.tokenizer.apply_chat_template(  # type: ignore[no-any-return]
                messages, tokenize=False, add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )  # fmt: skip

        try:
            return render(chat_history)
        except TemplateError:
            _log.warning("the chat template refused the messages; they are given without system")
            return render([one for one in chat_history if one["role"] != "system"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a text that begins with the BOS is given no other."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        begins = self.tokenizer.decode(self.prefix_token_id)
        if add_special_tokens is None and string.startswith(begins):
            special = False
        more = {} if special is None else {"add_special_tokens": special}
        return [*self.tokenizer.encode(string, **more)]

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Of each ``(context, continuation)``: its log-probability, and whether it is the best."""
        if not self.templates:
            return super().loglikelihood(requests, disable_tqdm)  # type: ignore[no-any-return]
        asked = [request.args for request in requests]
        return self._likelihoods(
            asked, [self._prompt(context) for context, _ in asked],
            [self.tok_encode(text, add_special_tokens=False) for _, text in asked], disable_tqdm,
        )  # fmt: skip

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each whole text, in windows that overlap no more than they must."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            found = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            windows += [(None, *make_disjoint_window(window)) for window in found]
            owners += [number] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        said = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (total, _) in zip(owners, said, strict=True):
            totals[number] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """The same for token ids; what is too long loses its beginning."""
        cut = [(context + ids)[-(self.max_length + 1) : -len(ids)] for _, context, ids in requests]
        for (key, _, ids), kept in zip(requests, cut, strict=True):
            if not kept or not ids:
                raise ValueError(
                    f"a continuation of {len(ids)} tokens leaves no room for a context, or is "
                    f"empty: {str(key)[:80]}; max_length is {self.max_length}"
                )
        short = sum(len(kept) < len(one[1]) for kept, one in zip(cut, requests, strict=True))
        if short:
            _log.warning("%d of %d contexts lost their beginning: max_length is %d",
                         short, len(requests), self.max_length)  # fmt: skip
        keys, _, completions = zip(*requests, strict=True) if requests else ((), (), ())
        return self._likelihoods(keys, cut, completions, disable_tqdm)

    def _likelihoods(
        self,
        keys: Sequence[Any],
        prompts: Sequence[Any],
        completions: Sequence[list[int]],
        disable_tqdm: bool,
    ) -> list[tuple[float, bool]]:
        lengths = [len(p) + len(ids) for p, ids in zip(prompts, completions, strict=True)]
        order = sorted(range(len(keys)), key=lambda i: -lengths[i])
        answers = [(0.0, False)] * len(keys)
        with progress_bar(len(keys), "text", "loglikelihood requests", not disable_tqdm) as bar:
            for some in _slices(order, BATCHES * self.batch_size):
                said = self.decoder.loglikelihood(
                    [prompts[i] for i in some], [completions[i] for i in some],
                    params=self.params, batch_size=self.batch_size, progress=False,
                )  # fmt: skip
                for i, one in zip(some, said, strict=True):
                    answers[i] = one.total, one.is_greedy
                    if keys[i] is not None:
                        self.cache_hook.add_partial("loglikelihood", keys[i], answers[i])
                bar.update(len(some))
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the formula answers to each ``(context, settings)``."""
        alike: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            alike.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        answers = [""] * len(requests)
        with progress_bar(len(requests), "row", "generate requests", not disable_tqdm) as bar:
            for numbers in alike.values():
                settings, room = self._settings(requests[numbers[0]].args[1])
                prompts = [self._prompt(requests[i].args[0], room) for i in numbers]
                seeds = [self.seed + i for i in numbers]
                for row, made in self.decoder.as_completed(
                    prompts, **settings, seed=seeds, params=self.params,
                    batch_size=self.batch_size, progress=False,
                ):  # fmt: skip
                    answers[numbers[row]] = made.text or ""
                    args = requests[numbers[row]].args
                    self.cache_hook.add_partial("generate_until", args, made.text)
                    bar.update()
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """What the harness writes beside its results."""
        from .. import __version__

        said = {"formula": self.decoder.plan.formula, "params": self.params}
        return {"descant": __version__, **said, "max_length": self.max_length}

    def _settings(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """The decoder's arguments for a task's, and how long its contexts may be.

        Raises:
            ValueError: no context would fit. TypeError: what belongs into the formula.
        """
        said = normalize_gen_kwargs(dict(given), self.max_gen_toks)
        draws, new = said.pop("do_sample"), said.pop("max_gen_toks")
        eos = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(said.pop("until", None), eos)
        temperature = said.pop("temperature", None)
        settings = {"stop_strings": [one for one in until if one], "max_new_tokens": new}
        if draws or not self.decoder.plan.search:
            settings |= {"do_sample": draws, "temperature": temperature}
        for name, value in IDLE.items():
            if name in said and (not draws or said[name] in (value, None)):
                del said[name]  # it would change nothing
        room = self.max_length - new
        if room < 1:
            raise ValueError(
                f"max_gen_toks is {new} and texts have at most {self.max_length} tokens; give a "
                "smaller max_gen_toks in gen_kwargs"
            )
        return {**settings, **said}, room

    def _prompt(self, context: str, room: int | None = None) -> Any:
        """What the decoder is given for a context: messages, text, or the last tokens of it."""
        if not context:
            return [self.prefix_token_id]
        if not self.templates:
            return self.tok_encode(context)[-(room or 0) :]
        return json.loads(context) if context.startswith('[{"role"') else context

    def _check(self) -> None:
        """Find at once what would be found after the first task."""
        self.decoder.generate([], params=self.params)
        if not self.templates:
            try:
                self.decoder.rendered([self.prefix_token_id])
            except ValueError as error:
                raise ValueError(f"{error}\nor add templates=True to the model_args") from None


def _slices(order: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (order[start : start + size] for start in range(0, len(order), size))


def decoder_of(
    file: str | Path, formula: str | None, dtype: str | None, device: str | None
) -> Decoder:
    """The decoder of one of a run file's formulas.

    Raises:
        RunFileError: no such file; several formulas and none is named, or another one.
    """
    run = of_one_formula(read_run_file(file), formula, "formula=… in model_args")
    told = device if device not in UNSAID else None
    return compiled(
        run.model_copy(update={"dtype": dtype or run.dtype, "device": told or run.device})
    )
