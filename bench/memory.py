"""Memory of a long-lived process: many formulas, each of whose requests join and leave.

    python -m bench.memory          1,000 formulas of 200 requests; bench/results/memory.json

One service decodes, with the allocator as it is by default, and forgets the oldest formula when
there are eight. Twice in every tenth formula, while its rows decode and when they have ended, what
the system says is resident is set against what is live: what was resident when the models were
loaded, and since then what the allocator has given out and the caches' pages that were written to.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from descant.api import declared
from descant.bench.measure import about
from descant.runtime import Service

RESULTS = Path(__file__).parent / "results" / "memory.json"
SHAPE = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64, "pad_token_id": 0,
    "max_position_embeddings": 2048,
}  # fmt: skip
KINDS = (
    "base + {w}*arm",
    "base - {w}*small + {w}*arm",
    "mix({w}: base, 1: arm)",
    "where(step < {k}, base, base + {w}*arm)",
    "base + {w}*arm | rerank(reward, k={k}, w=1)",
    "base + {w}*arm | best_of(reward, n=3)",
)
KEPT = 8  # formulas at a time, as ``descant serve`` has a limit on those
TARGET = 1.3


@dataclass(frozen=True)
class Memory:
    """Bytes of this process, after so many formulas.

    Attributes:
        resident: of all pages that are in memory.
        allocated: given out by the allocator, over all its arenas.
        caches: of caches' pages that were written to.
    """

    formulas: int
    seconds: float
    resident: int
    allocated: int
    caches: int = 0

    def ratio(self, start: Memory) -> float:
        """Resident over live: what there was at the start, and what came since."""
        live = start.resident + self.allocated - start.allocated + self.caches
        return self.resident / live


def resident() -> int:
    """Bytes of this process that are in memory, as the system counts them."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) << 10


def allocated() -> int:
    """Bytes that glibc's allocator has given out and not got back."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    libc.fclose.argtypes = [ctypes.c_void_p]
    libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    with tempfile.NamedTemporaryFile() as file:
        stream = libc.fopen(file.name.encode(), b"w")
        libc.malloc_info(0, stream)
        libc.fclose(stream)
        text = Path(file.name).read_text()
    whole = text[text.rindex("</heap>") :]  # the totals of all arenas come last

    def size(kind: str) -> int:
        return int(re.search(rf'type="{kind}"[^>]*size="(\d+)"', whole)[1])  # type: ignore[index]

    return size("current") - size("fast") - size("rest") + size("mmap")


def soak(formulas: int, requests: int, slots: int, seed: int = 0) -> list[Memory]:
    """So many formulas one after another, each with its requests; the memory on the way."""
    draw, clock = random.Random(seed), time.perf_counter()
    torch.manual_seed(seed)
    models: dict[str, Any] = {
        name: LlamaForCausalLM(LlamaConfig(**SHAPE)).eval() for name in ("base", "arm", "small")
    }
    models["reward"] = LlamaForSequenceClassification(LlamaConfig(**SHAPE, num_labels=1)).eval()
    service = Service(declared(models), slots=slots, max_model_len=1024)
    decoders: list[Any] = []

    def measured(number: int) -> Memory:
        gc.collect()
        lanes = (lane for decoder in decoders for lane in decoder.session.bound.lanes)
        distinct = {id(getattr(lane, "lane", lane)): lane for lane in lanes}
        caches = sum(lane.footprint().cache_bytes for lane in distinct.values())
        return Memory(number, time.perf_counter() - clock, resident(), allocated(), caches)

    found = [measured(0)]
    for number in range(1, formulas + 1):
        formula = draw.choice(KINDS).format(w=round(draw.uniform(0.1, 2), 6), k=draw.randint(2, 40))
        decoders.append(service.decoder(formula))
        for count in range(requests):
            prompt = [draw.randrange(SHAPE["vocab_size"]) for _ in range(draw.randint(1, 40))]
            joined = service.submit(decoders[-1], prompt, max_new_tokens=draw.randint(1, 3))
            while service.waiting > slots:
                service.step()
            if draw.random() < 0.1:
                service.cancel(joined[0])
            if number % 10 == 0 and count == requests // 2:
                found.append(measured(number))
        while service.busy:
            service.step()
        if len(decoders) > KEPT:
            service.forget(decoders.pop(0))
        if number % 10 == 0 or number == formulas:
            found.append(measured(number))
            print(
                f"{number} formulas, {found[-1].seconds:.0f} s: "
                f"{found[-1].resident / 1e6:.0f} MB resident, "
                f"{found[-1].ratio(found[0]):.2f} times what is live",
                flush=True,
            )
    return found


def main() -> None:
    """Measure, print, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--formulas", type=int, default=1000)
    parser.add_argument("--requests", type=int, default=200, help="of each formula")
    parser.add_argument("--slots", type=int, default=16)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    machine = about()
    found = soak(options.formulas, options.requests, options.slots)
    ratios = [memory.ratio(found[0]) for memory in found[1:]]
    content = {
        "formulas": options.formulas, "requests": options.requests, "slots": options.slots,
        "device": "cpu", "dtype": "float32", "shape": SHAPE, **machine,
        "asked_for": TARGET, "worst": max(ratios), "last": ratios[-1],
        "memory": [asdict(memory) for memory in found],
    }  # fmt: skip
    options.output.write_text(json.dumps(content) + "\n")
    print(f"at most {max(ratios):.2f} times what is live; asked for: {TARGET}")


if __name__ == "__main__":
    main()
