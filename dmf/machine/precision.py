"""What is computed in bfloat16, and what never is.

Convolutions and products with learnt weights are; scores, distances and filters are sums in float32 of what these gave,
so that a method's ranking of classes does not depend on eight bits.
"""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """Within it, convolutions and matrix products on `device` are of the precision "fp32" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()


def full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Within it, inside of `autocast` too, products are of the type of their operands."""
    return torch.autocast(device.type, enabled=False)


def wide(tensor: Tensor) -> Tensor:
    """In float32 where the type is narrower."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
