"""Classifier-Baseline (Chen et al., "Meta-Baseline", ICCV 2021)."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from dmf.methods.classifier_baseline.config import ClassifierBaselineConfig
from dmf.methods.embedding import EmbeddingMethod
from dmf.methods.heads import nearest_mean


class ClassifierBaseline(EmbeddingMethod):
    """Logits are the cosines between a query's embedding and the mean embedding of a class.

    The backbone comes from a classifier that was pre-trained on the base classes. An embedding is the mean of the
    feature map over its positions.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    @classmethod
    def build(cls, backbone: nn.Module, config: ClassifierBaselineConfig, base_classes: int) -> Self:
        """Build the method on `backbone`; `config` and `base_classes` are not used."""
        return cls(backbone)

    def score_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        return nearest_mean(support, query)
