"""Imported once, before processes of checks are forked: what takes long to import."""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module

for name in ("transformers.tokenization_utils_tokenizers", "llguidance", "sympy"):
    with suppress(ImportError):
        import_module(name)
import_module("descant.serve.worker.check_process")
import_module("descant.models.text.templates")
