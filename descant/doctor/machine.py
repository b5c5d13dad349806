"""The machine as torch sees it: its build, devices, memory, threads and processes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from .findings import MISSING, NOTE, Finding, checked

WHEELS = "https://pytorch.org/get-started/locally"
JOB = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def torch_build() -> Iterator[Finding]:
    """What torch was built for, and whether it fits the driver."""
    import torch

    cuda, hip, driver = torch.version.cuda, getattr(torch.version, "hip", None), _driver()
    built = f"CUDA {cuda}" if cuda else f"ROCm {hip}" if hip else "CPUs"
    message, cure = f"{torch.__version__}, built for {built}", ""
    if driver is not None:
        message += f"; driver {driver['driver']} of {driver['name']}"
    if driver is not None and not (cuda or hip):
        cure = f"there is a GPU: install a CUDA build of torch, as {WHEELS} says"
    elif (cuda or hip) and not torch.cuda.is_available():
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        cure = "torch sees no GPU: "
        if hidden is not None:
            cure += f"CUDA_VISIBLE_DEVICES is {hidden!r}"
        elif driver is None:
            cure += "nvidia-smi finds no driver; on a machine without a GPU all is well"
        else:
            cure += f"update the driver, or install a build for an older CUDA, as {WHEELS} says"
    version = str(torch.__version__)
    yield checked("torch build", message, cure, version=version, cuda=cuda, hip=hip, driver=driver)


def devices() -> Iterator[Finding]:
    """Every device: its name, memory, bfloat16 and copy bandwidth."""
    import torch

    from ..runtime.batch.cost import copy_bandwidth, si_bytes
    from ..runtime.batch.memory import free_bytes

    for number in range(torch.cuda.device_count()):
        device, about = f"cuda:{number}", torch.cuda.get_device_properties(number)
        free, speed = torch.cuda.mem_get_info(number)[0], copy_bandwidth(device)
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        message = (
            f"{about.name}, compute capability {about.major}.{about.minor}; {si_bytes(free)} of "
            f"{si_bytes(about.total_memory)} free; bfloat16 {'yes' if bfloat16 else 'no'}; "
            f"copies at {si_bytes(speed)}/s"
        )
        cure = "" if bfloat16 else 'write dtype="float16"'
        data = {"free": free, "total": about.total_memory, "bfloat16": bfloat16, "bandwidth": speed}
        yield checked(device, message, cure, **data)
    if torch.backends.mps.is_available():
        yield Finding("mps", NOTE, "exists; no test of descant has run on it")
    room, speed = free_bytes(torch.device("cpu")), copy_bandwidth("cpu")
    memory = "" if room is None else f"; {si_bytes(room)} free"
    message = f"{torch.backends.cpu.get_cpu_capability()}{memory}; copies at {si_bytes(speed)}/s"
    yield checked("cpu", message, free=room, bandwidth=speed)


def threads() -> Iterator[Finding]:
    """Threads that torch uses, and cores that this process may use."""
    import torch

    used, cores = torch.get_num_threads(), os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    limit = os.environ.get("OMP_NUM_THREADS")
    message = f"{used} of torch, {cores} core{'' if cores == 1 else 's'} for this process"
    message += f"; OMP_NUM_THREADS is {limit}" if limit else ""
    cure = f"they wait for each other: set OMP_NUM_THREADS={cores}" if used > cores else ""
    yield checked("threads", message, cure, threads=used, cores=cores)


def processes() -> Iterator[Finding]:
    """The backends of torch.distributed, accelerate's configuration, and this process's rank."""
    import torch
    from accelerate.commands.config import default_config_file as config

    job = {name: os.environ[name] for name in JOB if name in os.environ}
    if not torch.distributed.is_available():
        problem = "this torch cannot run several processes"
        yield Finding("processes", MISSING, problem, "", {"job": job})
        return
    names = ("gloo", "nccl")
    backends = [name for name in names if getattr(torch.distributed, f"is_{name}_available")()]
    message = f"torch.distributed has {' and '.join(backends) or 'no backend'}"
    size = job.get("WORLD_SIZE")
    message += f"; this is process {job.get('RANK', '?')} of {size}" if size else "; one process"
    file = f"reads {config}" if Path(str(config)).is_file() else "has no configuration file"
    yield checked("processes", f"{message}; accelerate {file}", backends=backends, job=job)


def _driver() -> dict[str, str] | None:
    """The first GPU and its driver as nvidia-smi reports them; None where it does not answer."""
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
