"""Cross attention network (Hou et al., "Cross attention network for few-shot classification", NeurIPS 2019)."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.can.attention import CrossAttention
from dmf.methods.can.config import CrossAttentionConfig
from dmf.methods.heads import positions_cross_entropy


class CAN(FewShotMethod):
    """For each pair of a class map and a query map, attention says where each of them resembles the other.

    With P the mean of a class's support maps, Q a query map, and a_p, a_q their attention (`CrossAttention`), the
    logit is 7 * cos(mean over positions of P * a_p, mean over positions of Q * a_q).

    The loss is `global_weight` times the cross-entropy of a classifier of the base classes at each position of the
    query map, attended by its own class, plus `few_shot_weight` times the cross-entropy of 7 * cos(mean of P * a_p, Q
    at a position), at each position. (There, a_q is a positive factor of Q, which the cosine cancels.)

    The fusion layer has as many inputs as maps have positions, and its inner width is the maps' height: 36 and 6 in the
    released code.
    """

    needs_map_shape = True

    def __init__(
        self,
        backbone: nn.Module,
        map_shape: tuple[int, ...],
        base_classes: int,
        temperature: float = 0.025,
        scale: float = 7.0,
        few_shot_weight: float = 0.5,
        global_weight: float = 1.0,
    ) -> None:
        """`map_shape` is that of a feature map, [C, H, W]."""
        super().__init__()
        self.backbone = backbone
        channels, height, width = map_shape
        self.scale, self.few_shot_weight, self.global_weight = scale, few_shot_weight, global_weight
        self.attention = CrossAttention(height * width, height, temperature)
        self.global_classifier = nn.Conv2d(channels, base_classes, 1)

    @classmethod
    def build(
        cls, backbone: nn.Module, config: CrossAttentionConfig, base_classes: int, map_shape: tuple[int, ...]
    ) -> Self:
        """Build the method that `config` describes."""
        return cls(
            backbone,
            map_shape,
            base_classes,
            config.attention_temperature,
            config.score_scale,
            config.few_shot_weight,
            config.global_weight,
        )

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        with full_precision(query.device):
            return self.score_classes(wide(support).mean(2), wide(query))

    def score_classes(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> logits [B, Q, N]."""
        classes, query = classes.flatten(-2), query.flatten(-2)
        of_classes, of_query = self.attend(classes, query)
        class_vectors = torch.einsum("bncm,bnqm->bnqc", classes, of_classes)
        query_vectors = torch.einsum("bqcm,bqnm->bnqc", query, of_query)
        return self.scale * F.cosine_similarity(class_vectors, query_vectors, dim=-1).transpose(1, 2)

    def attend(self, classes: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, N, C, m] and [B, Q, C, m] -> attention [B, N, Q, m] and [B, Q, N, m] over their positions."""
        classes, query = F.normalize(classes, dim=-2), F.normalize(query, dim=-2)
        return self.attention(classes, query), self.attention(query, classes)

    def losses_of_maps(self, maps: Episode) -> Losses:
        with full_precision(maps.query.device):
            classes, query = wide(maps.support).mean(2).flatten(-2), wide(maps.query).flatten(-2)
            of_classes, of_query = self.attend(classes, query)
            few_shot = positions_cross_entropy(self.position_scores(classes, of_classes, query), maps.targets.flatten())
            own = of_query.take_along_dim(maps.targets[:, :, None, None], 2)  # [B, Q, 1, m]
            attended = (query * own).unflatten(-1, maps.query.shape[-2:]).flatten(0, 1)
        global_loss = positions_cross_entropy(wide(self.global_classifier(attended)), maps.labels.flatten())
        total = self.few_shot_weight * few_shot + self.global_weight * global_loss
        return Losses(total, {"few_shot": few_shot, "global": global_loss})

    def position_scores(self, classes: Tensor, of_classes: Tensor, query: Tensor) -> Tensor:
        """Scores [B*Q, N, m, 1] of the queries' positions; arguments as in `attend`, and the classes' attention."""
        vectors = F.normalize(torch.einsum("bncm,bnqm->bqnc", classes, of_classes), dim=-1)
        return self.scale * (vectors @ F.normalize(query, dim=-2)).flatten(0, 1)[..., None]
