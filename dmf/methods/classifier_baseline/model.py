"""Classifier-Baseline (Chen et al., "Meta-Baseline", ICCV 2021)."""

from __future__ import annotations

from typing import Self

from torch import Tensor, nn

from dmf.methods.base import FewShotMethod, Table
from dmf.methods.classifier_baseline.config import ClassifierBaselineConfig
from dmf.methods.heads import embeddings, nearest_mean


class ClassifierBaseline(FewShotMethod):
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

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        return nearest_mean(embeddings(support), embeddings(query))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": embeddings(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return {"embeddings": images["embeddings"][rows]}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        return nearest_mean(classes["embeddings"][class_rows], images["embeddings"][query_rows])
