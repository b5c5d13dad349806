"""The decoder: a formula bound to its models, and the verbs a user calls on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from typing import Any, Unpack

from torch import Tensor

from ..errors import ArgumentError
from ..formula.request_fields import NO_FIELDS, Group, fields_of
from ..models import Prompt, ids_of, prompt_of
from ..models.cache_config import CacheConfig
from ..models.text.chat import RawTextLog
from .binding.bound import Bound, with_fields
from .binding.draft import DraftBinder, drafting
from .engine.engine import Engine
from .explain.inspection import Inspection, inspecting
from .explain.plan_report import Report
from .explain.prompt_view import PromptView, prompt_views
from .fit.with_fit import ByRewards, WithFit
from .hf.custom_generate import generate_with
from .loops.decode import decode
from .loops.loglikelihood import Likelihood, likelihoods
from .loops.teacher_forcing import scores_along
from .per_prompt.with_gates import WithGates
from .requests.build import RequestBuilder, refuse_search
from .requests.completions import check_completion, pair_completions
from .requests.hints import SamplerFields
from .requests.per_row import at_least_one, draft_of
from .requests.request import ADAPTIVE, RAW, Completion, Request, check_ids
from .session import Session
from .with_declared_models import Asynchronous, WithDeclaredModels


class Decoder(WithFit, WithGates, WithDeclaredModels):
    """A compiled formula. Made by ``descant.compile``.

    Attributes:
        plan: what each step does and costs; ``print(decoder.plan)``.
        tokenizer: of the formula's models, or None.
        max_length: tokens of the longest text that every model can read, or None.
    """

    def __init__(
        self,
        bound: Bound,
        params: Mapping[str, float] | None = None,
        capture: bool = True,
        raw_text: RawTextLog | None = None,
        graph_pool: Any = None,
        cache: CacheConfig | None = None,
        draft_binder: DraftBinder | None = None,
        make_asynchronous: Callable[[Decoder], Asynchronous] | None = None,
        by_rewards: ByRewards | None = None,
    ) -> None:
        self._params, self._bound = dict(params or {}), bound
        self._make_asynchronous, self._asynchronous = make_asynchronous, None
        self._by_rewards = by_rewards
        self._raw_text, self._draft_binder = raw_text or RawTextLog(), draft_binder
        self._builder = RequestBuilder(bound, self._params, self._raw_text)
        engine = Engine(bound, capture, graph_pool, cache)
        self.session = Session(bound, engine, self._builder, partial(decode, engine))
        self._sessions: dict[Any, Session] = {(None, NO_FIELDS): self.session}
        self.plan = Report(bound, self._params, engine.stats, engine.graphs, engine.cache)
        self.tokenizer, self.max_length = bound.tokenizer, bound.positions

    @wraps(generate_with)  # model.generate(…, custom_generate=decoder) looks at its signature
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """``generate``; or, called by a model's ``generate``, its decoding loop."""
        by_model = "model" in kwargs or (args and hasattr(args[0], "generation_config"))
        return generate_with(self, *args, **kwargs) if by_model else self.generate(*args, **kwargs)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        *,
        max_new_tokens: int = 128,
        temperature: float | Sequence[float] | None = None,
        do_sample: bool | None = None,
        seed: int | Sequence[int] | None = None,
        params: Mapping[str, float | Sequence[float]] | None = None,
        num_return_sequences: int = 1,
        stop_strings: str | Sequence[str] | None = None,
        eos_token_id: int | Sequence[int] | None = None,
        logprobs: bool = False,
        top_logprobs: int = 0,
        logprobs_mode: str = RAW,
        draft: str | None = None,
        draft_length: int | str = ADAPTIVE,
        sample_components: bool = False,
        return_particles: bool = False,
        top_k: int | Sequence[int] | None = None,
        top_p: float | Sequence[float] | None = None,
        min_p: float | Sequence[float] | None = None,
        repetition_penalty: float | Sequence[float] | None = None,
        presence_penalty: float | Sequence[float] | None = None,
        frequency_penalty: float | Sequence[float] | None = None,
        logit_bias: Mapping[int, float] | Sequence[Mapping[int, float] | None] | None = None,
        min_tokens: int | Sequence[int] | None = None,
        ignore_eos: bool | Sequence[bool] = False,
        stop_token_ids: Sequence[int] | Sequence[Sequence[int]] | None = None,
        include_stop_str_in_output: bool | Sequence[bool] = False,
        skip_special_tokens: bool | Sequence[bool] = True,
        structured_outputs: Any = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
        **others: Unpack[SamplerFields],
    ) -> list[Completion]:
        """Complete one prompt or many.

        Args:
            prompts: text, chat messages or token ids, or a list of them.
            max_new_tokens: tokens after which a row ends.
            temperature: 0 takes the best token; above 0 draws from softmax(scores / temperature);
                one for all or one per prompt.
                Left out, it is 0, or 1 where ``do_sample`` is true or the formula searches.
            do_sample: as in transformers: false takes the best token, true draws.
            seed: of the noise, one for all or one per prompt; a row's tokens depend on its own
                seed and on nothing else. Left out, it is different every time.
            params: values for the formula's parameters: a number, or a list with one per prompt.
                One prompt is repeated for every value of a list.
            num_return_sequences: draws per prompt, next to each other in the answer.
            stop_strings: text at which a row ends; not part of the answer. It may have the names
                of special tokens in it.
            eos_token_id: ids that end a row, instead of the models' own.
            logprobs: say with each completion how likely each of its tokens was under the formula
                with its own stages, as ``loglikelihood`` does; not for a formula that searches.
            top_logprobs: and how likely so many of the best tokens were in its place.
            logprobs_mode: ``"raw_logprobs"``, as above; ``"processed_logprobs"``: in what was drawn
                from, with the request's temperature, where at temperature 0 all are 0.
            draft: who proposes tokens, for the formula to verify several at once: any formula over
                the declared models; ``"prompt"``: the tokens that followed the same last ones
                before; ``"auto"``: whichever pays, or none. The answer is the same without.
            draft_length: tokens that are proposed at once, at most; or ``"adaptive"``: per request,
                by how many of them were drawn so far.
            sample_components: for a formula that is one ``mix``, at temperature 1, which it is then
                if left out: each row and step draws one component by its weight, and only what
                that needs is run. The same distribution, other tokens than without.
            return_particles: give with each completion all ``particles`` of its request, for a
                formula that ends in ``particles``.
            top_k, top_p, min_p: as in transformers, after the formula's own stages and the
                temperature. Each field from here to ``skip_special_tokens`` is one for all, or a
                list with one per prompt; none is a part of ``raw_logprobs``.
            repetition_penalty, presence_penalty, frequency_penalty, logit_bias: as in transformers
                and vLLM, before the formula's own stages; a bias is ``{token id: number}``.
            min_tokens: no row ends before it has so many tokens.
            ignore_eos: no end of text ends a row.
            stop_token_ids: ids that end a row besides those of ``eos_token_id``, which is
                ``"stop"`` then; not part of the text.
            include_stop_str_in_output: what stopped a row is part of its text.
            skip_special_tokens: false has special tokens in the text.
            structured_outputs: what the answer is, as vLLM has it: ``{"json": schema}``,
                ``{"regex": "…"}``, ``{"choice": ["…"]}``, ``{"grammar": "…"}`` or
                ``{"json_object": True}``; one for all, or a list with one per prompt and None for
                none. It masks tokens before the formula's own stages.
            chat_template_kwargs: variables of the models' chat templates,
                ``{"enable_thinking": False}``; one that no template reads is an error.
            tools: functions that chat templates tell the models of, as transformers has them.
            add_generation_prompt, continue_final_message: as in transformers. Left out, an
                assistant's last message goes on, and any other is answered.
            batch_size: rows decoded at once.
            progress: a progress bar; left out, only on a terminal and for more than one row.
            others: the fields of a request that are in ``SamplerFields``.

        Returns:
            One completion per row, in the order of the prompts.

        Raises:
            FormulaError: a parameter or number out of bounds; NaN during a step.
            ModelError: a prompt that some model cannot read, or that is too long.
            ValueError: arguments that do not fit together.
        """
        completed = self.as_completed(
            prompts, max_new_tokens=max_new_tokens, temperature=temperature, do_sample=do_sample,
            seed=seed, params=params, num_return_sequences=num_return_sequences, logprobs=logprobs,
            top_logprobs=top_logprobs, logprobs_mode=logprobs_mode,
            sample_components=sample_components, return_particles=return_particles,
            top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty, frequency_penalty=frequency_penalty,
            logit_bias=logit_bias, min_tokens=min_tokens, ignore_eos=ignore_eos,
            stop_token_ids=stop_token_ids, include_stop_str_in_output=include_stop_str_in_output,
            skip_special_tokens=skip_special_tokens,
            structured_outputs=structured_outputs, stop_strings=stop_strings,
            chat_template_kwargs=chat_template_kwargs, tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            eos_token_id=eos_token_id, draft=draft, draft_length=draft_length,
            batch_size=batch_size, progress=progress, **others,
        )  # fmt: skip
        return [completion for _, completion in sorted(completed, key=lambda pair: pair[0])]

    def as_completed(
        self, prompts: Prompt | Sequence[Prompt], **arguments: Any
    ) -> Iterator[tuple[int, Completion]]:
        """Complete prompts, yielding each row's number and completion as soon as it has ended.

        The arguments are those of ``generate``.
        """
        batch_size, progress = arguments.pop("batch_size", 32), arguments.pop("progress", None)
        at_least_one("batch_size", batch_size)
        session, requests = self._requests(prompts, arguments)
        return session.completed(requests, batch_size, progress)

    def stream(self, prompt: Prompt, **arguments: Any) -> Iterator[Any]:
        """Complete one prompt, yielding text as it comes; the arguments are those of ``generate``.

        Yields:
            Pieces of text that add up to the completion's; token ids where there is no tokenizer.
        """
        arguments.pop("progress", None)
        refuse_search(self._bound, "stream", "its answer is known when the search has ended")
        session, request = self._request("stream", prompt, arguments)
        return session.pieces(request)

    async def astream(self, prompt: Prompt, **arguments: Any) -> AsyncIterator[Any]:
        """``stream`` for coroutines: those of all calls that run are decoded together.

        Whoever leaves the loop, or is cancelled, lets the row go before the next step. What is
        decoded so has caches of its own.
        """
        arguments.pop("progress", None)
        async for piece in self._coroutines("astream").astream(prompt, **arguments):
            yield piece

    async def agenerate(
        self, prompts: Prompt | Sequence[Prompt], **arguments: Any
    ) -> list[Completion]:
        """``generate`` for coroutines, as ``astream``; ``batch_size`` is the decoder's own."""
        others = {k: v for k, v in arguments.items() if k not in ("batch_size", "progress")}
        return await self._coroutines("agenerate").agenerate(prompts, **others)

    def _requests(
        self, prompts: Any, arguments: Mapping[str, Any]
    ) -> tuple[Session, list[Request]]:
        """The requests of a call, and what decodes them."""
        others = {k: v for k, v in arguments.items() if k not in ("draft", "draft_length")}
        draft = draft_of(arguments.get("draft"), arguments.get("draft_length"))
        fields = fields_of(others, self._bound.plan.searches_at_random)
        session = self.session_of(None if draft is None else draft.source, fields)
        return session, session.builder.requests(prompts, draft=draft, **others)

    def _request(
        self, verb: str, prompt: Prompt, arguments: Mapping[str, Any]
    ) -> tuple[Session, Request]:
        """The request of a verb that takes one row, and what decodes it."""
        session, requests = self._requests(prompt, arguments)
        if len(requests) != 1:
            raise ArgumentError(f"{verb} takes one prompt, and this is {len(requests)} rows")
        return session, requests[0]

    @property
    def lanes(self) -> list[Any]:
        """The lanes of the formula, and of what has drafted for it."""
        sessions = self._sessions.values()
        return list({id(lane): lane for each in sessions for lane in each.bound.lanes}.values())

    def session_of(self, draft: str | None, fields: Group = NO_FIELDS) -> Session:
        """What decodes with drafts of a source and fields of requests, over the same lanes.

        Raises:
            FormulaError, ModelError, ArgumentError: there can be no such draft.
        """
        key = draft, Group(*fields)
        if key not in self._sessions:
            bound = with_fields(self._bound, fields)
            if draft is not None:
                bound = drafting(bound, draft, self._draft_binder)
            engine = self.session.engine.over(bound)
            if draft is not None:
                engine.starts_drafting()
            builder = RequestBuilder(bound, self._params, self._raw_text)
            self._sessions[key] = Session(bound, engine, builder, partial(decode, engine))
        return self._sessions[key]

    def scores(
        self,
        prompt: Prompt,
        completion_ids: Sequence[int],
        *,
        params: Mapping[str, float] | None = None,
    ) -> Tensor:
        """The formula's scores along a given completion, without drawing anything.

        Args:
            prompt: text, chat messages or token ids.
            completion_ids: the tokens that follow it.
            params: values for the formula's parameters.

        Returns:
            ``(len(completion_ids) + 1, V)`` float32 in natural logarithms, masked tokens minus
            infinity: row i scores the token after the first i.
        """
        refuse_search(self._bound, "scores", "a search gives texts, and no scores of a token")
        if isinstance(completion_ids, str):
            raise ArgumentError("completion_ids are token ids; loglikelihood takes text as well")
        [(_, values)] = self._builder.rows(prompt, params)
        ids = ids_of(completion_ids, "completion")
        room = len(ids) + 1
        check_ids(ids, self._bound.vocabulary, "completion")
        request = self._builder.request(0, prompt, values, max_new_tokens=room, strict=True)
        check_completion(self._bound, request, ids, read=len(ids))
        return scores_along(self.session.engine, request, ids)

    def loglikelihood(
        self,
        prompts: Prompt | Sequence[Prompt],
        completions: Sequence[str] | Sequence[Sequence[int]],
        *,
        params: Mapping[str, float | Sequence[float]] | None = None,
        batch_size: int = 32,
        progress: bool | None = None,
    ) -> list[Likelihood]:
        """How likely completions are, in nats, read in batches; not for a formula that searches.

        Args:
            prompts, params, batch_size, progress: as for ``generate``.
            completions: one per prompt, or many of one prompt: token ids, or text that follows the
                prompt's tokens, encoded by itself and without special tokens; a space that it
                begins with is the one that tokenizers of SentencePiece's kind write themselves.
        """
        why = "it chooses among whole texts; generate works"
        refuse_search(self._bound, "loglikelihood", why)
        prompts, token_ids = pair_completions(prompts, completions, params, self._bound.detokenizer)
        rows = self._builder.rows(prompts, params)
        requests = [
            self._builder.request(i, *row, max_new_tokens=max(1, len(ids)), strict=True)
            for i, (row, ids) in enumerate(zip(rows, token_ids, strict=True))
        ]
        results = likelihoods(self.session.engine, requests, token_ids, batch_size, progress)
        self.session.warn()
        return results

    def rendered(self, prompt: Prompt) -> list[PromptView]:
        """What each term and each reward model reads of a prompt, token by token.

        Raises:
            ModelError: a model has no way to read this prompt.
        """
        return prompt_views(self._bound, prompt_of(prompt))

    def inspect(self, prompt: Prompt, **arguments: Any) -> Inspection:
        """Complete one prompt, and say why each token was chosen.

        Arguments and errors are those of ``inspecting``.

        Returns:
            Per token the candidates, and what each part of the formula added to each.
        """
        *_, inspection = self.inspecting(prompt, **arguments)
        return inspection  # type: ignore[return-value]

    def inspecting(
        self,
        prompt: Prompt,
        *,
        n: int = 10,
        base: str | None = None,
        token_ids: Sequence[int] | None = None,
        **arguments: Any,
    ) -> Iterator[Inspection | None]:
        """``inspect``, a step at a time, for those who have other things to do in between.

        Args:
            prompt: what to complete.
            n: candidates per token.
            base: the term that is asked what it alone would have chosen; left out, the first.
            token_ids: the completion, where it is known; with its seed, the noise is its own too.
            **arguments: those of ``generate``, for one row.

        Yields:
            None after each step; the inspection at the end.

        Raises:
            ValueError: no such term, more than one row, or arguments that do not fit together.
        """
        arguments = {k: v for k, v in arguments.items() if k not in ("progress", "batch_size")}
        if arguments.get("sample_components"):
            problem = "inspect says why the whole mixture chooses a token"
            raise ArgumentError(f"{problem}; leave sample_components out")
        ids = None if token_ids is None else ids_of(token_ids, "completion")
        if ids is not None:
            check_ids(ids, self._bound.vocabulary, "completion")
            arguments["max_new_tokens"] = len(ids)
        arguments = {k: v for k, v in arguments.items() if k not in ("draft", "draft_length")}
        session, request = self._request("inspect", prompt, arguments)
        if ids is not None and (room := request.max_new_tokens) < len(ids):
            raise ArgumentError(
                f"the completion has {len(ids)} tokens, and there is room for {room}"
            )
        return inspecting(session, request, base, n, ids)
