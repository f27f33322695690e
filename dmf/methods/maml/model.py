"""MAML (Finn et al., "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from dmf.backbones.drop_block import count_forwards
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import Table
from dmf.methods.heads import with_ones
from dmf.methods.inner_loop import InnerLoopMethod

CLASSIFIER = "classifier"
"""Name of the classifier's weights among the parameters that the steps change."""


class BatchNormOfTheBatch(nn.BatchNorm2d):
    """Normalises by the batch's own mean and variance, in training and in tests, and keeps no running statistics.

    It is written out because the second derivatives of PyTorch's own are wrong under `vmap` (2.14: by up to a tenth).
    It keeps the buffers, so that the weights of a pre-training fit.
    """

    def forward(self, input: Tensor) -> Tensor:
        maps = wide(input)
        variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
        scale = self.weight[:, None, None] * (variance + self.eps).rsqrt()
        return ((maps - mean) * scale + self.bias[:, None, None]).to(input.dtype)


class MAML(InnerLoopMethod):
    """Gradient steps on all parameters p: p <- p - learning rate * gradient of the support's cross-entropy.

    The loss is the cross-entropy of the queries with the parameters after the last step, a mean over the episodes
    (CloserLook sums over four). Batch normalisation always uses the statistics of the images at hand, support and
    queries apart, so a query's score depends on the other queries of its episode, as in all MAML codes.

    Since the backbone itself adapts, the feature maps of `FewShotMethod` are the images here, and an evaluation
    forwards them in every episode.
    """

    adapts = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.__class__ = BatchNormOfTheBatch

    def maps(self, images: Tensor) -> Tensor:
        """The images, unchanged."""
        return images

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        logits: Tensor = vmap(self._episode_logits, randomness="different")(support, query)
        if self.training:  # the steps count on copies
            count_forwards(self.backbone, self.steps + 1)
        return logits

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        return self.score(images["maps"][support], images["maps"][query])

    def _episode_logits(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits [Q, N] of one episode, from images [N, K, channels, h, w] and [Q, channels, h, w]."""
        ways, shots = support.shape[:2]
        images = support.flatten(0, 1)
        targets = torch.arange(ways, device=support.device).repeat_interleave(shots)

        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return F.cross_entropy(self._logits(parameters, images), targets)

        parameters = dict(self.backbone.named_parameters()) | {CLASSIFIER: self.initial_classifier(ways)}
        for _ in range(self.steps):
            gradients = grad(loss)(parameters)
            if not self.second_order:
                gradients = {name: gradient.detach() for name, gradient in gradients.items()}
            parameters = {name: value - self.learning_rate * gradients[name] for name, value in parameters.items()}
        return self._logits(parameters, query)

    def _logits(self, parameters: dict[str, Tensor], images: Tensor) -> Tensor:
        weights = {name: value for name, value in parameters.items() if name != CLASSIFIER}
        counters = {name: value.clone() for name, value in self.backbone.named_buffers()}
        maps = functional_call(self.backbone, weights | counters, (images,))
        with full_precision(images.device):
            return with_ones(wide(maps).flatten(1)) @ parameters[CLASSIFIER]
