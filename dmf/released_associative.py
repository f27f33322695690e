"""Reads checkpoints of the released code of Associative Alignment without running pickled code.

They hold the network's state dict beside whole objects (the base classifier and Adam), whose classes are in that code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from dmf.records.foreign import read_with_objects

BLOCKS = 4
PARTS = ("weight", "bias", "running_mean", "running_var")


def load(path: str | Path) -> dict[str, Tensor]:
    """The weights of a released checkpoint's Conv4, under the names of `conv4_relu`.

    Our convolutions have no bias: the released bias b before a normalisation with running mean m is the same function
    as no bias and the mean m - b.

    Raises ValueError if the file is not such a checkpoint.
    """
    content = read_with_objects(Path(path))
    state = content.get("state")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is not a checkpoint of Associative Alignment: it has no state dict called 'state'")
    return folded(state, str(path))


def folded(state: Mapping[str, Tensor], where: str = "the state dict") -> dict[str, Tensor]:
    """The released Conv4's state dict under our names, with the convolutions' biases in the running means.

    Raises ValueError, naming the source `where`, if keys are missing or unknown.
    """
    theirs = {re.sub(r"^(module\.|net\.)*", "", name): value for name, value in state.items()}
    found: dict[str, Tensor] = {}
    missing = []
    for block in range(BLOCKS):
        convolution, norm = (f"nConvBlock.{block}.convBlock.{place}" for place in (0, 1))
        names = [f"{convolution}.weight", f"{convolution}.bias", *(f"{norm}.{part}" for part in PARTS)]
        missing += [name for name in names if name not in theirs]
        if missing:
            continue
        values = [theirs.pop(name) for name in names]
        found[f"layers.{4 * block}.weight"], bias = values[:2]
        found |= {f"layers.{4 * block + 1}.{part}": value for part, value in zip(PARTS, values[2:], strict=True)}
        found[f"layers.{4 * block + 1}.running_mean"] = found[f"layers.{4 * block + 1}.running_mean"] - bias
        counter = theirs.pop(f"{norm}.num_batches_tracked", torch.tensor(0))
        found[f"layers.{4 * block + 1}.num_batches_tracked"] = counter.reshape(())
    if missing or theirs:
        unknown = ", ".join(list(theirs)[:3]) if not missing else "none"
        raise ValueError(f"{where} is no released Conv4: missing keys {missing[:3] or 'none'}, unknown keys {unknown}")
    return found
