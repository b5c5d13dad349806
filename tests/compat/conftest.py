"""Two operators of language-model-arithmetic over the tiny checkpoints."""

import pytest
from model_arithmetic import chatty, plainly

from descant.compat.model_arithmetic import PromptedLLM


@pytest.fixture(scope="module")
def two(zoo):
    """``base`` in a template under a system prompt, and ``arm`` on the prompt as it is."""
    return (
        PromptedLLM("Be brief.", model=zoo.path("base"), prompt_template=chatty, model_name="M"),
        PromptedLLM("Not used", model=zoo.path("arm"), prompt_template=plainly, model_name="N"),
    )
