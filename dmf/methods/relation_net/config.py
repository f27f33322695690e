"""Settings of relation networks."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Fraction


class RelationNetConfig(EmbeddingMethodConfig):
    """Relation networks (Sung et al., CVPR 2018)."""

    method: Literal["relation_net"] = "relation_net"
    relation_loss: Literal["mse", "cross_entropy"] = "mse"
    """`mse`: squared error between the sigmoid of the score and one-hot targets (paper); `cross_entropy`: of the scores
    (LibFewShot)."""
    relation_momentum: Fraction = 0.1
    """Momentum of the relation head's batch norms. Released: 1, so that its statistics are those of the last batch."""
