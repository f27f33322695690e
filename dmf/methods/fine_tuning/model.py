"""The fine-tuning that Associative Alignment (Afrasiyabi et al., ECCV 2020) starts from and is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from dmf.methods.associative import NovelHeadMethod
from dmf.methods.base import Table
from dmf.methods.fine_tuning.config import FineTuningConfig


class FineTuning(NovelHeadMethod):
    """Logits of a head fitted by Adam to each episode's support, on frozen features, after pre-training with that head.

    It is the first step of `centroid_alignment` and `adversarial_alignment`, with the same random start in the same
    episode. The released pre-training has `start.head` arc, `start.head_scale` 20, `start.head_margin` 0.01, and Adam.
    """

    @classmethod
    def build(cls, backbone: nn.Module, config: FineTuningConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(backbone, cls.head_of(config), config.novel_steps, config.novel_learning_rate, config.flattened)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """As in `FewShotMethod`; episode b of the batch is fitted with seed b."""
        return self._fit_and_score(self.embed(support), self.embed(query), range(len(support)))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": self.embed(maps)}

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        return self._fit_and_score(images["embeddings"][support], images["embeddings"][query], seeds)

    def _fit_and_score(self, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        parameters = self.fit(support, seeds).parameters
        with torch.no_grad():
            return self.head.logits(parameters, query)
