"""Settings of Meta-Baseline."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import EmbeddingMethodConfig


class MetaBaselineConfig(EmbeddingMethodConfig):
    """Meta-Baseline (Chen et al., ICCV 2021): nearest class mean, trained on episodes after a pre-training."""

    method: Literal["meta_baseline"] = "meta_baseline"
    similarity: Literal["cosine", "squared"] = "cosine"
    """Cosine to the class mean, or minus the squared distance to it."""
