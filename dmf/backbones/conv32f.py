"""Conv32F, the backbone of MAML's published results: Conv64F with half the channels."""

from __future__ import annotations

from typing import ClassVar

from dmf.backbones.conv64f import Conv64F


class Conv32F(Conv64F):
    """Four 3x3 convolutions of 32 channels with 2x2 pooling; with the last pooling, 84x84 images become 32x5x5."""

    width: ClassVar[int] = 32
