"""The learning rate at every step, when to validate, and which epoch to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dmf.config import OptimisationConfig
    from dmf.records.records import Epoch


def learning_rate(iteration: int, steps_per_epoch: int, settings: OptimisationConfig) -> float:
    """The learning rate of an iteration (from 1): a linear warm-up, then `learning_rate` times the multiplier."""
    warmup = settings.warmup_epochs * steps_per_epoch
    if iteration <= warmup:
        return settings.learning_rate * iteration / warmup
    return settings.learning_rate * multiplier(iteration, steps_per_epoch, settings)


def multiplier(iteration: int, steps_per_epoch: int, settings: OptimisationConfig) -> float:
    """What the schedule multiplies the learning rate by, after the warm-up."""
    if settings.schedule == "half_cosine":
        warmup, total = settings.warmup_epochs * steps_per_epoch, settings.epochs * steps_per_epoch
        cosine = 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))
        return max(cosine, settings.learning_rate_floor)
    if settings.schedule == "steps":
        epochs_done = (iteration - 1) // steps_per_epoch
        return next((factor for after, factor in reversed(settings.milestones) if epochs_done >= after), 1.0)
    return 1.0


def validates(epoch: int, settings: OptimisationConfig) -> bool:
    """Whether the model is validated after `epoch` (from 1)."""
    return epoch in (1, settings.epochs) or epoch % settings.validate_every == 0 or epoch >= settings.validate_all_from


def best_of(history: Sequence[Epoch]) -> Epoch | None:
    """The epoch with the highest validation accuracy, the first one of equals; None before the first validation."""
    validated = [epoch for epoch in history if epoch.validation_accuracy is not None]
    return max(validated, key=lambda epoch: epoch.validation_accuracy or 0.0, default=None)
