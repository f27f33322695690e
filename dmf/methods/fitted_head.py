"""Methods that fit a head to each episode's support by SGD: Baseline, Baseline++ and Net-Cosine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision
from dmf.methods.base import FewShotMethod, Table
from dmf.methods.config import FittedHeadConfig
from dmf.methods.heads import embeddings, with_ones


@dataclass(frozen=True)
class Fit:
    """Settings of SGD, without a schedule."""

    passes: int = 100
    """Passes over the support."""
    batch: int = 4
    """Support images per step."""
    learning_rate: float = 0.01
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 1e-3

    @classmethod
    def of(cls, config: FittedHeadConfig) -> Self:
        """The settings in a configuration."""
        return cls(*(getattr(config, f"fit_{field.name}") for field in dataclasses.fields(cls)))


class FittedHead(FewShotMethod):
    """Fits a linear head to each episode's support embeddings by SGD; the pre-trained backbone is frozen.

    The heads of a batch of episodes are fitted together. With logits x W for inputs x, p = softmax(x W) and one-hot
    labels y of n support images, the gradient of the cross-entropy with respect to W is x^T (p - y) / n, to which
    weight decay adds lambda times each parameter. As in PyTorch's SGD, the momentum buffer is the gradient itself in
    the first step and m v + (1 - d) g in later ones, with momentum m and dampening d.

    An embedding is the mean of the feature map over its positions; the released codes flatten Conv4's maps.
    """

    adapts = True
    reads_order = True

    def __init__(self, backbone: nn.Module, sgd: Fit = Fit()) -> None:
        super().__init__()
        self.backbone = backbone
        self.sgd = sgd

    def initial(self, generator: torch.Generator, ways: int, channels: int) -> Tensor:
        """Random parameters [C + 1, N] of one head, float64: weights and bias as in `nn.Linear`."""
        return _uniform(generator, channels + 1, ways, bound=1 / math.sqrt(channels))

    def inputs(self, rows: Tensor) -> Tensor:
        """Embeddings [..., C] -> what the weights multiply, [..., D]."""
        return with_ones(rows)

    def weights(self, parameters: Tensor) -> Tensor:
        """Parameters [B, P, N] -> W [B, D, N]; here the parameters themselves, the last row being the bias."""
        return parameters

    def gradient(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with respect to the parameters, from that with respect to W [B, D, N]."""
        return gradient

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """As in `FewShotMethod`; episode b of the batch is fitted with seed b."""
        return self.fit_and_score(embeddings(support), embeddings(query), range(len(support)))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": embeddings(maps)}

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.fit_and_score(images["embeddings"][support], images["embeddings"][query], seeds)

    def fit_and_score(self, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        """Embeddings [B, N, K, C] and [B, Q, C] -> logits [B, Q, N] of a head fitted to each episode's support.

        `seeds` [B] determine each head's initial parameters and the order of its images.
        """
        starts, orders = zip(*(self.drawn(seed, *support.shape[1:]) for seed in seeds), strict=True)
        start, order = torch.stack(starts).to(support), torch.stack(orders).to(support.device)
        with full_precision(query.device):
            return self.inputs(query) @ self.weights(self.fit(start, support, order))

    def fit(self, parameters: Tensor, support: Tensor, order: Tensor) -> Tensor:
        """Fit heads to embeddings [B, N, K, C]; pass e takes the images in the order `order` [B, e]."""
        ways, shots = support.shape[1:3]
        inputs = self.inputs(support.flatten(1, 2))
        targets = torch.eye(ways, device=support.device, dtype=support.dtype).repeat_interleave(shots, dim=0)
        episodes = torch.arange(len(support), device=support.device)[:, None]
        sgd, velocity = self.sgd, None
        for rows in (rows for images in order.unbind(1) for rows in images.split(sgd.batch, dim=1)):
            x = inputs[episodes, rows]
            errors = (x @ self.weights(parameters)).softmax(-1) - targets[rows]
            gradient = self.gradient(parameters, x.mT @ errors / rows.shape[1]) + sgd.weight_decay * parameters
            velocity = gradient if velocity is None else sgd.momentum * velocity + (1 - sgd.dampening) * gradient
            parameters = parameters - sgd.learning_rate * velocity
        return parameters

    def drawn(self, seed: int, ways: int, shots: int, channels: int) -> tuple[Tensor, Tensor]:
        """A head's initial parameters [P, N], and the order of its images in each pass [passes, N * K]."""
        generator = torch.Generator().manual_seed(seed)
        start = self.initial(generator, ways, channels)
        return start, torch.stack([torch.randperm(ways * shots, generator=generator) for _ in range(self.sgd.passes)])


class FittedCosineHead(FittedHead):
    """Logits are scale * g_c * cos(x, v_c), with directions v and, if `norms`, fitted norms g; else g is 1.

    With u = v / |v| and G the gradient with respect to W = scale * g u, that of g is scale * <u, G>, and that of v is
    scale * g / |v| * (G - u <u, G>).
    """

    norms: ClassVar[bool] = False
    eps: ClassVar[float] = 0.0
    """Added to an embedding's norm before the division by it."""

    def __init__(self, backbone: nn.Module, sgd: Fit = Fit(), scale: float = 1.0) -> None:
        super().__init__(backbone, sgd)
        self.scale = scale

    def initial(self, generator: torch.Generator, ways: int, channels: int) -> Tensor:
        """Directions [C, N] as in `nn.Linear`, and, if fitted, their norms as one more row."""
        directions = _uniform(generator, channels, ways, bound=1 / math.sqrt(channels))
        return torch.cat([directions, directions.norm(dim=0, keepdim=True)]) if self.norms else directions

    def inputs(self, rows: Tensor) -> Tensor:
        return rows / (rows.norm(dim=-1, keepdim=True) + self.eps) if self.eps else F.normalize(rows, dim=-1)

    def weights(self, parameters: Tensor) -> Tensor:
        directions, norms = self._parts(parameters)
        return self.scale * norms * F.normalize(directions, dim=-2)

    def gradient(self, parameters: Tensor, gradient: Tensor) -> Tensor:
        directions, norms = self._parts(parameters)
        lengths = directions.norm(dim=-2, keepdim=True)
        units = directions / lengths
        along = (units * gradient).sum(-2, keepdim=True)
        across = self.scale * norms / lengths * (gradient - units * along)
        return torch.cat([across, self.scale * along], dim=-2) if self.norms else across

    def _parts(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Directions [B, C, N] and norms [B, 1, N]."""
        if self.norms:
            return parameters[..., :-1, :], parameters[..., -1:, :]
        return parameters, torch.ones_like(parameters[..., :1, :])


def _uniform(generator: torch.Generator, *shape: int, bound: float) -> Tensor:
    return (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * bound
