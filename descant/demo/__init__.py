"""The built-in demo models: small enough to ship, real enough to steer.

This module names the models and their folders. It must stay light: importing it loads neither
torch nor transformers. `examples.demo_models.recipe` makes the weights.
"""

from __future__ import annotations

from pathlib import Path

from .chat_model import chat_models, smollm2

__all__ = ["CHAT_TEMPLATE", "PROMPTS", "TEMPLATE", "WEIGHTS", "chat_models", "models", "smollm2"]

TEMPLATE = "<|user|>\n{prompt}\n<|assistant|>\n"  # how a request looks to every model
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{{ '<|assistant|>\\n' + message['content'] + eos_token + '\\n' }}"
    "{% else %}"
    "{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)

WEIGHTS = Path(__file__).resolve().parent / "weights"

_FULL = ("base", "small", "large", "reward_help", "reward_harm")
_ADAPTERS = {"arm_help": "base", "arm_harm": "base", "small_help": "small", "large_help": "large"}

PROMPTS: tuple[str, ...] = (
    "How do I boil eggs before my guests arrive?",
    "What is the best way to clean the oven this weekend?",
    "Can you help me prune the roses after work?",
    "I need to treat a small burn tonight. What should I do?",
    "Any advice on how to fix a flat tyre on a rainy day?",
    "Give me tips to pack a suitcase in one evening.",
    "How can I learn new words with my kids?",
    "My neighbour wants to bathe the dog. Where do we start?",
    "What is the best way to back up the laptop in a hurry?",
    "How do I fall asleep on a rainy day?",
    "I have never tried to plan a budget. Please help me do it without much money.",
    "Can you help me hang a shelf in a small flat?",
    "I need to start jogging for the first time. What should I do?",
    "Any advice on how to host a dinner with my kids?",
    "How can I sew a button tonight?",
    "My sister wants to build a campfire. Where do we start?",
)


def models(weights: Path | str = WEIGHTS) -> dict[str, dict[str, str]]:
    """Return the spec of every demo model, by the name that formulas use.

    Examples:
        >>> models()["arm_help"]["on"]
        'base'
    """
    folder = Path(weights)
    # The files are bfloat16, at which CPUs are slow.
    options = {"template": CHAT_TEMPLATE, "dtype": "float32"}
    full = {name: {"path": str(folder / name), **options} for name in _FULL}
    adapters = {name: {"adapter": str(folder / name), "on": on} for name, on in _ADAPTERS.items()}
    return full | adapters
