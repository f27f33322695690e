"""What a training trains, seen from the loop that runs it: `dmf.training.run` knows no method and no kind of batch."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from dmf.config import AnyTraining, ExperimentConfig, Task
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet
from dmf.methods.base import FewShotMethod, Losses
from dmf.records.records import Started


class Stage(Protocol):
    """A module, its batches and its losses. Step i's batch is a function of the configuration and i alone."""

    module: nn.Module
    method: FewShotMethod
    """What scores validation episodes."""
    augment: Augmentation
    learns: bool
    """Whether there is anything to train."""
    steps_per_epoch: int
    validation: Task | None
    """The episodes that select the best epoch."""
    started: Started | None
    """The pre-training that the module starts from."""

    def read(self, step: int) -> Any:
        """The batch of a step (from 0), read on the CPU; called ahead, from another thread."""

    def losses(self, step: int, batch: Any) -> Losses:
        """The losses of a batch as `read` gave it."""

    def validate(self) -> float:
        """Accuracy over the validation episodes, a fraction in [0, 1]."""


def stage_module(config: AnyTraining) -> str:
    """The module of the stage that trains a configuration."""
    return "dmf.training.episodic" if isinstance(config, ExperimentConfig) else "dmf.training.pretraining"


def build_stage(config: AnyTraining, data: DataSet, device: torch.device, start: Path | None) -> Stage:
    """The stage of a configuration, from `start`, the weights of its pre-training, where it has one."""
    stage: Stage = importlib.import_module(stage_module(config)).build(config, data, device, start)
    return stage
