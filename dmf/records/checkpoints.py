"""Checkpoints as safetensors files, which hold tensors and JSON, so that reading one runs no code."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from safetensors import SafetensorError, safe_open

from dmf.machine.files import replacing
from dmf.values import Damaged, Value, digest

if TYPE_CHECKING:  # torch is slow to import, and a sweep's driver, which only reads states, does without it
    from torch import Tensor, nn

STATE = "dmf"
"""The name of our metadata: as JSON the state that goes with the tensors, and the checksums of both."""
CHECKSUM, STATE_CHECKSUM = "sha256", "state_sha256"
DELETE = "delete it to start this training anew"
State = TypeVar("State", bound=Value)


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write `tensors` and the plain data `state`, completely or not at all.

    safetensors only encodes the file. Its own writer would leave a file of another name behind when killed, and reports
    a full disk without an error code.
    """
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry: safetensors writes several in any order, and equal checkpoints would differ.
    checksums = {CHECKSUM: checksum(contiguous), STATE_CHECKSUM: digest(state, 64)}
    metadata = {STATE: json.dumps({**checksums, "state": state})}
    with replacing(path) as aside:
        aside.write_bytes(save(contiguous, metadata=metadata))


def checksum(tensors: dict[str, Tensor]) -> str:
    """SHA-256 over the names, types, shapes and values of contiguous CPU tensors, sorted by name."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors, on the CPU, and the state that `write_checkpoint` wrote.

    Raises Damaged if the file cannot be read or a checksum differs, and ValueError for any other file. Files of record
    format 1 have no checksum. Checking takes about 0.6 s per gigabyte (SHA-256, one core).
    """
    with _opened(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
        state, expected = _metadata(path, file)
    if expected and checksum(tensors) != expected:
        raise Damaged(f"{path} is damaged: its tensors are not those that were written; {DELETE}")
    return tensors, state


def weights_checksum(path: Path) -> str:
    """The checksum that is stored in a checkpoint; empty for files of record format 1."""
    with _opened(path, "numpy") as file:
        return _metadata(path, file)[1]


@contextlib.contextmanager
def _opened(path: Path, framework: str) -> Iterator[Any]:
    try:
        with safe_open(path, framework=framework) as file:
            yield file
    except SafetensorError as error:
        raise Damaged(f"{path} is not a readable checkpoint ({error}); {DELETE}") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise Damaged(f"{path} is not a checkpoint of dmf: its {STATE!r} metadata is not JSON ({error})") from None


def read_checkpoint_of(kind: type[State], path: Path) -> tuple[dict[str, Tensor], State]:
    """As `read_checkpoint`, with the state as a `kind`. Raises ValueError if it is not one."""
    tensors, state = read_checkpoint(path)
    return tensors, _as(kind, state, path)


def read_state_of(kind: type[State], path: Path) -> State:
    """Read only the state, as a `kind`, from the first bytes of the file. Raises ValueError if it is not one.

    The state's own checksum is checked, and the tensors are not read.
    """
    with _opened(path, "numpy") as file:
        return _as(kind, _metadata(path, file)[0], path)


def _as(kind: type[State], state: dict[str, Any], path: Path) -> State:
    try:
        return kind.from_dict(state)
    except ValueError as error:
        raise Damaged(f"{path} does not hold what this version of dmf writes there: {error}") from None


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Load `weights` into `model`. Raises ValueError, naming their source `where`, if names or shapes differ."""
    check_shapes(model.state_dict(), weights, where)
    model.load_state_dict(weights)


def check_shapes(wanted: dict[str, Tensor], given: dict[str, Tensor], where: str) -> None:
    """Raise ValueError unless `given` has the names and shapes of `wanted`."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (wanted, given)]
    wrong = sorted(name for name in shapes[0] | shapes[1] if shapes[0].get(name) != shapes[1].get(name))
    if wrong:
        expected, got = (of.get(wrong[0], "nothing") for of in shapes)
        raise ValueError(
            f"{where} holds another model: {len(wrong)} of its tensors differ, first {wrong[0]}: got {got}, expected "
            f"{expected}"
        )


def _metadata(path: Path, file: Any) -> tuple[dict[str, Any], str]:
    """The state and the checksum of the tensors; files of record format 1 have the state alone."""
    text = (file.metadata() or {}).get(STATE)
    if text is None:
        raise ValueError(f"{path} is a safetensors file but not a checkpoint of dmf: it has no {STATE!r} metadata")
    data: dict[str, Any] = json.loads(text)
    if not isinstance(data, dict) or data.keys() - {STATE_CHECKSUM} != {CHECKSUM, "state"}:
        return data, ""
    if data.get(STATE_CHECKSUM) not in (None, digest(data["state"], 64)):
        raise Damaged(f"{path} is damaged: its {STATE!r} metadata is not what was written; {DELETE}")
    return data["state"], data[CHECKSUM]


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with `prefix` added to their names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with `prefix`, which is removed."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
