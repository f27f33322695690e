"""Checks that switches have an effect: compares one training step of every row and its baseline, bit for bit.

Equal outputs mean that the switch changes nothing; different ones, that it changes something, if only the initial
weights. On a GPU, where sums may run in any order, a switch without effect can go unnoticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import torch

from dmf.config import ExperimentConfig
from dmf.data.sets import images_of
from dmf.episodes import Episode
from dmf.evaluation.bank import validation_bank
from dmf.evaluation.tasks import validation_task
from dmf.machine.files import temporary_folder
from dmf.machine.precision import autocast
from dmf.training.episodic import EpisodicStage
from dmf.training.images import TrainingImages
from dmf.training.run import Diverged, Run
from orchestrator.costs.calibrate import untrained_start
from orchestrator.spec.baselines import pairs
from orchestrator.spec.plan import SweepPlan
from reports.words import counted

ONE_EPISODE = {
    "training.episodes_per_step": 1,
    "training.episodes_per_epoch": 1,
    "training.validation_episodes": 2,
    "training.warmup_epochs": 0,
}
"""A step is one episode, at the full learning rate."""


def canary(planned: SweepPlan, say: Callable[[str], None] = print) -> tuple[str, ...]:
    """A sentence for every row whose first training step has the same outputs as its baseline's."""
    compared = list(pairs(planned))
    configs = {cell.config.key: cell.config for pair in compared for cell in (pair.baseline, pair.cell)}
    outputs = {}
    for number, (key, config) in enumerate(configs.items(), 1):
        outputs[key] = first_outputs(config)
        say(f"[{number}/{len(configs)}] one step of {key}")
    told = tuple(
        f"table {pair.layout.name}: this switch changes nothing: after one training step, {pair.name(pair.cell)} has "
        f"the same outputs as {pair.name(pair.baseline)}, bit for bit"
        for pair in compared
        if outputs[pair.cell.config.key] == outputs[pair.baseline.config.key]
    )
    if compared:
        rows = counted(len(compared), "row")
        say(f"{len(compared) - len(told)} of {rows} gave other outputs than the baseline after one step")
    return told


def _validation_episode(stage: EpisodicStage) -> Episode:
    """Two episodes for a method that learns nothing from episodes, and so has none for training."""
    split = stage.data.val
    chosen = validation_bank(split, validation_task(stage.config, split), 2)
    images = TrainingImages(split, stage.augment, stage.config.training.seed, stage.device)
    support, query = (
        images.augmented(images.read(rows.flatten(), 0), 0).unflatten(0, rows.shape)
        for rows in (chosen.support, chosen.query)
    )
    targets = chosen.targets.to(stage.device)
    return Episode(support, query, targets, targets)


def first_outputs(config: ExperimentConfig) -> str:
    """A digest of the losses of a training's first step, and of its episode's scores after the step."""
    short = config.with_paths(ONE_EPISODE)
    with temporary_folder("canary") as room:
        images = images_of(short)
        run = Run(short, images, Path(room), untrained_start(short, images, Path(room)))
        try:
            losses = run.train_steps(range(1)) if run.stage.learns else {}
        except Diverged:
            return f"{config.key} diverged"  # equals no other training's
        stage = run.stage
        assert isinstance(stage, EpisodicStage)
        stage.method.eval()
        with torch.no_grad(), autocast(run.device, short.training.precision):
            scores = stage.method(stage.episode(0, stage.read(0)) if stage.learns else _validation_episode(stage))
    text = json.dumps(losses, sort_keys=True).encode()
    return hashlib.sha256(text + scores.float().cpu().contiguous().numpy().tobytes()).hexdigest()
