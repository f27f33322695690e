"""DeepEMD (Zhang et al., "DeepEMD: Few-shot image classification with differentiable Earth mover's distance", 2020).

This is the fully convolutional variant of the paper at CVPR 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.deepemd.config import DeepEMDConfig
from dmf.methods.deepemd.transport import optimal_flows
from dmf.methods.heads import episode_cross_entropy

FLOOR = 1e-3 + 1e-5
"""The least weight of a node before scaling; the released code adds the two in different places."""


class DeepEMD(FewShotMethod):
    """The m positions of two maps are nodes with weights, and the logit is the similarity along the cheapest flow.

    A node's weight is relu of its product with the other map's mean, plus `FLOOR`; the weights of each side are scaled
    to sum to m. The similarity of nodes is their cosine, after taking from each node its mean over channels, and the
    cost of the flow is 1 - similarity. The logit is 12.5 / m * sum(flow * similarity), and the loss its cross-entropy.
    As with the released code's default solver (OpenCV), the gradient passes through the similarities and takes the flow
    as constant; its other solver (a quadratic programme) also has the gradient of the weights.

    With one shot, the class map is the support map. With several, training uses their mean, which passes gradients to
    the support; tests fit the class maps to each support set ("structured fully connected layer"), starting from the
    mean, by SGD with momentum and dampening as in PyTorch. The released code also fits while it trains with several
    shots; the authors train with one and reuse the model.
    """

    adapts = True
    reads_order = True

    def __init__(
        self,
        backbone: nn.Module,
        scale: float = 12.5,
        passes: int = 100,
        batch: int = 4,
        learning_rate: float = 100.0,
        momentum: float = 0.9,
        dampening: float = 0.9,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.scale = scale
        self.passes, self.batch, self.learning_rate = passes, batch, learning_rate
        self.momentum, self.dampening = momentum, dampening

    @classmethod
    def build(cls, backbone: nn.Module, config: DeepEMDConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(
            backbone,
            config.transport_scale,
            config.sfc_passes,
            config.sfc_batch,
            config.sfc_learning_rate,
            config.sfc_momentum,
            config.sfc_dampening,
        )

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """As in `FewShotMethod`; the class maps of episode b of the batch are fitted with seed b."""
        return self._fit_and_score(support, query, range(len(support)))

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._fit_and_score(images["maps"][support], images["maps"][query], seeds)

    def _fit_and_score(self, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        with full_precision(query.device):
            support, query = wide(support).flatten(-2), wide(query).flatten(-2)
            return self.score_classes(self.class_maps(support, seeds), query)

    def class_maps(self, support: Tensor, seeds: Sequence[int]) -> Tensor:
        """Maps [B, N, K, C, m] -> class maps [B, N, C, m], fitted to the support if there are several shots.

        `seeds` [B] determine the order of the images.
        """
        images = support.shape[1:3].numel()
        if support.shape[2] == 1 or not self.passes:
            return support.mean(2)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        orders = [[torch.randperm(images, generator=each) for _ in range(self.passes)] for each in generators]
        return self.fit(support, torch.stack([torch.stack(order) for order in orders]).to(support.device))

    def fit(self, support: Tensor, order: Tensor) -> Tensor:
        """Fit class maps [B, N, C, m] to maps [B, N, K, C, m], taken in `order` [B, passes, N*K] (class by class)."""
        ways, shots = support.shape[1:3]
        items, episodes = support.detach().flatten(1, 2), torch.arange(len(support), device=support.device)[:, None]
        targets = torch.arange(ways, device=support.device).repeat_interleave(shots)
        classes, velocity = support.detach().mean(2), None
        for each in order.unbind(1):
            for rows in each.split(self.batch, dim=1):
                with torch.enable_grad():
                    classes.requires_grad_()
                    logits = self.score_classes(classes, items[episodes, rows])
                    loss = episode_cross_entropy(logits, targets[rows]) * len(support)  # a sum over episodes
                    (gradient,) = torch.autograd.grad(loss, classes)
                damped = gradient if velocity is None else (1 - self.dampening) * gradient
                velocity = damped if velocity is None else self.momentum * velocity + damped
                classes = classes.detach() - self.learning_rate * velocity
        return classes

    def score_classes(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, m] and query maps [B, Q, C, m] -> logits [B, Q, N]."""
        of_query, of_classes = node_weights(classes, query)
        likeness = node_similarities(classes, query)
        flows = optimal_flows(1 - likeness, of_query, of_classes)
        return self.scale / query.shape[-1] * (flows * likeness).sum((-2, -1))

    def losses_of_maps(self, maps: Episode) -> Losses:
        with full_precision(maps.query.device):
            classes, query = wide(maps.support).mean(2).flatten(-2), wide(maps.query).flatten(-2)
            loss = episode_cross_entropy(self.score_classes(classes, query), maps.targets)
        return Losses(loss, {"few_shot": loss})


def node_weights(classes: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Maps [B, N, C, m] and [B, Q, C, m] -> weights of the query's and the class's nodes, each [B, Q, N, m]."""
    of_query = torch.einsum("bqcm,bnc->bqnm", query, classes.mean(-1))
    of_classes = torch.einsum("bncm,bqc->bqnm", classes, query.mean(-1))
    positions = query.shape[-1]
    sides = (F.relu(side) + FLOOR for side in (of_query, of_classes))
    of_query, of_classes = (side * (positions / side.sum(-1, keepdim=True)) for side in sides)
    return of_query, of_classes


def node_similarities(classes: Tensor, query: Tensor) -> Tensor:
    """Maps [B, N, C, m] and [B, Q, C, m] -> cosines [B, Q, N, m, m] between nodes of the query and of the class."""
    classes, query = (F.normalize(maps - maps.mean(-2, keepdim=True), dim=-2) for maps in (classes, query))
    return torch.einsum("bqcm,bnck->bqnmk", query, classes)
