"""Settings of DeepEMD."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import Count, Fraction, Positive


class DeepEMDConfig(EmbeddingMethodConfig):
    """DeepEMD-FCN (Zhang et al., CVPR 2020): optimal transport between the positions of two feature maps."""

    method: Literal["deepemd"] = "deepemd"
    transport_scale: Positive = 12.5
    """Factor that turns the mean similarity along the flow into a logit."""
    sfc_passes: Annotated[int, Field(ge=0)] = 100
    """Passes over the support that fit the class maps to it, when a method with several shots is tested; 0: class means
    are used as they are."""
    sfc_batch: Count = 4
    """Support images per SGD step of the fit."""
    sfc_learning_rate: Positive = 100.0
    """That of the released evaluation script; the training script has 0.1."""
    sfc_momentum: Fraction = 0.9
    sfc_dampening: Fraction = 0.9
