"""The lower bound for every learnt method: nearest class mean by the cosine of raw pixels."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod
from dmf.methods.raw_pixels.config import RawPixelsConfig


class RawPixels(FewShotMethod):
    """Logits are the cosines between a query's pixels and the mean pixels of a class."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @classmethod
    def build(cls, backbone: nn.Module, config: RawPixelsConfig, base_classes: int) -> Self:
        """Build the method; `backbone` is the identity, so the pixels are the features."""
        return cls(backbone)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes = F.normalize(wide(support).mean(2).flatten(2), dim=-1)
        with full_precision(query.device):
            return F.normalize(wide(query).flatten(2), dim=-1) @ prototypes.transpose(1, 2)
