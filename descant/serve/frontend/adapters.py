"""Adapters and vectors that are loaded while the server runs, and unloaded again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DescantError
from ...inputs.runfile import RunFile
from ...models import ModelSpec, make_spec
from ..protocol import errors
from ..protocol.messages import AddModel, RemoveModel
from .formulas import FormulaCache
from .worker_link import WorkerLink

CONFIG = "adapter_config.json"  # of peft; what has none is a vector


class AddedAdapters:
    """The adapters and vectors that clients have loaded.

    Args:
        formulas: of the server, which they join.
        link: to the decode process.
        folders: below which they lie; empty where none may be loaded.
    """

    def __init__(
        self, formulas: FormulaCache, link: WorkerLink, folders: Sequence[str]
    ) -> None:  # fmt: skip
        self._formulas, self._link = formulas, link
        self._folders = [Path(folder).resolve() for folder in folders]
        self._added: set[str] = set()
        self._turn = asyncio.Lock()

    async def load(self, name: str, path: str, base: str | None) -> None:
        """Load one, and serve it as a model of its name.

        Raises:
            ApiError: nobody may, there is none, it does not fit, or its name is taken.
        """
        self._check_allowed()
        run = self._formulas.run
        if name in run.named or name in run.models:
            message = f"there is a model {name} already; unload it first, or take another name"
            raise errors.invalid_value(message, "lora_name")
        spec = await asyncio.to_thread(self._spec, path, self._base(run, base))
        async with self._turn:
            try:
                changed = run_with(self._formulas.run, {name: spec}, {name: name})
                changed.names()
                await self._link.call(AddModel(name, spec))
            except DescantError as error:
                raise errors.invalid_value(error, "lora_name") from None
            self._formulas.run = changed
            try:
                await self._formulas.compile(name)
            except DescantError as error:
                await self._remove(name)
                raise errors.invalid_value(error, "lora_path") from None
            self._added.add(name)

    async def unload(self, name: str) -> None:
        """Unload one that was loaded here.

        Raises:
            ApiError: nobody may, there is none, or requests that need it have not ended.
        """
        self._check_allowed()
        async with self._turn:
            if name not in self._added:
                message = f"no adapter {name} has been loaded while the server ran"
                raise errors.ApiError(404, message, "lora_name", "model_not_found")
            if not self._formulas.forget_model(name):
                message = f"requests that need {name} have not ended; try again when they have"
                raise errors.ApiError(409, message, "lora_name", "in_use", {"retry-after": "1"})
            await self._remove(name)
            self._added.discard(name)

    async def _remove(self, name: str) -> None:
        self._formulas.run = run_without(self._formulas.run, name)
        await self._link.call(RemoveModel(name))

    def _check_allowed(self) -> None:
        if not self._folders:
            message = "no adapters are loaded here; the server's owner may allow a folder of them"
            raise errors.ApiError(403, message, None, "not_allowed")

    def _base(self, run: RunFile, base: str | None) -> str:
        known = [name for name, spec in run.models.items() if spec.on is None]
        if base is None and len(known) == 1:
            return known[0]
        if base not in known:
            what = "say which it is on" if base is None else f"there is no {base[:100]!r}"
            message = f"{what}: base_model_name is one of {', '.join(known)}"
            raise errors.invalid_value(message, "base_model_name")
        return base

    def _spec(self, path: str, base: str) -> ModelSpec:
        """The spec of what lies there, which may be nowhere else."""
        for folder in self._folders:
            found = (folder / path).resolve()
            if found.is_relative_to(folder) and found != folder and found.exists():
                kind = "adapter" if (found / CONFIG).is_file() else "vector"
                return make_spec("lora_path", {kind: str(found), "on": base})
        raise errors.invalid_value("nothing is there that may be loaded", "lora_path")


def run_with(run: RunFile, models: Mapping[str, Any], formulas: Mapping[str, str]) -> RunFile:
    """A run file with more models and formulas."""
    return run.model_copy(
        update={
            "models": {**run.models, **models}, "formulas": {**run.named, **formulas},
            "formula": "",
        }
    )  # fmt: skip


def run_without(run: RunFile, name: str) -> RunFile:
    """A run file without a model and the formula of its name."""
    models, formulas = ({k: v for k, v in part.items() if k != name} for part in
                        (run.models, run.named))  # fmt: skip
    return run.model_copy(update={"models": models, "formulas": formulas})
