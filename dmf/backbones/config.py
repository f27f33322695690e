"""Settings of backbones."""

from __future__ import annotations

from typing import Literal

from dmf.values import Count, Fraction, Value

CHANNELS = {"resnet12": 640, "conv64f": 64}
"""Channels of each backbone's feature maps."""
OF_RESNET12 = ("drop_rate", "drop_block_size", "drop_block_ramp", "drop_block_counts_validation")


class BackboneConfig(Value):
    """The backbone and its settings."""

    backbone: Literal["resnet12", "conv64f"] = "resnet12"
    last_pooling: bool = False
    """Whether to pool after the fourth block (Table 2b)."""
    drop_rate: Fraction = 0.1
    """Rate of dropout after blocks 1-2 and of DropBlock after blocks 3-4 of ResNet-12."""
    drop_block_size: Count = 5
    """Side of DropBlock's blocks, in positions of a feature map; on a smaller map, a block is the whole map."""
    drop_block_ramp: Count = 40_000
    """Number of forward passes until DropBlock reaches `drop_rate`."""
    drop_block_counts_validation: bool = True
    """Whether the ramp also counts validation (released), one forward pass for every `episodes_per_step` episodes."""

    @property
    def channels(self) -> int:
        """Channels of the backbone's feature maps."""
        return CHANNELS[self.backbone]

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect in this configuration, each with the setting that is the reason."""
        return dict.fromkeys(OF_RESNET12, "backbone=conv64f") if self.backbone == "conv64f" else {}
