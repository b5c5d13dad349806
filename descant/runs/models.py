"""The models of a run: loaded once, shared by formulas and scores, and released."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..api import declared, names_of, plan_of, term_parallel_of, where
from ..inputs.expand import Setting
from ..inputs.runfile import RunFile
from ..models import ModelSpec, resolve, with_bases
from ..models.checkpoint.description import Description
from ..models.loading.declared import describe_declared
from ..models.text.chat import RawTextLog
from ..runtime import Decoder, DraftBinder, TermParallel, WeightPool, bind


class Models:
    """The declared models, and the weights in memory.

    ``device`` is that of models that name none where the run file names none either.
    """

    def __init__(self, run: RunFile, device: str | None) -> None:
        self.run = run
        self.dtype, self.device = where(run.dtype, run.device or device)
        self.specs = declared(run.models)
        self.pool = WeightPool()
        self.loaded = self.pool.weights
        self.plans: dict[str, str] = {}  # as printed, by formula
        self.raw_text = RawTextLog()  # of all formulas and scores

    def decoder(self, setting: Setting) -> tuple[Decoder, Callable[[], None]]:
        """A formula's decoder, and a function that releases its adapters."""
        specs = {name: self.specs[name] for name in setting.plan.declared if name in self.specs}
        term_parallel = term_parallel_of(self.run.parallel, self.device)
        decoder, close = self._bound(setting.text, specs, term_parallel)
        for key, model in list(self.loaded.items()):
            if hasattr(model, "parameters") and any(p.is_meta for p in model.parameters()):
                del self.loaded[key]  # another process has the weights; a score may load them here
        self.plans.setdefault(setting.name, str(decoder.plan))
        return decoder, close

    def language_model(self, name: str) -> tuple[Decoder, Callable[[], None]]:
        """The decoder of one declared language model, as ``decoder``; in every process."""
        return self._bound(name, {name: self.specs[name]}, None)

    def _bound(
        self, text: str, specs: Mapping[str, ModelSpec], term_parallel: TermParallel | None
    ) -> tuple[Decoder, Callable[[], None]]:
        known = {**self.specs, **specs}
        specs = with_bases(specs, known)
        plan = plan_of(text, specs, self.run.params, *self.run.texts)
        device = str(term_parallel.device) if term_parallel else self.device
        bound = bind(plan, specs, self.dtype, device, term_parallel=term_parallel, pool=self.pool)

        def close() -> None:
            for lane in decoder.lanes:
                if hasattr(lane, "adapters"):
                    lane.adapters.close()

        run = self.run
        names = names_of(known, run.params, *run.texts)
        decoder = Decoder(
            bound, run.params, run.capture, self.raw_text, cache=run.cache,
            draft_binder=DraftBinder(known, names, self.dtype, device, self.pool),
        )  # fmt: skip
        return decoder, close

    def keep(self, names: Iterable[str]) -> None:
        """Release the weights that none of these models uses."""
        with_weights = (name for name in names if self.specs[name].head is None)
        kept = {self.description(name).weights for name in with_weights}
        for weights in set(self.loaded) - kept:
            del self.loaded[weights]

    def description(self, name: str) -> Description:
        """The description of the checkpoint whose weights a name uses."""
        model = resolve(name, self.specs)
        return describe_declared(model, self.dtype, self.device)


def declared_models(run: RunFile, setting: Setting) -> list[str]:
    """The declared models that a formula reads."""
    return [name for name in setting.plan.declared if name in run.models]
