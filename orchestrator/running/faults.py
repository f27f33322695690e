"""Classifies a trial's error: a fault of the machine is worth a retry; one of configuration, data or code is not."""

from __future__ import annotations

import errno
import re
import traceback
from typing import Literal

from dmf.machine.trouble import PASSING
from dmf.records.records import Failure

Kind = Literal["error", "machine", "memory", "disk", "stage"]
NO_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
"""Errors of a disk that takes no more files, for this training or any other: it is full, or read-only."""
OF_THE_MACHINE = PASSING | {errno.ENOLCK}
NUMBER = re.compile(r"\(os error (\d+)\)")
"""Finds the number in the text of safetensors' errors, which have no `errno`."""
NO_MEMORY = re.compile(r"DefaultCPUAllocator: (can't allocate|not enough) memory")
OF_A_GPU = re.compile(r"CUDA error|CUDA driver|cuDNN error: CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|NCCL error")


def kind_of(error: BaseException) -> Kind:
    """The kind of an error, or of its cause if that says more."""
    return next((kind for each in _chain(error) if (kind := _own_kind(each)) != "error"), "error")


def failure_of(error: BaseException) -> Failure:
    """An error in the form that a record keeps."""
    return Failure(reason=one_line(error), kind=kind_of(error), traceback="".join(traceback.format_exception(error)))


def one_line(error: BaseException) -> str:
    """An exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _own_kind(error: BaseException) -> Kind:
    # Compared by name, because the driver does not import torch and safetensors.
    number = _number(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or number == errno.ENOMEM:
        return "memory"
    if isinstance(error, RuntimeError) and NO_MEMORY.search(str(error)):
        return "memory"
    if type(error).__name__ == "DamagedStage":
        return "stage"
    if number in NO_WRITING:
        return "disk"
    if number in OF_THE_MACHINE or type(error).__name__ in ("TakenOver", "DamagedImages"):
        return "machine"
    if isinstance(error, RuntimeError) and OF_A_GPU.search(str(error)):
        return "machine"
    return "error"


def _number(error: BaseException) -> int | None:
    """The operating system's number for an error; None if it has none."""
    if isinstance(error, OSError):
        return error.errno
    found = NUMBER.search(str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(found[1]) if found else None
