"""Checkpoints as safetensors files: tensors plus JSON, so that reading one runs no code."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dmf.files import replacing

STATE = "dmf"


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the plain `state`, whole or not at all."""
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as aside:
        save_file(contiguous, aside, metadata={STATE: json.dumps(state)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write_checkpoint` wrote, on the CPU. Raises ValueError for anything else."""
    with _opened(path) as file:
        state = _state(path, file)
        return {name: file.get_tensor(name) for name in file.keys()}, state


def read_state(path: Path) -> dict[str, Any]:
    """The plain state of a checkpoint alone, however large its tensors. Raises ValueError for anything else."""
    with _opened(path) as file:
        return _state(path, file)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable checkpoint ({error}); delete it to start this training anew") from None


def _state(path: Path, file: Any) -> dict[str, Any]:
    state = (file.metadata() or {}).get(STATE)
    if state is None:
        raise ValueError(f"{path} is a safetensors file but no checkpoint of dmf: it has no {STATE!r} metadata")
    return json.loads(state)


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under `prefix` + name."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with `prefix`, which is cut off."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
