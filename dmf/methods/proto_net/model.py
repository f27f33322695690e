"""Prototypical networks (Snell et al., NeurIPS 2017)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.proto_net.config import ProtoNetConfig


class ProtoNet(FewShotMethod):
    """Logits are -scale * mean((query - class mean)^2), over the flattened feature map.

    A sum of hundreds of squared differences would saturate the softmax; the mean and a learnt scale prevent that, as in
    MetaOptNet's implementation.
    """

    def __init__(self, backbone: nn.Module, initial_scale: float = 10.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.log_scale = nn.Parameter(torch.tensor(initial_scale).log())

    @classmethod
    def build(cls, backbone: nn.Module, config: ProtoNetConfig, base_classes: int) -> Self:
        """Build the method on `backbone`; `config` and `base_classes` are not used."""
        return cls(backbone)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes, queries = wide(support).mean(2).flatten(2), wide(query).flatten(2)  # [B, N, D], [B, Q, D]
        # |q - p|^2 = |q|^2 - 2 qp + |p|^2, where |q|^2 is the same for all classes and cancels in the softmax.
        with full_precision(query.device):
            distances = prototypes.square().sum(-1)[:, None] - 2 * queries @ prototypes.transpose(1, 2)
        return -self.log_scale.exp() * distances / queries.shape[-1]

    def losses_of_maps(self, maps: Episode) -> Losses:
        logits = self.score(maps.support, maps.query)
        loss = F.cross_entropy(logits.flatten(0, 1), maps.targets.flatten())
        return Losses(loss, {"few_shot": loss})
