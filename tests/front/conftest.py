"""The demo models, as specs."""

import pytest

from descant.demo import models


@pytest.fixture(scope="session")
def demo_models():
    return models()
