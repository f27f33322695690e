"""The classifier of the base classes that a pre-training trains: a backbone and one of several heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones import map_shape
from dmf.config import ClassifierConfig, DataConfig
from dmf.machine.precision import full_precision, wide
from dmf.methods.heads import vectors, with_angular_margin


class BaseClassifier(nn.Module):
    """Images [P, 1 or 3, h, w] -> logits [P, base classes], from the feature map's mean, or from the map itself."""

    def __init__(self, backbone: nn.Module, config: ClassifierConfig, data: DataConfig, base_classes: int) -> None:
        super().__init__()
        self.backbone, self.flattened = backbone, config.flattened
        length = math.prod(map_shape(config, data.channels, data.image_size)) if config.flattened else config.channels
        self.head = BaseHead(length, base_classes, config.head, config.head_scale, config.head_margin)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """`labels` [P] are for heads with a margin, which tests leave out."""
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(vectors(maps, self.flattened), labels)
        return logits


class BaseHead(nn.Linear):
    """A linear layer with rows w_c. Its `kind` says how they give logits for features x with label y.

    - linear: <w_c, x> + b_c
    - cosine: scale * (cos(w_c, x) - margin [c = y]); a negative margin is that of Liu et al. (ECCV 2020)
    - shifted: scale * (<w_c, x> - min_k <w_k, x> - margin [c = y]), the softmax head of the same paper
    - arc: scale * cos(w_c, x), with cos(angle + margin) for c = y where that cosine is positive (arcMax of Afrasiyabi
      et al., ECCV 2020, whose softMax and cosMax are the linear and the cosine head; the authors draw all initial
      weights by Xavier, here only those of arc are)
    - weight_norm: scale * g_c * <w_c / |w_c|, x / (|x| + 1e-5)>, with learnt norms g (Baseline++)
    """

    def __init__(
        self, channels: int, classes: int, kind: str = "linear", scale: float = 10.0, margin: float = 0.0
    ) -> None:
        super().__init__(channels, classes, bias=kind == "linear")
        self.kind, self.scale, self.margin = kind, scale, margin
        if kind == "weight_norm":
            self.norms = nn.Parameter(self.weight.detach().norm(dim=1))
        if kind == "arc":
            nn.init.xavier_uniform_(self.weight)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """Features [P, C] and, in training, labels [P] -> logits [P, classes]."""
        if self.kind == "linear":
            return wide(super().forward(features))
        with full_precision(features.device):
            scores = self._scores(features)
        if labels is not None and self.kind == "arc":
            scores = with_angular_margin(scores, labels, self.margin)
        elif labels is not None and self.margin:
            scores = scores - self.margin * F.one_hot(labels, self.out_features).to(scores)
        return self.scale * scores

    def _scores(self, features: Tensor) -> Tensor:
        if self.kind == "shifted":
            scores: Tensor = features @ self.weight.T
            return scores - scores.amin(1, keepdim=True)
        units = F.normalize(self.weight, dim=-1).T
        if self.kind in ("cosine", "arc"):
            scores = F.normalize(features, dim=-1) @ units
        else:
            scores = features / (features.norm(dim=-1, keepdim=True) + 1e-5) @ units * self.norms
        return scores
