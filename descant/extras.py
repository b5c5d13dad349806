"""Optional packages: which extra installs each, and the pip command where one is missing.

A leaf like ``errors``: whatever needs an optional package says so with this.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .errors import DescantError

ENABLES = {
    "report": "tables, fronts, figures and pages of sweeps; parquet files and data sets",
    "fit": "decoder.fit, descant fit: parameters from texts, preferences and rewards",
    "train": "descant train: adapters, and data sets of the hub; adapters with merge: true",
    "quantized": "weights quantised while they are read: bitsandbytes, torchao",
    "gguf": "checkpoints that are GGUF files",
    "constrain": "json, regex, grammar and choice: answers that fit",
    "images": "images in prompts",
    "serve": "descant serve: an OpenAI-compatible server",
    "otel": "traces of the server's requests for OpenTelemetry",
    "ray": "run and sweep with --ray: rows over the nodes of a Ray cluster",
    "eval": "descant eval: lm-evaluation-harness; judges behind an API, scores of coherence",
    "docs": "make docs: these pages as a site, with the reference of every public name",
    "dev": "the tests, ruff and mypy",
}
PACKAGES = {  # modules by the extra that installs them
    "report": ("datasets", "matplotlib", "moocore", "pandas", "pyarrow"),
    "fit": ("optuna", "scipy"),
    "train": ("peft",),
    "constrain": ("llguidance",),
    "serve": ("fastapi", "prometheus_client", "uvicorn"),
    "otel": ("opentelemetry.sdk",),
    "ray": ("ray",),
    "eval": ("lm_eval", "openai", "sentence_transformers"),
}
CHECKOUT = Path(__file__).resolve().parents[1] / "pyproject.toml"


class MissingExtra(DescantError, ImportError, ValueError):
    """A package that a plain install does not have; all ``packages`` are modules of one extra."""

    def __init__(self, purpose: str, *packages: str) -> None:
        extra = next(extra for extra, modules in PACKAGES.items() if packages[0] in modules)
        names = " and ".join(name.replace("_", "-").replace(".", "-") for name in packages)
        super().__init__(f"{purpose} needs {names}: {pip_install(extra)}")


def require(purpose: str, *packages: str) -> None:
    """Raise ``MissingExtra`` where a package is not installed."""
    missing = [name for name in packages if not installed(name)]
    if missing:
        raise MissingExtra(purpose, *missing)


def installed(package: str) -> bool:
    """Whether a module can be imported; does not import it, but for the packages that it is in."""
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is in
        return False


@cache
def pip_install(extra: str) -> str:
    """The pip command that adds an extra to this installation, from where it came from.

    A clone, a wheel, a repository and an index each have their own; where what it was installed
    from is gone, the command names the extra's packages.
    """
    if CHECKOUT.is_file():
        return f'pip install -e "{CHECKOUT.parent}[{extra}]"'
    try:
        found = distribution("descant")
    except PackageNotFoundError:  # files on the path, which pip knows nothing of
        return f'pip install "descant[{extra}]"'
    return f"pip install {_requirement(found, extra)}"


def _requirement(found: Distribution, extra: str) -> str:
    """What pip is asked for, by ``direct_url.json``: pip writes it unless an index was asked."""
    source = json.loads(found.read_text("direct_url.json") or "{}")
    url = source.get("url", "")
    if "vcs_info" in source:
        vcs = source["vcs_info"]
        return f'"descant[{extra}] @ {vcs["vcs"]}+{url}@{vcs["commit_id"]}"'
    if not url.startswith("file:"):
        return f'"descant[{extra}] @ {url}"' if url else f'"descant[{extra}]"'
    path = Path(unquote(urlsplit(url).path))
    if path.is_dir():
        return f'"{path}[{extra}]"'
    if path.is_file():
        return f'"descant[{extra}] @ {url}"'
    return " ".join(f'"{requirement}"' for requirement in _packages(found, extra))


def _packages(found: Distribution, extra: str) -> list[str]:
    """The requirements that an installed distribution declares for an extra."""
    from packaging.requirements import Requirement

    every = map(Requirement, found.requires or ())
    return [
        f"{one.name}{one.specifier}"
        for one in every
        if one.marker and one.marker.evaluate({"extra": extra}) and one.name != found.name
    ]
