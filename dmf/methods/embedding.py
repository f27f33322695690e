"""Methods that see an image only through its embedding, a vector."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from dmf.episodes import Episode
from dmf.machine.precision import full_precision
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.heads import embeddings


class EmbeddingMethod(FewShotMethod):
    """Scores and losses from embeddings, which an evaluation computes once per image. They are in float32 at least."""

    def embed(self, maps: Tensor) -> Tensor:
        """Feature maps [..., C, H, W] -> embeddings [..., D]; here the means over positions, so D = C."""
        return embeddings(maps)

    @abstractmethod
    def score_embeddings(self, support: Tensor, query: Tensor) -> Tensor:
        """Embeddings [B, N, K, D] and [B, Q, D] -> logits [B, Q, N]."""

    def losses_of_embeddings(self, support: Tensor, query: Tensor, targets: Tensor) -> Losses:
        """Losses from embeddings [B, N, K, D] and [B, Q, D], and the queries' classes [B, Q]."""
        raise NotImplementedError(f"{type(self).__name__} learns nothing from episodes")

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        with full_precision(query.device):
            return self.score_embeddings(self.embed(support), self.embed(query))

    def image_table(self, maps: Tensor) -> Table:
        return {"embeddings": self.embed(maps)}

    def class_table(self, images: Table, rows: Tensor) -> Table:
        return {"embeddings": images["embeddings"][rows]}

    def score_rows(self, classes: Table, class_rows: Tensor, images: Table, query_rows: Tensor) -> Tensor:
        support, query = classes["embeddings"][class_rows], images["embeddings"][query_rows]
        with full_precision(query.device):
            return self.score_embeddings(support, query)

    def losses_of_maps(self, maps: Episode) -> Losses:
        with full_precision(maps.query.device):
            return self.losses_of_embeddings(self.embed(maps.support), self.embed(maps.query), maps.targets)
