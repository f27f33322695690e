"""Settings of the cross attention network."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import NonNegative, Positive


class CrossAttentionConfig(EmbeddingMethodConfig):
    """Settings of CAN, inductive and transductive."""

    attention_temperature: Positive = 0.025
    """Divides the logits of the attention over positions."""
    score_scale: Positive = 7.0
    """Factor that turns cosines into logits."""
    few_shot_weight: NonNegative = 0.5
    global_weight: NonNegative = 1.0
    """The loss is global_weight * global + few_shot_weight * few-shot."""

    @model_validator(mode="after")
    def _learns_something(self) -> CrossAttentionConfig:
        if self.few_shot_weight == 0 and self.global_weight == 0:
            raise ValueError("few_shot_weight and global_weight are both 0, so nothing would be learnt; raise one")
        return self


class CANConfig(CrossAttentionConfig):
    """Cross attention network (Hou et al., NeurIPS 2019)."""

    method: Literal["can"] = "can"
