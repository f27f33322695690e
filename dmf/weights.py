"""Weights that a backbone starts from, from a file (`model.weights`): one of ours, a released one, or a state dict.

Read without running code: safetensors, or PyTorch's own format with tensors and numbers only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dmf.backbones import build_backbone
from dmf.backbones.drop_block import reset_forwards
from dmf.backbones.elsewhere import Naming, namings
from dmf.config import ExperimentConfig
from dmf.machine.files import sha256_of
from dmf.machine.paths import expanded
from dmf.methods.config import EmbeddingMethodConfig
from dmf.records.checkpoints import STATE, check_shapes, read_checkpoint, under
from dmf.records.foreign import read_foreign
from dmf.values import shown

COUNTERS = ("num_batches_tracked", "drop.forwards")
"""Last names of buffers that count forward passes; files of others may lack them."""
DEEPEST = 3
"""How deep a checkpoint may nest its state dict."""
NAMES_TOLD = 3


def start_from(backbone: nn.Module, path: str | None, sha256: str | None) -> None:
    """Load a file's weights into `backbone`, whose count of forward passes starts at 0.

    Raises ValueError if the file is not here, or has another SHA-256 than `sha256`, or lacks weights of the backbone.
    """
    if path is None:
        raise ValueError(f"the training starts from weights (SHA-256 {sha256}), but model.weights names no file")
    if (found := sha256_of(path, "model.weights")) != sha256:
        raise ValueError(
            f"model.weights={path!r} has the SHA-256 {found} here, but the training was planned with {sha256}"
        )
    wanted = backbone.state_dict()
    backbone.load_state_dict({**wanted, **backbone_weights(path, wanted)})
    reset_forwards(backbone)


def check_weights(config: ExperimentConfig) -> None:
    """Raise ValueError if the file that `config` starts from does not fit its backbone, or is not on this machine."""
    path, sha256 = config.weights
    if sha256 is None:
        return
    if path is None:
        raise ValueError(f"model.weights_sha256={sha256!r} is set, but model.weights names no file")
    assert isinstance(config.model, EmbeddingMethodConfig)
    with torch.device("meta"):
        wanted = build_backbone(config.model, config.data.channels).state_dict()
    backbone_weights(path, wanted)


def backbone_weights(path: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file that have the names and shapes of `wanted`, a backbone's state dict.

    Names may have a common prefix, such as `module.backbone.`. Counters may be missing. Raises ValueError, or Damaged
    for one of our checkpoints, if the file has no such weights, or has them twice.
    """
    where = f"model.weights={path!r}"
    needed = [name for name in wanted if not name.endswith(COUNTERS)]
    found: dict[str, dict[str, Tensor]] = {}
    held: list[str] = []
    for state in _state_dicts(_content(Path(expanded(path, "model.weights"))), DEEPEST):
        held += state
        for naming in namings(tuple(wanted)):
            first = naming.names[needed[0]]
            for prefix in _prefixes(state, first):
                if all(prefix + naming.names[name] in state for name in needed):
                    found[prefix + first] = _chosen(state, naming, prefix, where)
    if not found:
        some = ", ".join(map(shown, held[:NAMES_TOLD])) + (", ..." if len(held) > NAMES_TOLD else "")
        raise ValueError(
            f"{where} does not have the backbone's {len(needed)} tensors, such as {needed[0]}; it holds "
            f"{f'{len(held)} tensors, {some}' if held else 'no tensors'}"
        )
    if len(found) > 1:
        raise ValueError(f"{where} has the backbone's weights more than once ({', '.join(found)}); keep one of them")
    (weights,) = found.values()
    check_shapes({name: wanted[name] for name in weights}, weights, where)
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise ValueError(f"{where}: {len(broken)} tensors hold NaN or infinity, first {broken[0]}; use another file")
    return weights


def _chosen(state: Mapping[str, Tensor], naming: Naming, prefix: str, where: str) -> dict[str, Tensor]:
    """The tensors of a state dict under our names; running means take in the biases that our convolutions lack."""
    chosen = {name: state[prefix + there] for name, there in naming.names.items() if prefix + there in state}
    for mean, there in naming.biases.items():
        bias = state.get(prefix + there)
        if bias is None:
            continue
        if bias.shape != chosen[mean].shape:
            got, expected = tuple(bias.shape), tuple(chosen[mean].shape)
            raise ValueError(f"{where}: {prefix}{there} has the shape {got}, expected {expected}; use another file")
        chosen[mean] = chosen[mean] - bias
    return chosen


def _content(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"there is no file at {path}")
    if path.suffix != ".safetensors":
        return read_foreign(path)
    try:
        with safe_open(path, framework="pt") as file:
            if STATE not in (file.metadata() or {}):
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from None
    return under("model.", read_checkpoint(path)[0])  # checks the sum of what this program wrote


def _state_dicts(content: Mapping[Any, Any], deep: int) -> Iterator[dict[str, Tensor]]:
    """Every dict of tensors in a checkpoint."""
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield tensors
    if deep:
        for value in content.values():
            if isinstance(value, Mapping):
                yield from _state_dicts(value, deep - 1)


def _prefixes(state: Mapping[str, Tensor], name: str) -> list[str]:
    """What names of `state` have before `name`."""
    return [each.removesuffix(name) for each in state if each == name or each.endswith(f".{name}")]
