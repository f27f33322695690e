"""The training loop of the released code: episodes, two losses, warm-up and cosine, model selection on validation.

Every step draws its episodes, its augmentation and its dropout from a seed derived from (seed, step). No generator's
state outlives a step, so a run stopped after any epoch and resumed ends with the bits of one that was not.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dmf.config import EvaluationConfig, ExperimentConfig, TrainingConfig
from dmf.data.augment import Augmentation, Stored
from dmf.data.prefetch import prefetched
from dmf.data.sets import DataSet
from dmf.episodes import Episode, EpisodeIndices, EpisodeSampler, derived_seed
from dmf.evaluation.evaluate import episode_accuracies, episode_bank
from dmf.machine.device import device_name, device_of, peak_bytes, reset_peak, set_up
from dmf.machine.precision import autocast
from dmf.machine.watchdog import alive
from dmf.methods import build_method
from dmf.records.checkpoints import check_shapes, load_weights, prefixed, read_checkpoint_of, under, write_checkpoint
from dmf.records.provenance import code_hash, git_commit, versions
from dmf.records.records import BEST, CONFIG, LAST, RECORD, Epoch, Failure, Going, Kept, Provenance, TrainingRecord

log = logging.getLogger("dmf.training")

EPISODES, AUGMENTATION, DROPOUT = range(3)
"""Streams of random numbers."""

STEPS_BETWEEN_CHECKS = 20
"""The losses stay on the device; this often they are looked at for NaN and infinity."""


class Diverged(Exception):
    """A loss that is not finite: `step` counts from 1, `last_finite` holds the epoch's losses of the step before."""

    def __init__(self, step: int, last_finite: dict[str, float]) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step, self.last_finite = step, last_finite


def train(
    config: ExperimentConfig, data: DataSet, folder: Path, on_epoch: Callable[[Epoch], None] = lambda epoch: None
) -> TrainingRecord:
    """Train as `config` says, from `folder`'s last checkpoint if it has one, and keep the best weights there.

    `on_epoch` hears of every epoch once its checkpoint is on disk; what it raises goes on up. A loss that is not
    finite ends the training with outcome "diverged". The record is returned; `close` writes it.
    """
    run = Run(config, data, folder)
    failure = None
    try:
        while run.epochs_done < config.training.epochs and run.parameters:
            on_epoch(run.next_epoch())
        if not run.parameters:
            run.keep_best(epoch=0)
    except Diverged as error:
        failure = Failure(reason=str(error), step=error.step, last_finite=error.last_finite or run.last_means())
    return run.record(failure)


def close(folder: Path, record: TrainingRecord) -> None:
    """Write the training's record, its last file, and drop the checkpoint that only a resumption needs."""
    record.write(folder / RECORD)
    (folder / LAST).unlink(missing_ok=True)


class Run:
    """The state of a training: model, optimiser, history."""

    def __init__(self, config: ExperimentConfig, data: DataSet, folder: Path) -> None:
        self.config, self.data, self.folder = config, data, folder
        self.history: list[Epoch] = []
        self.earlier_seconds = 0.0
        self.started = time.perf_counter()
        self.commit, self.versions = git_commit(), versions()
        held = ExperimentConfig.read(folder / CONFIG).key if (folder / CONFIG).is_file() else config.key
        if held != config.key:
            raise ValueError(
                f"{folder} holds training {held}, not {config.key}; give this training a folder of its own"
            )
        settings = config.training
        tensors, going = read_checkpoint_of(Going, folder / LAST) if (folder / LAST).is_file() else ({}, None)
        self.threads = settings.threads if going is None else going.threads
        if self.threads != settings.threads:
            log.warning("resumed with the %d threads that it started with, not %d", self.threads, settings.threads)
        set_up(self.threads)
        self.device = device_of(config)
        self.code = code_hash(config, self.device.type)
        reset_peak(self.device)
        self.earlier_peak_bytes = 0

        torch.manual_seed(derived_seed(settings.seed))
        self.method = build_method(config.model, config.data, len(data.train.classes)).to(self.device)
        self.parameters = dict(self.method.named_parameters())
        if self.parameters:
            self.optimizer = torch.optim.SGD(
                self.parameters.values(),
                lr=settings.learning_rate,
                momentum=settings.momentum,
                nesterov=settings.nesterov,
                weight_decay=settings.weight_decay,
                fused=True,
            )
        self.augment = Augmentation(config.augmentation, config.data)
        episodes = config.episodes
        self.sampler = EpisodeSampler(
            data.train.labels, episodes.way, episodes.shot, episodes.queries, derived_seed(settings.seed, EPISODES)
        )
        self.labels = torch.from_numpy(data.train.labels)
        validation = EvaluationConfig(
            split="val", episodes=settings.validation_episodes, way=episodes.way, shot=episodes.shot
        )
        self.validation_bank = episode_bank(data.val, validation) if self.parameters else None
        if going is not None:
            self._restore(tensors, going)
            self._keep_if_best()
        else:
            config.write(folder / CONFIG)

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    def next_epoch(self) -> Epoch:
        """Train for one epoch, validate if it is time to, and write the checkpoint."""
        started = time.perf_counter()
        settings = self.config.training
        number = self.epochs_done + 1
        steps = settings.episodes_per_epoch // settings.episodes_per_step
        losses = self.train_steps(range((number - 1) * steps, number * steps))
        accuracy = None
        if settings.validates(number):
            accuracies = episode_accuracies(
                self.method, self.data.val, self.validation_bank, self.augment, settings.precision
            )
            accuracy = float(accuracies.mean())
        epoch = Epoch(
            epoch=number,
            loss=losses.pop("loss"),
            losses=losses,
            learning_rate=learning_rate(number * steps, steps, settings),
            validation_accuracy=accuracy,
            seconds=time.perf_counter() - started,
        )
        self.history.append(epoch)
        self._checkpoint()
        self._keep_if_best()
        return epoch

    def train_steps(self, steps: range) -> dict[str, float]:
        """Run the steps numbered `steps` (from 0) -> mean of every loss. Raises Diverged."""
        settings = self.config.training
        per_epoch = settings.episodes_per_epoch // settings.episodes_per_step
        weights = {"few_shot": settings.few_shot_weight, "global": settings.global_weight}
        self.method.train()
        names: list[str] = []
        seen: list[Tensor] = []
        for step, batch in zip(steps, prefetched(self.read, steps), strict=True):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(step + 1, per_epoch, settings)
            torch.manual_seed(derived_seed(settings.seed, DROPOUT, step))
            with autocast(self.device, settings.precision):
                losses = self.method.losses(self.episode(step, batch))
            loss = sum(weights[name] * value for name, value in losses.items())
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            alive()
            names = ["loss", *losses]
            seen.append(torch.stack([loss.detach(), *(value.detach() for value in losses.values())]))
            if (step + 1) % STEPS_BETWEEN_CHECKS == 0 or step + 1 == steps.stop:
                check_finite(names, seen, steps.start)
        return dict(zip(names, torch.stack(seen).double().mean(0).tolist(), strict=True))

    def read(self, step: int) -> tuple[EpisodeIndices, Stored]:
        """The batch of tasks of a step and its images as stored; pinned for a GPU, which then copies them by itself."""
        size = self.config.training.episodes_per_step
        indices = self.sampler(range(step * size, (step + 1) * size))
        stored = self.augment.read(self.data.train, torch.cat([indices.support.flatten(), indices.query.flatten()]))
        if self.device.type == "cuda" and isinstance(stored, Tensor):
            stored = stored.pin_memory()
        return indices, stored

    def episode(self, step: int, batch: tuple[EpisodeIndices, Stored]) -> Episode:
        """The batch of tasks of a step as it was read, augmented, on the device."""
        indices, stored = batch
        generator = torch.Generator(self.device)
        generator.manual_seed(derived_seed(self.config.training.seed, AUGMENTATION, step))
        images = self.augment.transform(stored, generator)
        supports = indices.support.numel()
        return Episode(
            images[:supports].unflatten(0, indices.support.shape),
            images[supports:].unflatten(0, indices.query.shape),
            indices.targets.to(self.device, non_blocking=True),
            self.labels[indices.query].to(self.device, non_blocking=True),
        )

    def last_means(self) -> dict[str, float]:
        """The losses of the last whole epoch."""
        return {"loss": self.history[-1].loss, **self.history[-1].losses} if self.history else {}

    def _keep_if_best(self) -> None:
        """Keep the weights where the last epoch is the best, or none was validated.

        After the checkpoint, and again on resuming from it: a kill in between leaves best weights that are too old, and
        never those of an epoch that is trained again, which has other bits on a GPU.
        """
        if best_of(self.history) in (None, self.history[-1]):
            self.keep_best(self.epochs_done)

    def keep_best(self, epoch: int) -> None:
        """Write the weights as those to be tested."""
        kept = Kept(key=self.config.key, epoch=epoch, data=self.data.fingerprint)
        write_checkpoint(self.folder / BEST, prefixed("model.", self.method.state_dict()), kept.model_dump(mode="json"))

    def _checkpoint(self) -> None:
        momenta = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.parameters.items()
            if self.optimizer.state.get(parameter, {}).get("momentum_buffer") is not None
        }
        going = Going(
            key=self.config.key,
            threads=self.threads,
            data=self.data.fingerprint,
            seconds=self._seconds(),
            peak_bytes=self._peak_bytes(),
            code=self.code,
            history=tuple(self.history),
        )
        tensors = prefixed("model.", self.method.state_dict()) | prefixed("momentum.", momenta)
        write_checkpoint(self.folder / LAST, tensors, going.model_dump(mode="json"))

    def _restore(self, tensors: dict[str, Tensor], going: Going) -> None:
        if going.key != self.config.key:
            raise ValueError(f"{self.folder / LAST} belongs to training {going.key}, not to {self.config.key}")
        if going.data != self.data.fingerprint:
            raise ValueError(
                f"{self.folder / LAST} was trained on other images of {self.config.data.name!r} than those at "
                f"data.root={self.config.data.root!r}; give back the former root, or delete the file to start anew"
            )
        where, momenta = str(self.folder / LAST), under("momentum.", tensors)
        load_weights(self.method, under("model.", tensors), where)
        check_shapes({name: self.parameters[name] for name in momenta if name in self.parameters}, momenta, where)
        for name, momentum in momenta.items():
            parameter = self.parameters[name]
            self.optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        self.history = list(going.history)
        self.earlier_seconds = going.seconds
        self.earlier_peak_bytes = going.peak_bytes
        self._note_code(going.code or "unknown")

    def _note_code(self, earlier: str) -> None:
        """The record names every code that a training went on under."""
        codes = earlier.split("+")
        if codes[-1] != self.code:
            log.warning("begun by code %s, goes on under %s", earlier, self.code)
            codes.append(self.code)
        self.code = "+".join(codes)

    def _seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.started

    def _peak_bytes(self) -> int:
        return max(self.earlier_peak_bytes, peak_bytes(self.device))

    def record(self, failure: Failure | None) -> TrainingRecord:
        """What this training has come to."""
        best = best_of(self.history)
        return TrainingRecord(
            key=self.config.key,
            config=self.config,
            outcome="finished" if failure is None else "diverged",
            failure=failure,
            history=tuple(self.history),
            best_epoch=best and best.epoch,
            best_validation_accuracy=best and best.validation_accuracy,
            parameters=sum(parameter.numel() for parameter in self.parameters.values()),
            seconds=self._seconds(),
            peak_bytes=self._peak_bytes(),
            provenance=Provenance(
                data_fingerprint=self.data.fingerprint,
                image_sizes=self.data.image_sizes,
                git_commit=self.commit,
                versions=self.versions,
                device=device_name(self.device),
                threads=self.threads,
                code=self.code,
            ),
        )


def learning_rate(iteration: int, steps_per_epoch: int, settings: TrainingConfig) -> float:
    """The rate of an iteration (1 is the first): linear warm-up, then half a cosine down to the floor."""
    warmup, total = settings.warmup_epochs * steps_per_epoch, settings.epochs * steps_per_epoch
    if iteration <= warmup:
        return settings.learning_rate * iteration / warmup
    cosine = 0.5 * (1 + math.cos(math.pi * (iteration - warmup) / (total - warmup)))
    return settings.learning_rate * max(cosine, settings.learning_rate_floor)


def best_of(history: list[Epoch]) -> Epoch | None:
    """The epoch of highest validation accuracy, the first of equals; None before the first validation."""
    validated = [epoch for epoch in history if epoch.validation_accuracy is not None]
    return max(validated, key=lambda epoch: epoch.validation_accuracy, default=None)


def check_finite(names: list[str], losses: list[Tensor], first_step: int) -> None:
    """Raise Diverged for the first row of `losses` that is not finite; row i is step `first_step` + i (from 0)."""
    finite = torch.stack(losses).isfinite().all(1)
    if finite.all():
        return
    row = int(finite.logical_not().nonzero()[0])
    before = dict(zip(names, losses[row - 1].tolist(), strict=True)) if row else {}
    raise Diverged(first_step + row + 1, before)
