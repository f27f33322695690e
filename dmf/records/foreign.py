"""Reads checkpoints of other codes, files of PyTorch's own kind, without running pickled code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

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

ADMITTED = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter"),
}
"""What a pickle may call: it makes tensors and dicts."""


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


def read_with_objects(path: Path) -> Mapping[str, Any]:
    """The dict in a file that `torch.save` wrote, in which objects of any class stand beside tensors and dicts.

    No code of theirs runs: inert stand-ins take their place. Raises ValueError if the file is not such a dict.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint at {path}")
    try:
        with warnings.catch_warnings():  # PyTorch finds that the classes' source has changed: they are stand-ins
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_InertPickle)
    except Exception as error:  # hostile or damaged bytes can fail anywhere in the unpickler
        raise ValueError(f"{path} is not a checkpoint: {type(error).__name__}: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(content).__name__}, expected a dict")
    return content


def _reason(error: Exception) -> str:
    """What is wrong with a checkpoint, without PyTorch's advice to load it unsafely."""
    told = str(error).rpartition("WeightsUnpickler error: ")[2].strip() or type(error).__name__
    return told.splitlines()[0].split(". ")[0]


class _Inert:
    """Stands for an object of any other class: it takes what a pickle gives it, and does nothing."""

    dump_patches = False

    def __new__(cls, *_: Any, **__: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        """Take any arguments."""

    def __setstate__(self, state: Any) -> None:
        """Take any state."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Take any item."""

    def append(self, value: Any) -> None:
        """Take any item."""

    def extend(self, values: Any) -> None:
        """Take any items."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ADMITTED or (module == "torch" and re.fullmatch(r"[A-Z]\w*Storage", name)):
            return super().find_class(module, name)
        return _Inert


class _InertPickle:
    """The part of the module `pickle` that `torch.load` uses."""

    Unpickler = _Unpickler

    @staticmethod
    def load(file: IO[bytes], **options: Any) -> Any:
        """As `pickle.load`."""
        return _Unpickler(file, **options).load()
