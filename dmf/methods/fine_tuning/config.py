"""Settings of fine-tuning, the baseline of Associative Alignment."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import NovelHeadConfig


class FineTuningConfig(NovelHeadConfig):
    """Fine-tuning alone: the head that Associative Alignment starts from, fitted to each episode's support."""

    method: Literal["fine_tuning"] = "fine_tuning"
