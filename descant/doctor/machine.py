"""The machine as torch sees it: its build, devices, memory, threads, and processes side by side."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .findings import BROKEN, MISSING, NOTE, OK, Finding, looked_at

WHEELS = "https://pytorch.org/get-started/locally"
JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@looked_at("machine", "torch build", BROKEN)
def torch_build() -> Iterator[Finding]:
    """What torch was built for, and whether that goes with the driver."""
    import torch

    cuda, hip, driver = torch.version.cuda, getattr(torch.version, "hip", None), _driver()
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPUs"
    said, cure, state = f"{torch.__version__}, built for {built}", "", OK
    if driver is not None:
        said += f"; driver {driver['driver']} of {driver['name']}"
    if driver is not None and not (cuda or hip):
        state, cure = NOTE, f"there is a GPU: install a CUDA build of torch, as {WHEELS} says"
    elif (cuda or hip) and not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        state, cure = NOTE, "torch sees no GPU: "
        if hidden is not None:
            cure += f"CUDA_VISIBLE_DEVICES is {hidden!r}"
        elif driver is None:
            cure += "nvidia-smi finds no driver; on a machine without a GPU all is well"
        else:
            cure += f"update the driver, or install a build for an older CUDA, as {WHEELS} says"
    data = {"version": str(torch.__version__), "cuda": cuda, "hip": hip, "driver": driver}
    yield Finding("machine", "torch build", state, said, cure, data)


@looked_at("machine", "devices")
def devices() -> Iterator[Finding]:
    """Every device: its name, its memory, bfloat16, and what a copy on it moves a second."""
    import torch

    from ..runtime.batch.cost import copy_bandwidth, si_bytes
    from ..runtime.batch.memory import free_bytes

    for number in range(torch.cuda.device_count()):
        place, about = f"cuda:{number}", torch.cuda.get_device_properties(number)
        free, speed = torch.cuda.mem_get_info(number)[0], copy_bandwidth(place)
        brain = torch.cuda.is_bf16_supported(including_emulation=False)
        said = (
            f"{about.name}, compute capability {about.major}.{about.minor}; {si_bytes(free)} of "
            f"{si_bytes(about.total_memory)} free; bfloat16 {'yes' if brain else 'no'}; copies at "
            f"{si_bytes(speed)}/s"
        )
        cure = "" if brain else 'say dtype="float16"'
        data = {"free": free, "total": about.total_memory, "bfloat16": brain, "bandwidth": speed}
        yield Finding("machine", place, OK if brain else NOTE, said, cure, data)
    if torch.backends.mps.is_available():
        yield Finding("machine", "mps", NOTE, "is there; no test of descant has run on it")
    room, speed = free_bytes(torch.device("cpu")), copy_bandwidth("cpu")
    said = torch.backends.cpu.get_cpu_capability()
    said += "" if room is None else f"; {si_bytes(room)} free"
    said += f"; copies at {si_bytes(speed)}/s"
    yield Finding("machine", "cpu", OK, said, "", {"free": room, "bandwidth": speed})


@looked_at("machine", "threads")
def threads() -> Iterator[Finding]:
    """Threads that torch uses, and cores that this process may use."""
    import torch

    used, cores = torch.get_num_threads(), _cores()
    asked = os.environ.get("OMP_NUM_THREADS")
    said = f"{used} of torch, {cores} core{'' if cores == 1 else 's'} for this process"
    said += f"; OMP_NUM_THREADS is {asked}" if asked else ""
    data = {"threads": used, "cores": cores}
    if used > cores:
        cure = f"they wait for each other: set OMP_NUM_THREADS={cores}"
        yield Finding("machine", "threads", NOTE, said, cure, data)
        return
    yield Finding("machine", "threads", OK, said, "", data)


@looked_at("machine", "processes")
def processes() -> Iterator[Finding]:
    """What torch.distributed and accelerate have here; whether this is one process of several."""
    import torch
    from accelerate.commands.config import default_config_file as config

    job = {name: os.environ[name] for name in JOB if name in os.environ}
    if not torch.distributed.is_available():
        said = "this torch cannot run several processes"
        yield Finding("machine", "processes", MISSING, said, "", {"job": job})
        return
    kinds: dict[str, Any] = {
        "gloo": torch.distributed.is_gloo_available(), "nccl": torch.distributed.is_nccl_available()
    }  # fmt: skip
    here = [name for name, there in kinds.items() if there]
    said = f"torch.distributed has {' and '.join(here) or 'no backend'}"
    size = job.get("WORLD_SIZE")
    said += f"; this is process {job.get('RANK', '?')} of {size}" if size else "; one process"
    kept = Path(str(config)).is_file()
    said += f"; accelerate reads {config}" if kept else "; accelerate has no configuration file"
    yield Finding("machine", "processes", OK, said, "", {"backends": here, "job": job})


def _driver() -> dict[str, str] | None:
    """The first GPU and its driver as nvidia-smi has them; None where it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--query-gpu=name,driver_version", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    name, _, driver = (done.stdout.strip().splitlines() or [""])[0].partition(", ")
    return {"name": name, "driver": driver} if driver else None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
