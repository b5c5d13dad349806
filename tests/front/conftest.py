"""The demo models as specs, two operators, and a language that is as it was after each test."""

import pytest
from arithmetic import chatty, plainly

from descant.compat.model_arithmetic import PromptedLLM
from descant.demo import models
from descant.formula import STAGES
from descant.formula.names import SCALAR_FUNCTIONS


@pytest.fixture(scope="session")
def demo_models():
    return models()


@pytest.fixture(autouse=True)
def forget():
    """Forget the stages and functions that a test registers."""
    before = [(known, set(known)) for known in (STAGES, SCALAR_FUNCTIONS)]
    yield
    for known, names in before:
        for name in set(known) - names:
            del known[name]


@pytest.fixture(scope="module")
def two(zoo):
    """``base`` in a template under a system prompt, and ``arm`` on the prompt as it is."""
    return (
        PromptedLLM("Be brief.", model=zoo.path("base"), prompt_template=chatty, model_name="M"),
        PromptedLLM("Not used", model=zoo.path("arm"), prompt_template=plainly, model_name="N"),
    )
