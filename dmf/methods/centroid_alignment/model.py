"""Associative Alignment with centroids (Afrasiyabi et al., ECCV 2020)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision
from dmf.methods.associative import AlignedMethod, AlignmentLoss, AlignmentSettings
from dmf.methods.centroid_alignment.config import CentroidAlignmentConfig


class CentroidAlignment(AlignedMethod):
    """Related base images are drawn to the centroid of the support of their way, and away from the others'.

    The released code has the centroids of the support; a reader of the paper's equation 2 found them to be those of
    the related images (issue 2 of its repository).
    """

    @classmethod
    def build(cls, backbone: nn.Module, config: CentroidAlignmentConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        fit = config.novel_steps, config.novel_learning_rate, config.flattened
        return cls(backbone, cls.head_of(config), *fit, AlignmentSettings.of(config))

    def alignment(self, ways: int, length: int) -> AlignmentLoss:
        return centroid_loss


def centroid_loss(base: Tensor, support: Tensor) -> Tensor:
    """- mean log softmax of - |z - mu_w|^2 for features z of way w in `base` [N, n, D], centroids mu of [N, K, D].

    The gradient flows through both.
    """
    ways, each = base.shape[:2]
    labels = torch.arange(ways, device=base.device).repeat_interleave(each)
    with full_precision(base.device):
        distances = (base.flatten(0, 1)[:, None] - support.mean(1)).square().sum(-1)
    return F.cross_entropy(-distances, labels)
