"""One process of several: trains what each of some train files says.

torchrun --nproc-per-node 2 training_process.py TRAIN.json …
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from descant.train import read_train_file
from descant.train.loop import train

if __name__ == "__main__":
    for file in sys.argv[1:]:
        train(read_train_file(json.loads(Path(file).read_text())["method"], file))
