"""Settings of Classifier-Baseline."""

from __future__ import annotations

from typing import ClassVar, Literal

from dmf.methods.config import EmbeddingMethodConfig


class ClassifierBaselineConfig(EmbeddingMethodConfig):
    """Classifier-Baseline (Chen et al., ICCV 2021): nearest class mean on a pre-trained classifier's features."""

    method: Literal["classifier_baseline"] = "classifier_baseline"
    learns: ClassVar[bool] = False
    needs_start: ClassVar[bool] = True
