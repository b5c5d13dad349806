"""A rehearsal: decoding on GPUs that are not there, and what each step would have given them.

Tensors are fake: shapes, types and a device, but no numbers and no memory, so that a model of 70B
costs nothing. What a step launches, reads, writes, copies and waits for is written down.

    with Rehearsal() as gpu:
        models = {"m": gpu.language_model("llama-2-7b"), "a": gpu.lora("m")}
        decoder = gpu.compile("m + 0.5*a", models)
        *_, step = gpu.steps(decoder, lengths=[256] * 8, count=3)
    assert len(step.d2h) == 1 and not step.h2d and not step.waits

In the order in which they are best read:

    account     what a step did
    costs       what an operation reads and writes
    calls       what Python asks of a driver
    device      operations on fake tensors, as they happen
    memory      what is held
    graphs      CUDA graphs, played
    models      shapes, adapters and reward models
    patches     where descant meets the hardware; nothing else here knows its insides
    rehearsal   all of it together
    formulas    of every class of methods, for the tests

What is not known: numbers (a token that is drawn is 0, a question is answered yes), time (it is
computed from bytes, arithmetic and launches), and which kernel a library picks: an operation of
torch counts as one launch, although a few, such as ``topk`` and ``sort``, are several.
"""

from .account import Launch, Step
from .device import Unaccounted
from .graphs import Forbidden
from .rehearsal import Rehearsal

__all__ = ["Forbidden", "Launch", "Rehearsal", "Step", "Unaccounted"]
