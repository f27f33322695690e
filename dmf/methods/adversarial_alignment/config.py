"""Settings of Associative Alignment with a critic; this project's own design."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import AlignmentConfig
from dmf.values import Count, NonNegative, Positive


class AdversarialAlignmentConfig(AlignmentConfig):
    """Associative Alignment by a conditional Wasserstein critic: our own design, since nothing of it was released."""

    method: Literal["adversarial_alignment"] = "adversarial_alignment"
    critic_width: Count = 256
    """Hidden units of the critic."""
    critic_steps: Count = 5
    """Critic steps in every iteration, before the network's."""
    critic_learning_rate: Positive = 1e-3
    gradient_penalty: NonNegative = 10.0
    """Weight of the squared departure of the critic's gradient from length 1."""
