"""A device that refuses to be waited for, on machines without a GPU: PyTorch's "meta", whose tensors have no numbers.

Reading such a tensor is an error by itself. `NoWaiting` adds the copies to the device: they have to come from pinned
memory, be asynchronous, and be asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("meta")
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.scalar_tensor)
COPIES = ("_to_copy", "copy_")


class Waits(Exception):
    """Something that on a GPU makes the CPU wait."""


class OnDevice(Generator):
    """The device's generator. The device cannot draw, so `NoWaiting` leaves it out of all calls."""

    device = DEVICE  # type: ignore[assignment]


def generator(device: torch.device) -> Generator:
    """In place of `torch.Generator`."""
    return OnDevice() if device == DEVICE else Generator(device)


_autocast = torch.autocast


def autocast(kind: str, *arguments: Any, **more: Any) -> Any:
    """In place of `torch.autocast`, which does not know the device."""
    return _autocast("cpu" if kind == DEVICE.type else kind, *arguments, **more)


class NoWaiting(TorchFunctionMode):
    """Raises `Waits` for copies between the CPU and the device that are not asynchronous or not from pinned memory."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[Tensor] = []
        self.copies = 0
        self._copies = _Copies(self)

    def __enter__(self) -> NoWaiting:
        super().__enter__()
        self._copies.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._copies.__exit__(*error)
        super().__exit__(*error)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.pin_memory:  # needs a GPU
            self.pinned.append(args[0].clone())
            return self.pinned[-1]
        if isinstance(kwargs.get("generator"), OnDevice):
            del kwargs["generator"]
        if func in FROM_NUMBERS and torch.device(kwargs.get("device") or "cpu") == DEVICE:
            raise Waits(f"{func.__name__} copies numbers to the device")
        return func(*args, **kwargs)


class _Copies(TorchDispatchMode):
    """The copies that functions of PyTorch make by themselves, such as those of an index that is on the CPU."""

    def __init__(self, of: NoWaiting) -> None:
        super().__init__()
        self.of = of

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        result = func(*args, **kwargs)
        devices = {leaf.device.type for leaf in [*given, *tree_leaves(result)] if isinstance(leaf, Tensor)}
        if devices == {"cpu", DEVICE.type}:
            on_cpu = [leaf for leaf in given if leaf.device.type == "cpu"]
            if func.__name__.partition(".")[0] in COPIES:
                asynchronous = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
                if not asynchronous or not all(any(leaf is one for one in self.of.pinned) for leaf in on_cpu):
                    raise Waits(f"{func}: a copy of {on_cpu} that the CPU waits for")
                self.of.copies += 1
            elif any(leaf.dim() for leaf in on_cpu):
                # Elsewhere a single number goes to the kernel as an argument.
                raise Waits(f"{func} copies {on_cpu} to the device")
        return result
