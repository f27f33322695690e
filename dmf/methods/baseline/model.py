"""Baseline (Chen et al., "A closer look at few-shot classification", ICLR 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from dmf.machine.precision import full_precision
from dmf.methods.base import FewShotMethod, Table
from dmf.methods.baseline.config import BaselineConfig
from dmf.methods.heads import embeddings


class Baseline(FewShotMethod):
    """Fits a linear head to each episode's support embeddings by SGD; the pre-trained backbone is frozen.

    The heads of a batch of episodes are fitted together. With p = softmax(x W + b) and y the one-hot labels of n
    support images, the gradients of the cross-entropy are x^T (p - y) / n and sum (p - y) / n, to which weight decay
    adds lambda W and lambda b. As in PyTorch's SGD, the momentum buffer is the gradient itself in the first step and
    m v + (1 - d) g in later ones, with momentum m and dampening d.

    An embedding is the mean of the feature map over its positions; Baseline's released code flattens Conv4's maps.
    """

    adapts = True
    reads_order = True

    def __init__(
        self,
        backbone: nn.Module,
        passes: int = 100,
        batch: int = 4,
        learning_rate: float = 0.01,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.passes, self.batch, self.learning_rate = passes, batch, learning_rate
        self.momentum, self.dampening, self.weight_decay = momentum, dampening, weight_decay

    @classmethod
    def build(cls, backbone: nn.Module, config: BaselineConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(
            backbone,
            config.fit_passes,
            config.fit_batch,
            config.fit_learning_rate,
            config.fit_momentum,
            config.fit_dampening,
            config.fit_weight_decay,
        )

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """As in `FewShotMethod`; episode b of the batch is fitted with seed b."""
        return self.fit_and_score(embeddings(support), embeddings(query), range(len(support)))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": embeddings(maps)}

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.fit_and_score(images["embeddings"][support], images["embeddings"][query], seeds)

    def fit_and_score(self, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        """Embeddings [B, N, K, C] and [B, Q, C] -> logits [B, Q, N] of a head fitted to each episode's support.

        `seeds` [B] determine each head's initial weights (distributed as in `nn.Linear`) and the order of its images.
        """
        ways, shots, channels = support.shape[1:]
        images, device = ways * shots, support.device
        starts, orders = zip(*(self._drawn(seed, ways, channels, images) for seed in seeds), strict=True)
        weights = torch.stack(starts).to(device, support.dtype)  # [B, C + 1, N], the last row is the bias
        order = torch.stack(orders).to(device)  # [B, passes, images]
        inputs = _with_ones(support.flatten(1, 2))
        targets = torch.eye(ways, device=device, dtype=support.dtype).repeat_interleave(shots, dim=0)
        episodes = torch.arange(len(support), device=device)[:, None]
        velocity: Tensor | None = None
        with full_precision(device):
            for number in range(self.passes):
                for rows in order[:, number].split(self.batch, dim=1):
                    x, y = inputs[episodes, rows], targets[rows]
                    errors = (x @ weights).softmax(-1) - y
                    gradient = x.transpose(1, 2) @ errors / rows.shape[1] + self.weight_decay * weights
                    damped = gradient if velocity is None else (1 - self.dampening) * gradient
                    velocity = damped if velocity is None else self.momentum * velocity + damped
                    weights = weights - self.learning_rate * velocity
            return _with_ones(query) @ weights

    def _drawn(self, seed: int, ways: int, channels: int, images: int) -> tuple[Tensor, Tensor]:
        """A head's initial weights [C + 1, N] and the order of its images in each pass [passes, images]."""
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(channels)
        start = (2 * torch.rand(channels + 1, ways, generator=generator, dtype=torch.float64) - 1) * bound
        return start, torch.stack([torch.randperm(images, generator=generator) for _ in range(self.passes)])


def _with_ones(rows: Tensor) -> Tensor:
    """[..., C] -> [..., C + 1], so that the last row of the weights is the bias."""
    return torch.cat([rows, torch.ones_like(rows[..., :1])], dim=-1)
