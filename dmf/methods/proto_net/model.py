"""Prototypical networks (Snell et al., NeurIPS 2017)."""

from __future__ import annotations

from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.proto_net.config import ProtoNetConfig


class ProtoNet(FewShotMethod):
    """Logits are -scale * mean((query - class mean)^2), over the flattened feature map.

    A sum of hundreds of squared differences saturates the softmax; the mean and a learnt scale prevent that, as in
    MetaOptNet's implementation. The paper and LibFewShot have the sum, -|query - class mean|^2, without a scale: that
    is `distance` "sum".
    """

    log_scale: nn.Parameter | None

    def __init__(
        self, backbone: nn.Module, distance: Literal["mean", "sum"] = "mean", initial_scale: float = 10.0
    ) -> None:
        """`initial_scale` is that of the mean; the sum has none."""
        super().__init__()
        self.backbone = backbone
        self.log_scale = nn.Parameter(torch.tensor(initial_scale).log()) if distance == "mean" else None

    @classmethod
    def build(cls, backbone: nn.Module, config: ProtoNetConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, config.distance)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes, queries = wide(support).mean(2).flatten(2), wide(query).flatten(2)  # [B, N, D], [B, Q, D]
        # |q - p|^2 = |q|^2 - 2 qp + |p|^2 cancels if the features are far from 0, so the episode's mean becomes 0.
        centre = prototypes.mean(1, keepdim=True)
        prototypes, queries = prototypes - centre, queries - centre
        with full_precision(query.device):
            products = queries @ prototypes.transpose(1, 2)
        distances = queries.square().sum(-1)[:, :, None] - 2 * products + prototypes.square().sum(-1)[:, None]
        return -distances if self.log_scale is None else -self.log_scale.exp() * distances / queries.shape[-1]

    def losses_of_maps(self, maps: Episode) -> Losses:
        logits = self.score(maps.support, maps.query)
        loss = F.cross_entropy(logits.flatten(0, 1), maps.targets.flatten())
        return Losses(loss, {"few_shot": loss})
