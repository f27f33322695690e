"""ANIL, almost no inner loop (Raghu et al., "Rapid learning or feature reuse?", ICLR 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from dmf.machine.precision import full_precision, wide
from dmf.methods.heads import with_ones
from dmf.methods.inner_loop import InnerLoopMethod


class ANIL(InnerLoopMethod):
    """Gradient steps on the classifier's weights W alone: W <- W - learning rate * x^T (softmax(x W) - y) / n.

    The features x of the n support images stay fixed during the steps, and are learnt by the gradient through them; in
    second order, also through the steps' gradients. In tests, the backbone uses its running statistics; LibFewShot's
    leaves it in training mode after the first batch of test episodes.
    """

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        ways, shots = support.shape[1:3]
        images, queries = (with_ones(wide(maps).flatten(-3)) for maps in (support.flatten(1, 2), query))
        targets = torch.eye(ways, dtype=images.dtype, device=images.device).repeat_interleave(shots, 0)
        weights = self.initial_classifier(ways).expand(len(support), -1, -1)
        with full_precision(query.device):
            for _ in range(self.steps):
                gradient = images.mT @ ((images @ weights).softmax(-1) - targets) / len(targets)
                weights = weights - self.learning_rate * (gradient if self.second_order else gradient.detach())
            return queries @ weights
