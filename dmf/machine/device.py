"""The device, threads and memory that a run uses."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
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
"""Writing 5 to the first resets VmHWM in the second to the memory now resident; see proc(5)."""


def set_up(threads: int) -> None:
    """Use `threads` CPU threads in this process, and keep freed memory for reuse."""
    torch.set_num_threads(threads)
    _keep_freed_memory()


@functools.cache
def _keep_freed_memory() -> None:
    """Make malloc keep the memory that a training step frees, for the next step.

    By default, glibc returns blocks of megabytes, such as feature maps, to the kernel at every free, and gets them back
    page by page and zeroed at the next step, which takes half of the CPU time of a Conv64F step at 64 px. In return,
    the process never shrinks.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1)):
            if not libc.mallopt(parameter, value):
                raise OSError(f"mallopt({parameter}, {value}) was refused")


def has_bf16(device: torch.device) -> bool:
    """Whether the device has hardware support for bfloat16 matrix products."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool({"avx512_bf16", "amx_bf16"} & set(re.findall(r"\w+", cpuinfo())))


def has_tf32(device: torch.device) -> bool:
    """Whether the device has TF32: NVIDIA's GPUs since Ampere (compute capability 8.0)."""
    return device.type == "cuda" and torch.version.cuda is not None and torch.cuda.get_device_capability(device)[0] >= 8


def reset_peak(device: torch.device) -> None:
    """Reset the peak that `peak_bytes` reports.

    On a CPU, memory that this process has kept from earlier trainings, and does not use, is returned first.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif PEAK_RESET.exists():
        gc.collect()
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)
        PEAK_RESET.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Peak memory since `reset_peak`: what PyTorch had allocated on a GPU, else this process's resident memory.

    On systems other than Linux, which cannot reset the peak, it counts from the start of the process.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    mark = re.search(r"^VmHWM:\s*(\d+) kB", STATUS.read_text(), re.MULTILINE) if STATUS.exists() else None
    if mark:
        return int(mark[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def device_of(wanted: str) -> torch.device:
    """The device that `training.device` asks for. Raises ValueError if there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("training.device='cuda', but PyTorch sees no GPU here; use 'auto' or 'cpu'")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def staged(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the CPU, pinned unless `device` is one: a copy there with non_blocking=True then waits for nothing.

    Pinning takes long itself, so it belongs to threads that read ahead.
    """
    return tensor if device.type == "cpu" else tensor.pin_memory()


def device_name(device: torch.device) -> str:
    """The model of the GPU or the processor, for records."""
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
