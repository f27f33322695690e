"""The interface between the training loop in `dmf.training.run` and what it trains, on episodes or on batches."""

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
    """A module to train, its batches and its losses. Step i's batch is a function of the configuration and i alone."""

    module: nn.Module
    method: FewShotMethod
    """The method that scores validation episodes."""
    augment: Augmentation
    learns: bool
    """Whether there is anything to train."""
    steps_per_epoch: int
    validation: Task | None
    """The episodes that select the best epoch."""
    started: Started | None
    """The training that the module starts from."""

    def read(self, step: int) -> Any:
        """Read the batch of a step (from 0) on the CPU; called ahead of time, from another thread."""

    def losses(self, step: int, batch: Any) -> Losses:
        """The losses of a batch that `read` returned."""

    def validate(self) -> float:
        """Accuracy over the validation episodes, a fraction in [0, 1]."""


def stage_module(config: AnyTraining) -> str:
    """The name of the Python module whose stage trains `config`."""
    return config.model.stage_module if isinstance(config, ExperimentConfig) else "dmf.training.pretraining"


def build_stage(config: AnyTraining, data: DataSet, device: torch.device, start: Path | None) -> Stage:
    """The stage that trains `config`; `start` is the file with the weights that it starts from, if any."""
    stage: Stage = importlib.import_module(stage_module(config)).build(config, data, device, start)
    return stage
