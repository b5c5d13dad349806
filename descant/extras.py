"""Optional packages: which extra installs each, and what is missing where one is needed."""

from __future__ import annotations

from importlib.util import find_spec

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
    "track": "descant export: Weights & Biases, MLflow",
    "trackio": "descant export --to trackio",
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
    "track": ("wandb", "mlflow"),
    "trackio": ("trackio",),
    "eval": ("lm_eval", "openai", "sentence_transformers"),
}


class MissingExtra(DescantError, ImportError, ValueError):
    """A package that a plain install does not have; all ``packages`` are modules of one extra."""

    def __init__(self, purpose: str, *packages: str) -> None:
        extra = next(extra for extra, modules in PACKAGES.items() if packages[0] in modules)
        names = " and ".join(name.replace("_", "-").replace(".", "-") for name in packages)
        super().__init__(f'{purpose} needs {names}: pip install "descant[{extra}]"')


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
