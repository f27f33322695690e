"""Settings of backbones."""

from __future__ import annotations

from typing import Literal

from dmf.values import Count, Fraction, Value

CHANNELS = {
    "resnet12": 640,
    "conv64f": 64,
    "conv32f": 32,
    "conv4_relu": 64,
    "resnet12_can": 512,
    "resnet18": 512,
    "resnet18_imagenet": 512,
    "wrn28": 640,
}
"""Channels of each backbone's feature maps."""
OF_RESNET12 = ("drop_rate", "drop_block_size", "drop_block_ramp", "drop_block_counts_validation")
FOUR_POOLINGS = ("conv64f", "conv32f", "conv4_relu")
"""Backbones whose map vanishes for small images."""
SLOPED = ("conv64f", "conv32f")
"""Backbones with `conv_slope`."""
STRIDED = ("resnet12_can", "resnet18", "resnet18_imagenet", "wrn28")
"""Backbones that halve their maps by strides: they have no last pooling."""


class BackboneConfig(Value):
    """The backbone and its settings."""

    backbone: Literal[
        "resnet12", "conv64f", "conv32f", "conv4_relu", "resnet12_can", "resnet18", "resnet18_imagenet", "wrn28"
    ] = "resnet12"
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
    conv_slope: Fraction = 0.1
    """Slope of the LeakyReLUs of Conv64F and Conv32F below 0; 0 is ReLU."""
    wrn_variant: Literal["s2m2", "feat"] = "s2m2"
    """Which of the two WRN-28-10 in use (`dmf.backbones.wrn28`)."""

    @property
    def channels(self) -> int:
        """Channels of the backbone's feature maps."""
        if self.backbone not in CHANNELS:
            raise ValueError(
                f"backbone={self.backbone} has no number of channels; add it to CHANNELS of dmf/backbones/config.py"
            )
        return CHANNELS[self.backbone]

    @property
    def unread(self) -> dict[str, str]:
        """Settings that have no effect in this configuration, each with the setting that is the reason."""
        names = (
            *(OF_RESNET12 if self.backbone != "resnet12" else ()),
            *(("conv_slope",) if self.backbone not in SLOPED else ()),
            *(("last_pooling",) if self.backbone in STRIDED else ()),
            *(("wrn_variant",) if self.backbone != "wrn28" else ()),
        )
        return dict.fromkeys(names, f"backbone={self.backbone}")
