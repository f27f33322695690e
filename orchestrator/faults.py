"""What an error of a trial is: of the machine, and then worth another try, or of configuration, data or code."""

from __future__ import annotations

import errno
import re
import traceback
from typing import Literal

from dmf.records import Failure

Kind = Literal["error", "machine", "memory", "disk"]
NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
PASSING = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EREMOTEIO, errno.ENODEV, errno.ECONNRESET}
"""What a file system that others serve answers while it is away."""
OF_A_GPU = re.compile(r"CUDA error|CUDA driver|cuDNN error: CUDNN_STATUS_(EXECUTION_FAILED|INTERNAL_ERROR)|NCCL error")


def kind_of(error: BaseException) -> Kind:
    """The kind of an error, of what caused it where that says more."""
    return next((kind for each in _chain(error) if (kind := _own_kind(each)) != "error"), "error")


def failure_of(error: BaseException) -> Failure:
    """An error as a record keeps it."""
    return Failure(reason=one_line(error), kind=kind_of(error), traceback="".join(traceback.format_exception(error)))


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    at: BaseException | None = error
    while at is not None and at not in found:
        found.append(at)
        at = at.__cause__ or at.__context__
    return found


def _own_kind(error: BaseException) -> Kind:
    # By name: the driver, which reads kinds too, does without torch and safetensors.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "disk"
    if type(error).__name__ == "SafetensorError" and "StorageFull" in str(error):
        return "disk"
    if isinstance(error, OSError) and error.errno in PASSING:
        return "machine"
    if isinstance(error, RuntimeError) and OF_A_GPU.search(str(error)):
        return "machine"
    return "error"
