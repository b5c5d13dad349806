"""Training the models of a formula: arms, experts, reward models.

A train file becomes a folder that a formula loads. The losses and the data are ours; everything
else (devices, precision, schedules, checkpoints, loggers) is transformers' Trainer and accelerate.
Nothing here decodes, and importing this module loads neither torch nor transformers.
"""

from .trainfile import Data, Lora, TrainFile, TrainFileError, read_train_file

__all__ = ["Data", "Lora", "TrainFile", "TrainFileError", "read_train_file"]
