"""Which computations use bfloat16.

Convolutions and products with learnt weights do, if asked to. Scores, distances and filters are computed from their
results in float32, so that the ranking of classes does not depend on eight bits.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """A context in which convolutions and matrix products on `device` use `precision`, "fp32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


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
