"""Settings of prototypical networks."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig


class ProtoNetConfig(EmbeddingMethodConfig):
    """Prototypical networks (Snell et al., NeurIPS 2017)."""

    method: Literal["proto_net"] = "proto_net"
    distance: Literal["mean", "sum"] = "mean"
    """Squared distance to the class mean: its mean over the features times a learnt scale, or its sum, as published."""
