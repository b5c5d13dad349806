"""The demo models as specs, and a language that is as it was after each test."""

import pytest

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
