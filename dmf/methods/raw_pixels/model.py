"""The floor under every result: nearest class by the cosine of raw pixels, nothing learnt."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod
from dmf.methods.raw_pixels.config import RawPixelsConfig


class RawPixels(FewShotMethod):
    """Cosine between a query's normalised pixels and the mean of a class's."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @classmethod
    def build(cls, backbone: nn.Module, config: RawPixelsConfig, base_classes: int) -> Self:
        """Pixels are the features: `backbone` is the identity."""
        return cls(backbone)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes = F.normalize(wide(support).mean(2).flatten(2), dim=-1)
        with full_precision(query.device):
            return F.normalize(wide(query).flatten(2), dim=-1) @ prototypes.transpose(1, 2)
