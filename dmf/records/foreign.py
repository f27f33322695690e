"""Reads checkpoints of other codes, files of PyTorch's own kind, without running pickled code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The released scripts save an accuracy beside the weights, as a NumPy number. `scalar` rebuilds it and runs no
# code. Its module has different names in NumPy 1 and NumPy 2.
_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMBERS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
    np.dtypes.Int64DType,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
]


def read_foreign(path: Path) -> Mapping[str, Any]:
    """The dict in a file that `torch.save` wrote. Raises ValueError if it holds anything but tensors and numbers."""
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    if path.suffix == ".safetensors":
        raise ValueError(f"{path} is a checkpoint of this program, not of the released code; name its folder instead")
    try:
        with torch.serialization.safe_globals(_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many types for a bad file, and nothing else can fail here
        raise ValueError(f"{path} is not a checkpoint of tensors and numbers only: {_reason(error)}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a state dict")
    return content


def _reason(error: Exception) -> str:
    """What is wrong with a checkpoint, without PyTorch's advice to load it unsafely."""
    told = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return told.splitlines()[0].split(". ")[0]
