"""MAML (Finn et al., "Model-agnostic meta-learning for fast adaptation of deep networks", ICML 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn import functional as F

from dmf.backbones.drop_block import count_forwards
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import Table
from dmf.methods.heads import with_ones
from dmf.methods.inner_loop import InnerLoopMethod

CLASSIFIER = "classifier"
"""Name of the classifier's weights among the parameters that the steps change."""


class MAML(InnerLoopMethod):
    """Gradient steps on all parameters p: p <- p - learning rate * gradient of the support's cross-entropy.

    The loss is the cross-entropy of the queries with the parameters after the last step, a mean over the episodes
    (CloserLook sums over four). Batch normalisation always uses the statistics of the images at hand, support and
    queries apart, so a query's score depends on the other queries of its episode, as in all MAML codes.

    Since the backbone itself adapts, the feature maps of `FewShotMethod` are the images here, and an evaluation
    forwards them in every episode. Episodes are adapted one after the other: under `torch.vmap`, PyTorch 2.14 turns the
    convolutions into grouped ones, which take 4.5 times as long on a CPU (Conv64F, 64 px, 8 episodes, 10 steps), and
    its batch normalisation has wrong second derivatives (up to 9 % of the largest).
    """

    transductive: ClassVar[bool] = True

    adapts = True

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.train()

    def maps(self, images: Tensor) -> Tensor:
        """The images, unchanged."""
        return images

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`, but batch normalisation neither uses nor changes its running statistics in either mode.

        It keeps them, so that the weights of a pre-training fit.
        """
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = False
                module.train()
        return self

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        logits = torch.stack([self._episode_logits(*episode) for episode in zip(support, query, strict=True)])
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
