"""Settings of Classifier-Baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

from dmf.methods.config import EmbeddingMethodConfig


class ClassifierBaselineConfig(EmbeddingMethodConfig):
    """Classifier-Baseline (Chen et al., ICCV 2021): a pre-trained classifier's features and the nearest class mean."""

    method: Literal["classifier_baseline"] = "classifier_baseline"
    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
