"""Which computations use bfloat16 or TF32.

Convolutions and products with learnt weights do, if asked to. Scores, distances and filters are computed from their
results in float32, so that the ranking of classes does not depend on eight bits.

PyTorch's convolutions of float32 tensors use TF32 on a GPU unless told otherwise, and its settings belong to the whole
process. `pinned` sets them all, so that "fp32" is IEEE float32 whatever the defaults are and whatever else the process
has asked for.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, backends

from dmf.machine.device import has_tf32

CONVOLUTIONS = {"fp32": "ieee", "tf32": "tf32", "bf16": "tf32"}
"""Precision of a training -> that of cuDNN's operations on float32 tensors. In bf16 these are the convolutions whose
results stay in float32, such as offsets; TF32 has the three bits more, and bfloat16 inputs are exact in it."""
_CUDNN: Any = backends.cudnn  # its types lack what it sets at run time
_MKLDNN: Any = backends.mkldnn
PRODUCTS = (backends.cuda.matmul, _MKLDNN.matmul, _MKLDNN.conv, _MKLDNN.rnn)
"""Settings that are always IEEE: matrix products of float32 tensors, and everything on a CPU."""
OF_CUDNN = (_CUDNN.conv, _CUDNN.rnn)


@contextlib.contextmanager
def autocast(device: torch.device, precision: str) -> Iterator[None]:
    """A context in which convolutions and matrix products on `device` use `precision`, "fp32", "tf32" or "bf16".

    A backward pass outside it needs `pinned`, too.
    """
    with pinned(precision), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        yield


def uncached(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context, inside `autocast` or not, in which weights can change: autocast otherwise keeps its copies of them."""
    kind = device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    return torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False)


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which products keep the type of their operands, even inside `autocast`."""
    return torch.autocast(device.type, enabled=False)


def wide(tensor: Tensor) -> Tensor:
    """`tensor`, converted to float32 if its type is narrower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def check_precision(device: torch.device, precision: str) -> None:
    """Raise ValueError if `device` has no `precision`, so that no record says "tf32" of what ran in float32."""
    if precision == "tf32" and not has_tf32(device):
        raise ValueError(
            f"training.precision='tf32' needs an NVIDIA GPU of the Ampere generation or later, but the device is "
            f"{device.type!r}; use fp32, bf16 or auto"
        )


class _Pins:
    """The process's settings of precision, and the threads that rely on them.

    The first thread sets them and the last one puts them back. A thread that needs others waits until nobody relies on
    the present ones.
    """

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.threads: list[int] = []
        self.present = ""
        self.before: dict[Any, str] = {}
        self.products_before, self.sums_before = "", True

    def take(self, convolutions: str) -> None:
        me = threading.get_ident()
        with self.free:
            assert self.present in ("", convolutions) or me not in self.threads, "one thread asks for two precisions"
            self.free.wait_for(lambda: self.present in ("", convolutions))
            if not self.threads:
                self._set(convolutions)
            self.threads.append(me)

    def leave(self) -> None:
        with self.free:
            self.threads.remove(threading.get_ident())
            if not self.threads:
                self._put_back()
                self.free.notify_all()

    def _set(self, convolutions: str) -> None:
        # PyTorch keeps older settings beside these and refuses to read them where the two disagree, hence both.
        self.before = {place: place.fp32_precision for place in (*OF_CUDNN, *PRODUCTS)}
        self.products_before = torch.get_float32_matmul_precision()
        self.sums_before = backends.cuda.matmul.allow_bf16_reduced_precision_reduction
        torch.set_float32_matmul_precision("highest")
        backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        backends.cudnn.allow_tf32 = convolutions == "tf32"
        for place in OF_CUDNN:
            place.fp32_precision = convolutions
        for place in PRODUCTS:
            place.fp32_precision = "ieee"
        self.present = convolutions

    def _put_back(self) -> None:
        torch.set_float32_matmul_precision(self.products_before)
        backends.cuda.matmul.allow_bf16_reduced_precision_reduction = self.sums_before
        backends.cudnn.allow_tf32 = self.before[_CUDNN.conv] == "tf32"
        for place, precision in self.before.items():
            place.fp32_precision = precision
        self.present = ""


_pins = _Pins()


@contextlib.contextmanager
def pinned(precision: str) -> Iterator[None]:
    """A context in which this process computes with float32 tensors as `precision` says, on all its threads.

    Matrix products are IEEE float32, and so are convolutions in "fp32"; in "tf32" and "bf16", a GPU's convolutions of
    float32 tensors multiply in TF32. Sums of bfloat16 products are float32.
    """
    _pins.take(CONVOLUTIONS[precision])
    try:
        yield
    finally:
        _pins.leave()
