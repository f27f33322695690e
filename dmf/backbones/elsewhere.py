"""Names that weights of our backbones have in other codes' checkpoints."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

STAGES = 4
"""Stages of a residual network."""


@dataclass(frozen=True)
class Naming:
    """What a code calls the weights of a backbone."""

    names: dict[str, str]
    """Our name -> theirs."""
    biases: dict[str, str] = field(default_factory=dict)
    """Our name of a normalisation's running mean -> theirs of the bias of the convolution before it, which ours lacks.

    The normalisation takes (x + bias) - mean, so a mean that is less by the bias gives the same. In training, the mean
    of the batch takes the bias out.
    """


def namings(ours: Sequence[str]) -> tuple[Naming, ...]:
    """The namings that are known for a backbone with the names `ours`, our own first."""
    own = Naming({name: name for name in ours})
    if any(name.startswith("blocks.") for name in ours):
        return own, _residual(ours)
    if any(name.startswith("stages.") for name in ours):
        return own, *(Naming({name: each(name) for name in ours}) for each in (_s2m2, _feat, _libfewshot))
    if any(name.startswith("layers.") for name in ours):
        return own, _convolutions(ours)
    return (own,)


def _residual(ours: Sequence[str]) -> Naming:
    """ResNet-12 and ResNet-18 in most codes, with CAN's, the released DMF's and LibFewShot's."""
    numbers = {int(match[1]) for name in ours if (match := re.match(r"blocks\.(\d+)\.", name))}
    per_stage = len(numbers) // STAGES
    stem = {"stem.0.": "conv1.", "stem.1.": "bn1."}

    def theirs(name: str) -> str:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if match is None:
            return _begun(name, stem)
        stage, block = divmod(int(match[1]), per_stage)
        rest = match[2].replace("shortcut.", "downsample.").replace("drop.forwards", "num_batches_tracked")
        return f"layer{stage + 1}.{block}.{rest}"

    return Naming({name: theirs(name) for name in ours})


def _convolutions(ours: Sequence[str]) -> Naming:
    """Conv64F and Conv32F in LibFewShot, whose convolutions have biases."""
    means = [name for name in ours if name.endswith(".running_mean")]
    names: dict[str, str] = {}
    biases: dict[str, str] = {}
    for number, mean in enumerate(means, 1):
        normalisation = int(mean.split(".")[1])
        begin = {f"layers.{normalisation - 1}.": f"layer{number}.0.", f"layers.{normalisation}.": f"layer{number}.1."}
        names |= {name: _begun(name, begin) for name in ours if name.startswith(tuple(begin))}
        biases[mean] = f"layer{number}.0.bias"
    return Naming(names, biases)


def _wide(stage: str, begin: dict[str, str]) -> Callable[[str], str]:
    """WRN-28-10: `stage` is how a block is called, and `begin` how names in it begin."""

    def theirs(name: str) -> str:
        match = re.fullmatch(r"stages\.(\d+)\.(\d+)\.(.+)", name)
        if match is None:
            return _begun(name, {"stem.": "conv1.", "bn.": "bn1."})
        return stage.format(int(match[1]) + 1, match[2]) + _begun(match[3], begin)

    return theirs


_s2m2 = _wide("layer{}.{}.", {"bn1": "BN1", "bn2": "BN2", "conv1": "C1", "conv2": "C2", "shortcut": "convShortcut"})
_feat = _wide("layer{}.{}.", {"shortcut.": "shortcut.0."})
_libfewshot = _wide("block{}.layer.{}.", {"shortcut": "convShortcut"})


def _begun(name: str, begin: dict[str, str]) -> str:
    """A name with another beginning, if it has one of those."""
    return next((there + name.removeprefix(here) for here, there in begin.items() if name.startswith(here)), name)
