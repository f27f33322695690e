"""Methods whose classifier is a sum over the support: R2D2 and the heads of MetaOptNet."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses


class DualMethod(FewShotMethod):
    """Logits are scale * sum_i alpha_ic <z_i, z_q>, with z the flattened feature map and a learnt scale.

    The duals alpha solve a convex problem that sees the support only through the kernel <z_i, z_j>, so its size is the
    number of support images, whatever the number of features. Gradients pass through the solution. The loss is the
    cross-entropy with `smoothing` spread over the other classes: 1 - smoothing on the class and smoothing / (N - 1) on
    each other one.
    """

    def __init__(self, backbone: nn.Module, initial_scale: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__()
        self.backbone = backbone
        self.scale = nn.Parameter(torch.tensor(initial_scale))
        self.smoothing = smoothing

    @abstractmethod
    def duals(self, kernel: Tensor, targets: Tensor) -> Tensor:
        """Kernels of the support [B, n, n] and one-hot targets [n, N] -> duals [B, n, N]; image i has class i // K."""

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        ways, shots = support.shape[1:3]
        images, queries = wide(support).flatten(3).flatten(1, 2), wide(query).flatten(2)  # [B, n, D], [B, Q, D]
        targets = torch.eye(ways, dtype=images.dtype, device=images.device).repeat_interleave(shots, 0)
        with full_precision(query.device):
            duals = self.duals(images @ images.mT, targets)
            return self.scale * (queries @ images.mT @ duals)

    def losses_of_maps(self, maps: Episode) -> Losses:
        logits = self.score(maps.support, maps.query).flatten(0, 1)
        ways = logits.shape[-1]  # PyTorch's smoothing also gives the class its share: all N get smoothing / N
        loss = F.cross_entropy(logits, maps.targets.flatten(), label_smoothing=self.smoothing * ways / (ways - 1))
        return Losses(loss, {"few_shot": loss})


def ridge_duals(kernel: Tensor, targets: Tensor, ridge: Tensor | float) -> Tensor:
    """(K + ridge I)^-1 Y: kernels [B, n, n] and targets [n, N] -> [B, n, N]."""
    identity = torch.eye(len(targets), dtype=kernel.dtype, device=kernel.device)
    duals: Tensor = torch.linalg.solve(kernel + ridge * identity, targets.expand(len(kernel), -1, -1))
    return duals
