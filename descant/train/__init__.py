"""Training the models of a formula: arms, experts, reward models, steering vectors, probes.

A train file becomes a folder that a formula loads. The losses and the data are ours; everything
else (devices, precision, schedules, checkpoints, loggers) is transformers' Trainer and accelerate.
What is learnt from hidden states (``states``) needs no Trainer. Nothing here decodes, and importing
this module loads neither torch nor transformers.
"""

from .command import read_train_file
from .states.recipe import ProbeFile, VectorFile
from .trainfile import Data, Lora, TrainFile, TrainFileError

__all__ = [
    "Data", "Lora", "ProbeFile", "TrainFile", "TrainFileError", "VectorFile", "read_train_file",
]  # fmt: skip
