"""A formula of one model in lm-evaluation-harness, beside the harness' own model of it.

``python -m bench.harness``: the same requests to ``DescantLM`` and to ``HFLM``, in turn, over one
random model in memory. Seconds are of the processors, since others may share a machine; the least
of the runs counts. What they answer is compared as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval import __version__ as harness
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import descant
from descant.bench import shapes
from descant.bench.measure import about
from descant.harness.model import DescantLM

RESULTS = Path(__file__).parent / "results" / "harness.json"
BATCH, RUNS = 8, 3
CLOSE = 2e-3  # of a log-probability of a hundred tokens, between two ways of adding it up


def words(vocabulary: int) -> Any:
    """A tokenizer with a token per word: ``<s>``, ``</s>``, ``<pad>``, ``w3`` and so on."""
    named = ["<s>", "</s>", "<pad>", *(f"w{i}" for i in range(3, vocabulary))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(named)}, "<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


class Requests:
    """Random texts, as tasks ask of them.

    Args:
        vocabulary: words.
    """

    def __init__(self, vocabulary: int) -> None:
        self._generator, self._size = torch.Generator().manual_seed(0), vocabulary

    def text(self, length: int) -> str:
        """So many words."""
        ids = torch.randint(3, self._size, (length,), generator=self._generator)
        return " ".join(f"w{i}" for i in ids.tolist())

    def choices(self, prompts: int, length: int, options: int, new: int) -> list[Any]:
        """Continuations of ``new`` words, ``options`` per prompt."""
        contexts = [self.text(length) for _ in range(prompts)]
        pairs = [(text, f" {self.text(new)}") for text in contexts for _ in range(options)]
        return _instances("loglikelihood", pairs)

    def kinds(self) -> Iterator[tuple[str, str, list[Any]]]:
        """What is asked: a description, the harness' question, and the requests."""
        many = "loglikelihood"
        yield "24 replies of 60 tokens, two per prompt of 20", many, self.choices(12, 20, 2, 60)
        yield (
            "48 continuations of 4 tokens, four per prompt of 320",
            many,
            self.choices(12, 320, 4, 4),
        )
        yield "48 single tokens, four per prompt of 320", many, self.choices(12, 320, 4, 1)
        texts = _instances("loglikelihood_rolling", [(self.text(115),) for _ in range(12)])
        yield "12 whole texts of 115 tokens", "loglikelihood_rolling", texts
        settings = {"until": ["</s>"], "max_gen_toks": 32, "do_sample": False}
        answers = _instances("generate_until", [(self.text(32), dict(settings)) for _ in range(16)])
        yield "16 answers of 32 tokens to prompts of 32", "generate_until", answers


def _instances(kind: str, pairs: list[Any]) -> list[Any]:
    return [Instance(request_type=kind, doc={}, arguments=pair, idx=0) for pair in pairs]


def timed(model: Any, question: str, requests: list[Any]) -> tuple[float, Any]:
    """Seconds of the processors, and what was answered."""
    start = time.process_time()
    answers = getattr(model, question)(requests, disable_tqdm=True)
    return time.process_time() - start, answers


def alike(question: str, mine: list[Any], theirs: list[Any]) -> bool:
    """Whether both models answered the same."""
    if question == "generate_until":  # hf loses the space between a prompt and its answer
        return [text.removeprefix(" ") for text in mine] == theirs
    pairs = zip(mine, theirs, strict=True)
    numbers = [(a, b) if isinstance(a, float) else (a[0], b[0]) for a, b in pairs]
    return all(abs(a - b) <= CLOSE * max(1, abs(b) / 100) for a, b in numbers)


def measure(shape: str) -> list[dict[str, Any]]:
    """Both ways of every kind of request, in turn."""
    model = shapes.language_model(shape, 0, dtype=torch.float32, device="cpu")
    model.generation_config.pad_token_id = 2
    size = shapes.SHAPES[shape][1]["vocab_size"]
    tokenizer = words(size)
    decoder = descant.compile("base", {"base": {"model": model, "tokenizer": tokenizer}})
    ways = {
        "ours": DescantLM(decoder, batch_size=BATCH, max_length=2048),
        "hf": HFLM(model, tokenizer=tokenizer, batch_size=BATCH, max_length=2048),
    }
    results = []
    for what, question, requests in Requests(size).kinds():
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        answers = {}
        for _ in range(RUNS):
            for name, way in ways.items():
                spent, answers[name] = timed(way, question, requests)
                seconds[name].append(round(spent, 4))
        same = alike(question, answers["ours"], answers["hf"])
        results.append({"what": what, **seconds, "same answers": same})
        print(f"{what}: hf {min(seconds['hf']):.2f} s, ours {min(seconds['ours']):.2f} s"
              f"{'' if same else ', and other answers'}", flush=True)  # fmt: skip
    return results


def main() -> None:
    """Measure, print a line per kind of request, and keep every number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="small", choices=sorted(shapes.SHAPES))
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    settings = {"shape": options.shape, "dtype": "float32", "batch_size": BATCH}
    kept = {"about": {**settings, "lm_eval": harness, **about()}, "results": measure(options.shape)}
    options.output.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
