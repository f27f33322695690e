"""Which backbone, and its settings."""

from __future__ import annotations

from typing import Literal

from dmf.values import Count, Fraction, Value

CHANNELS = {"resnet12": 640, "conv64f": 64}
"""Channels of the feature map that each backbone makes."""
OF_RESNET12 = ("drop_rate", "drop_block_ramp", "drop_block_counts_validation")


class BackboneConfig(Value):
    """From images to feature maps."""

    backbone: Literal["resnet12", "conv64f"] = "resnet12"
    last_pooling: bool = False
    """Pool after the fourth block (Table 2b)."""
    drop_rate: Fraction = 0.1
    """Dropout after blocks 1-2 and DropBlock after blocks 3-4 of ResNet-12."""
    drop_block_ramp: Count = 40_000
    """Forwards until DropBlock drops `drop_rate`."""
    drop_block_counts_validation: bool = True
    """The ramp also counts the forwards of validation, a batch of as many episodes as a training step has being one
    (released); False: those of training only."""

    @property
    def channels(self) -> int:
        """Channels of the backbone's feature map."""
        return CHANNELS[self.backbone]

    @property
    def unread(self) -> dict[str, str]:
        """Fields that this configuration does not read, each with the setting that is the reason."""
        return dict.fromkeys(OF_RESNET12, "backbone=conv64f") if self.backbone == "conv64f" else {}
