"""The machine that a run happens on: its device, its threads, its memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import platform
import re
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from dmf.machine.processor import cpu_name, cpuinfo

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameters of glibc's mallopt (malloc.h)."""
PEAK_RESET, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
"""proc(5): writing 5 to the first brings VmHWM in the second down to what is resident."""


def set_up(threads: int) -> None:
    """Compute with `threads` CPU threads in this process, and keep its freed memory."""
    torch.set_num_threads(threads)
    _keep_freed_memory()


@functools.cache
def _keep_freed_memory() -> None:
    """Have malloc keep what a training step frees for the next one.

    glibc gives blocks of megabytes, as feature maps are, back to the kernel at every free and gets them anew, page by
    page and zeroed, at the next step: half of the CPU time of a Conv64F step at 64 px. The process then stays as large
    as it once was.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            if not libc.mallopt(parameter, value):
                raise OSError(f"mallopt({parameter}, {value}) was refused")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices itself."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(re.findall(r"\w+", cpuinfo())))


def reset_peak(device: torch.device) -> None:
    """Have `peak_bytes` count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PEAK_RESET.exists():
        PEAK_RESET.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """The most memory since `reset_peak`: what PyTorch had allocated of a GPU, else what this process had (resident).

    Where the system can not set its mark back (Linux can), since the process began.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    mark = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE) if STATUS.exists() else None
    if mark:
        return int(mark[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_of(wanted: str) -> torch.device:
    """The device that `training.device` asks for. Raises ValueError when it is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device='cuda', but PyTorch sees no GPU here; take 'auto' or 'cpu'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What a record calls it: the GPU's or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()


class _NoDraws(TorchFunctionMode):
    """Skips random initialisation, which on tensors without memory costs seconds and changes nothing."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Within it, models are built without memory for their weights: enough to count them and their operations."""
    with torch.device("meta"), _NoDraws():
        yield
