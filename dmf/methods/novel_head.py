"""A head for the classes of one episode, fitted to its support by Adam: the heads of Associative Alignment.

Letters: B heads, N classes, n images, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.machine.precision import full_precision
from dmf.methods.heads import with_angular_margin

Kind = Literal["linear", "cosine", "arc"]
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of a parameter, besides the number of its steps."""


def adam(parameters: Iterable[Tensor], learning_rate: float) -> torch.optim.Adam:
    """Adam with its usual settings."""
    return torch.optim.Adam(parameters, learning_rate, fused=True)


@dataclass(frozen=True)
class NovelHead:
    """How features give logits: `linear` <w_c, z> + b_c, `cosine` scale * cos(w_c, z), or `arc`.

    `arc` adds the margin to the angle between an image and its own class in the loss, where their cosine is positive.
    """

    kind: Kind = "arc"
    scale: float = 5.0
    margin: float = 0.001

    def initial(self, seed: int, ways: int, length: int) -> list[Tensor]:
        """Random parameters of one head, float64: weights [N, D] and, if it is linear, biases [N].

        Weights are Xavier-uniform, those of the linear head and its biases as in `nn.Linear`.
        """
        generator = torch.Generator().manual_seed(seed)
        bound = 1 / math.sqrt(length)
        if self.kind == "linear":
            return [_uniform(generator, ways, length, bound=bound), _uniform(generator, ways, bound=bound)]
        return [_uniform(generator, ways, length, bound=math.sqrt(6 / (ways + length)))]

    def logits(self, parameters: Sequence[Tensor], features: Tensor) -> Tensor:
        """Features [..., n, D] -> logits [..., n, N] by parameters [..., N, D] and [..., N], without margin."""
        return self._scaled(self._scores(parameters, features))

    def loss(self, parameters: Sequence[Tensor], features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of features [..., n, D] with `labels` [n], a mean over n and a sum over the heads."""
        scores = self._scores(parameters, features)
        if self.kind == "arc":
            scores = with_angular_margin(scores, labels, self.margin)
        # Classes come second for cross_entropy.
        targets = labels.expand(scores.shape[:-1])
        return F.cross_entropy(self._scaled(scores).movedim(-1, 1), targets, reduction="sum") / len(labels)

    def predicted(self, parameters: Sequence[Tensor], features: Tensor) -> Tensor:
        """The way that each of B heads gives to each row of features [M, D], of equals the first: [B, M], on the CPU.

        One product for all heads. A feature's length does not change which cosine is largest.
        """
        weights, *biases = (each.to(features) for each in parameters)
        heads, ways = weights.shape[:2]
        rows = weights if self.kind == "linear" else F.normalize(weights, dim=-1)
        with full_precision(features.device):
            scores = (features @ rows.flatten(0, 1).T).unflatten(-1, (heads, ways))
        if biases:
            scores = scores + biases[0]
        ways_of_rows: Tensor = scores.argmax(-1).T.cpu()
        return ways_of_rows

    def rescaled(self, scale: float) -> NovelHead:
        """The same head with another scale."""
        return replace(self, scale=scale)

    def _scores(self, parameters: Sequence[Tensor], features: Tensor) -> Tensor:
        with full_precision(features.device):
            if self.kind == "linear":
                weights, biases = parameters
                scores: Tensor = features @ weights.mT + biases[..., None, :]
                return scores
            (weights,) = parameters
            cosines: Tensor = F.normalize(features, dim=-1) @ F.normalize(weights, dim=-1).mT
            return cosines

    def _scaled(self, scores: Tensor) -> Tensor:
        return scores if self.kind == "linear" else self.scale * scores


@dataclass(frozen=True)
class FittedHeads:
    """B heads with Adam's moments, so that its steps can go on for each of them."""

    parameters: list[Tensor]
    """Each [B, ...], as `NovelHead.logits` takes them."""
    moments: list[dict[str, Tensor]]
    """For each parameter Adam's two moments, of its shape."""
    steps: int

    def one(self, number: int, learning_rate: float) -> tuple[list[Tensor], torch.optim.Adam]:
        """A copy of head `number`'s parameters, without the dimension B, and the Adam that goes on with them."""
        parameters = [each[number].clone().requires_grad_() for each in self.parameters]
        optimizer = adam(parameters, learning_rate)
        for parameter, moments in zip(parameters, self.moments, strict=True):
            kept = {name: moments[name][number].clone() for name in MOMENTS}
            steps = torch.tensor(float(self.steps), device=parameter.device)
            optimizer.state[parameter] = {"step": steps, **kept}
        return parameters, optimizer


def fitted(
    head: NovelHead, start: Sequence[Tensor], features: Tensor, labels: Tensor, steps: int, learning_rate: float
) -> FittedHeads:
    """Fit B heads to features [B, n, D] with `labels` [n] by full-batch Adam from parameters [B, ...].

    The heads are one batch: Adam acts on every number by itself, and the sum of the heads' losses has the gradients of
    each, so all fits at once are the fits one by one.
    """
    parameters, features = [each.detach().clone().requires_grad_() for each in start], features.detach()
    optimizer = adam(parameters, learning_rate)
    with torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            head.loss(parameters, features, labels).backward()
            optimizer.step()
    moments = [{name: optimizer.state[each][name] for name in MOMENTS} for each in parameters]
    return FittedHeads([each.detach() for each in parameters], moments, steps)


def _uniform(generator: torch.Generator, *shape: int, bound: float) -> Tensor:
    return (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) * bound
