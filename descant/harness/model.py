"""A formula as a model of EleutherAI's lm-evaluation-harness, registered there as ``descant``.

The harness has tasks, metrics and tables; this module answers its three kinds of request in
batches. Contexts, windows and cuts are those of its ``hf`` model, so that results are comparable.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, DescantError
from ..extras import MissingExtra
from ..inputs.runfile import read_run_file
from ..models.text.templates import rendered
from ..runs.run import compiled, of_one_formula
from ..runtime.progress import progress_bar
from ..runtime.requests.request import ADAPTIVE

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
Ids = Sequence[list[int]]  # of the tokens of texts
Request = tuple[Any, list[int], list[int]]  # the harness' key, context, continuation
AUTO = 32  # the batch size "auto"
BATCHES = 64  # batches per call; results are cached after each call
LENGTH = 2048  # the maximum where no model has one, as in the harness
UNSET = (None, "cuda:0")  # the device where the harness' command line has no --device
IDLE = {"typical_p": 1, "num_beams": 1}


@register_model("descant")
class DescantLM(TemplateLM):
    """A formula as a model of the harness.

    Args:
        pretrained: a decoder, or the path of a run file.
        formula: which of the run file's formulas, if it has several.
        batch_size: texts at once; ``auto`` is 32.
        max_batch_size: without effect: memory is checked before anything is decoded.
        max_length: tokens of a text; left out, the most that all models can read.
        dtype: of models of the run file that name none, and ``device`` alike.
        capture: the run file's key of that name; left out, the file's. So are
            ``enable_prefix_caching`` and ``gpu_memory_utilization``.
        device: see ``dtype``; ``cuda:0``, the harness' default, counts as left out.
        max_gen_toks: new tokens where a task sets none.
        add_bos_token: as for the ``hf`` model: whether texts begin with special tokens; left out,
            the tokenizer decides.
        prefix_token_id: an empty context; left out, the BOS, or else the EOS.
        templates: whether a context is a prompt that every model reads through its own template,
            with the formula's system prompts, as in ``generate``. Otherwise all models read the
            context unchanged, as the same tokens.
        seed: of the noise, where a task samples.
        draft, draft_length: of generation, as for ``generate``, where a task has no draft of its
            own in its gen_kwargs; no answer depends on it.
        **params: the formula's parameters, for every request.

    Raises:
        RunFileError: no such file; several formulas and none is named, or another one.
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
        capture: bool | None = None,
        enable_prefix_caching: bool | None = None,
        gpu_memory_utilization: float | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool | None = None,
        prefix_token_id: int | None = None,
        templates: bool = False,
        seed: int = 0,
        draft: str | None = None,
        draft_length: int | str = ADAPTIVE,
        **params: float,
    ) -> None:
        super().__init__()
        keys: dict[str, Any] = {
            "capture": capture, "enable_prefix_caching": enable_prefix_caching,
            "gpu_memory_utilization": gpu_memory_utilization,
        }  # fmt: skip
        own = {"formula": formula, "dtype": dtype, **keys}
        if isinstance(pretrained, (str, Path)):
            run = read_run_file(pretrained, **keys)
            run = of_one_formula(run, formula, "formula=… in model_args")
            where = {"dtype": dtype or run.dtype, "device": run.device}
            if device not in UNSET:
                where["device"] = device
            pretrained = compiled(run.model_copy(update=where))
        elif names := [name for name, value in own.items() if value is not None]:
            problem = f"{' and '.join(names)} {'is' if len(names) == 1 else 'are'} for a run file"
            raise ArgumentError(f"{problem}; a decoder has its own")
        self.decoder, self.tokenizer = pretrained, pretrained.tokenizer
        if self.tokenizer is None:
            raise ArgumentError("the harness gives text, and these models have no tokenizer")
        self.params, self.templates, self.seed = params, templates, int(seed)
        self.batch_size = AUTO if str(batch_size).startswith("auto") else int(batch_size or 1)
        self.max_length = max_length or pretrained.max_length or LENGTH
        self.max_gen_toks, self.add_bos_token = max_gen_toks, add_bos_token
        self._prefix = prefix_token_id
        self._drafting: dict[str, Any] = {"draft": draft, "draft_length": draft_length}
        # Fail at once instead of after the first task.
        self.decoder.generate([], params=self.params, **self._drafting)
        if not self.templates:
            try:
                self.decoder.rendered([self.prefix_token_id])
            except DescantError as error:
                raise ArgumentError(f"{error}\nor add templates=True to the model_args") from None

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        if self._prefix is not None:
            return self._prefix
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        name = str(self.tokenizer.name_or_path).replace("/", "__")
        return f"{name}__templates" if self.templates else name

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template for the harness' records; empty where every model has its own."""
        if self.templates:
            return ""
        template: str | None = super().chat_template(chat_template)
        return template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as a context: rendered, or, for models with templates of their own, as JSON."""
        if self.templates:
            return json.dumps(chat_history, ensure_ascii=False)
        from jinja2 import TemplateError

        render = partial(
            rendered, self.tokenizer,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )  # fmt: skip
        try:
            return render(chat_history)
        except TemplateError:
            _log.warning("the chat template refuses the messages; the system message is left out")
            return render([turn for turn in chat_history if turn["role"] != "system"])

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a text that begins with the BOS gets no second one."""
        special = self.add_bos_token if add_special_tokens is None else add_special_tokens
        prefix = self.tokenizer.decode(self.prefix_token_id)
        if add_special_tokens is None and string.startswith(prefix):
            special = False
        options = {} if special is None else {"add_special_tokens": special}
        return [*self.tokenizer.encode(string, **options)]

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        if not self.templates:
            return super().loglikelihood(requests, disable_tqdm)  # type: ignore[no-any-return]
        pairs = [request.args for request in requests]
        return self._likelihoods(
            pairs, [self._prompt(context) for context, _ in pairs],
            [self.tok_encode(text, add_special_tokens=False) for _, text in pairs], disable_tqdm,
        )  # fmt: skip

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-probability of each text, in windows that overlap as little as possible."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1
            )
            windows += [(None, *make_disjoint_window(window)) for window in rolling]
            owners += [number] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        likelihoods = self._loglikelihood_tokens(windows, disable_tqdm)
        for number, (total, _) in zip(owners, likelihoods, strict=True):
            totals[number] += total
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Request], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        cut = [(context + ids)[-(self.max_length + 1) : -len(ids)] for _, context, ids in requests]
        for (key, _, ids), kept in zip(requests, cut, strict=True):
            if not kept or not ids:
                problem = f"a continuation of {len(ids)} tokens leaves no room for a context"
                more = f"or is empty: {str(key)[:80]}; max_length is {self.max_length}"
                raise ArgumentError(f"{problem}, {more}")
        keys, contexts, completions = zip(*requests, strict=True) if requests else ((), (), ())
        if shortened := sum(len(kept) < len(own) for kept, own in zip(cut, contexts, strict=True)):
            _log.warning("%d of %d contexts lost their beginning: max_length is %d",
                         shortened, len(requests), self.max_length)  # fmt: skip
        return self._likelihoods(keys, cut, completions, disable_tqdm)

    def _likelihoods(
        self, keys: Sequence[Any], prompts: Sequence[Any], completions: Ids, disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        order = sorted(range(len(keys)), key=lambda i: -len(prompts[i]) - len(completions[i]))
        answers = [(0.0, False)] * len(keys)
        with progress_bar(len(keys), "text", "loglikelihood requests", not disable_tqdm) as bar:
            for start in range(0, len(order), BATCHES * self.batch_size):
                indices = order[start : start + BATCHES * self.batch_size]
                likelihoods = self.decoder.loglikelihood(
                    [prompts[i] for i in indices], [completions[i] for i in indices],
                    params=self.params, batch_size=self.batch_size, progress=False,
                )  # fmt: skip
                for i, likelihood in zip(indices, likelihoods, strict=True):
                    answers[i] = likelihood.total, likelihood.is_greedy
                    if keys[i] is not None:
                        self.cache_hook.add_partial("loglikelihood", keys[i], answers[i])
                bar.update(len(indices))
        return answers

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        groups: dict[str, list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True), []).append(number)
        answers = [""] * len(requests)
        with progress_bar(len(requests), "row", "generate requests", not disable_tqdm) as bar:
            for numbers in groups.values():
                settings, room = self._settings(requests[numbers[0]].args[1])
                prompts = [self._prompt(requests[i].args[0], room) for i in numbers]
                for row, completion in self.decoder.as_completed(
                    prompts, **settings, seed=[self.seed + i for i in numbers], params=self.params,
                    batch_size=self.batch_size, progress=False,
                ):  # fmt: skip
                    answers[numbers[row]] = completion.text or ""
                    args = requests[numbers[row]].args
                    self.cache_hook.add_partial("generate_until", args, completion.text)
                    bar.update()
        return answers

    def get_model_info(self) -> dict[str, Any]:
        from .. import __version__

        formula = {"formula": self.decoder.plan.formula, "params": self.params}
        return {"descant": __version__, **formula, "max_length": self.max_length}

    def _settings(self, task: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """The decoder's arguments for a task's, and the longest context.

        Raises:
            ValueError: no context would fit. TypeError: an argument that belongs into the formula.
        """
        options = normalize_gen_kwargs(dict(task), self.max_gen_toks)
        samples, new = options.pop("do_sample"), options.pop("max_gen_toks")
        eos = self.tokenizer.decode(self.eot_token_id, skip_special_tokens=False)
        until = handle_stop_sequences(options.pop("until", None), eos)
        temperature = options.pop("temperature", None)
        settings = {"stop_strings": [text for text in until if text], "max_new_tokens": new}
        if samples or not self.decoder.plan.search:
            settings |= {"do_sample": samples, "temperature": temperature}
        for name, value in IDLE.items():
            if name in options and (not samples or options[name] in (value, None)):
                del options[name]  # without effect
        room = self.max_length - new
        if room < 1:
            problem = f"max_gen_toks is {new} and texts have at most {self.max_length} tokens"
            raise ArgumentError(f"{problem}; give a smaller max_gen_toks in gen_kwargs")
        if "draft" not in options:
            options = {**self._drafting, **options}
        return {**settings, **options}, room

    def _prompt(self, context: str, room: int | None = None) -> Any:
        """A context as the decoder takes it: messages, text, or its last tokens."""
        if not context:
            return [self.prefix_token_id]
        if not self.templates:
            return self.tok_encode(context)[-(room or 0) :]
        return json.loads(context) if context.startswith('[{"role"') else context
