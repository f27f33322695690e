"""The training loop: steps, learning-rate schedule, checkpoints, and selection of the best epoch by validation.

Every step draws its batch, its augmentation and its dropout from seeds derived from (seed, step). No generator's state
outlives a step, so a run that is stopped after any epoch and resumed ends with the same bits as one that never stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dmf.backbones import image_flops
from dmf.backbones.config import BackboneConfig
from dmf.config import AnyTraining
from dmf.data.prefetch import prefetched
from dmf.data.sets import DataSet
from dmf.draws import derived_seed
from dmf.machine.clock import Clock
from dmf.machine.device import device_name, device_of, peak_bytes, reset_peak, set_up
from dmf.machine.precision import check_precision, pinned
from dmf.machine.watchdog import alive
from dmf.records.checkpoints import (
    load_weights,
    prefixed,
    read_checkpoint_of,
    under,
    weights_checksum,
    write_checkpoint,
)
from dmf.records.provenance import code_hash, git_commit, versions
from dmf.records.records import (
    BEST,
    CONFIG,
    FORMAT,
    LAST,
    RECORD,
    Epoch,
    Failure,
    Going,
    Kept,
    Provenance,
    TrainingRecord,
    read_training,
)
from dmf.training.optimiser import build_optimiser, restore, set_rate, state_of
from dmf.training.schedule import best_of, learning_rate, validates
from dmf.training.stage import build_stage
from dmf.training.streams import DROPOUT

log = logging.getLogger("dmf.training")

STEPS_BETWEEN_CHECKS = 20
"""Steps between checks of the losses for NaN and infinity; in between, losses stay on the device."""


class Diverged(Exception):
    """A loss is not finite.

    `step` counts from 1; `last_finite` holds the losses of the step before, or nothing at an epoch's first step.
    """

    def __init__(self, step: int, last_finite: dict[str, float]) -> None:
        super().__init__(f"the loss is not finite at step {step}")
        self.step, self.last_finite = step, last_finite


def train(
    config: AnyTraining,
    data: DataSet,
    folder: Path,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    start: Path | None = None,
) -> TrainingRecord:
    """Train as `config` says, resuming from the checkpoint in `folder` if there is one, and keep the best weights.

    `start` is the file with the weights of the training that `config` starts from, if any.

    `on_epoch` is called after each epoch, when its checkpoint is on disk; an exception that it raises is not caught. A
    loss that is not finite ends the training with outcome "diverged". Returns the record; `close` writes it.
    """
    run = Run(config, data, folder, start)
    failure = None
    try:
        while run.epochs_done < config.training.epochs and run.stage.learns:
            on_epoch(run.next_epoch())
        if not run.stage.learns:
            run.keep_best(epoch=0)
    except Diverged as error:
        failure = Failure(reason=str(error), step=error.step, last_finite=error.last_finite or run.last_means())
    return run.record(failure)


def close(folder: Path, record: TrainingRecord) -> None:
    """Write the training's record, and delete the checkpoint, which only a resumed training needs."""
    record.write(folder / RECORD)
    (folder / LAST).unlink(missing_ok=True)


class Run:
    """The state of a training: its stage, optimiser and history."""

    def __init__(self, config: AnyTraining, data: DataSet, folder: Path, start: Path | None = None) -> None:
        """`start` is the file with the weights of the training that `config` starts from, if any."""
        self.config, self.data, self.folder = config, data, folder
        self.history: list[Epoch] = []
        self.clock = Clock()
        self.commit, self.versions = git_commit(), versions()
        _check_folder(folder, config.key)
        resumed = read_checkpoint_of(Going, folder / LAST) if (folder / LAST).is_file() else None
        self.earlier = resumed[1] if resumed else None
        self.threads = self._set_up()
        self.device = device_of(config.training.device)
        check_precision(self.device, config.training.precision)
        self.code = code_hash(config, self.device.type)
        reset_peak(self.device)
        torch.manual_seed(derived_seed(config.training.seed))
        self.stage = build_stage(config, data, self.device, start)
        self.optimiser = build_optimiser(self.stage.module, config.training) if self.stage.learns else None
        if resumed:
            self._restore(resumed[0], resumed[1])
            self._keep_if_best()
        else:
            config.write(folder / CONFIG)

    def _set_up(self) -> int:
        """Set the number of threads, which is that of the first start if the training is resumed, and return it."""
        threads = self.config.training.threads if self.earlier is None else self.earlier.threads
        if threads != self.config.training.threads:
            log.warning(
                "resumed with %d threads, as when it started, instead of %d", threads, self.config.training.threads
            )
        set_up(threads)
        return threads

    @property
    def epochs_done(self) -> int:
        return len(self.history)

    def next_epoch(self) -> Epoch:
        """Train for one epoch, validate if it is due, and write the checkpoint."""
        clock = Clock()
        settings = self.config.training
        number = self.epochs_done + 1
        steps = self.stage.steps_per_epoch
        losses = self.train_steps(range((number - 1) * steps, number * steps))
        accuracy = self.stage.validate() if validates(number, settings) else None
        epoch = Epoch(
            epoch=number,
            loss=losses.pop("loss"),
            losses=losses,
            learning_rate=learning_rate(number * steps, steps, settings),
            validation_accuracy=accuracy,
            seconds=clock.seconds,
        )
        self.history.append(epoch)
        self._checkpoint()
        self._keep_if_best()
        return epoch

    def train_steps(self, steps: range) -> dict[str, float]:
        """Run the steps numbered `steps` (from 0) and return the mean of every loss. Raises Diverged."""
        with pinned(self.config.training.precision):
            return self._train_steps(steps)

    def _train_steps(self, steps: range) -> dict[str, float]:
        settings, stage, optimiser = self.config.training, self.stage, self.optimiser
        assert optimiser is not None
        stage.module.train()
        names: list[str] = []
        seen: list[Tensor] = []
        for step, batch in zip(steps, prefetched(stage.read, steps), strict=True):
            set_rate(optimiser, learning_rate(step + 1, stage.steps_per_epoch, settings))
            torch.manual_seed(derived_seed(settings.seed, DROPOUT, step))
            losses = stage.losses(step, batch)
            optimiser.zero_grad(set_to_none=True)
            losses.total.backward()
            optimiser.step()
            alive()
            names = ["loss", *losses.parts]
            seen.append(torch.stack([losses.total.detach(), *(value.detach() for value in losses.parts.values())]))
            if (step + 1) % STEPS_BETWEEN_CHECKS == 0 or step + 1 == steps.stop:
                check_finite(names, seen, steps.start)
        return dict(zip(names, torch.stack(seen).double().mean(0).tolist(), strict=True))

    def last_means(self) -> dict[str, float]:
        """The mean losses of the last complete epoch."""
        return {"loss": self.history[-1].loss, **self.history[-1].losses} if self.history else {}

    def _keep_if_best(self) -> None:
        """Keep the weights if the last epoch is the best so far, or if no epoch has been validated yet.

        This runs after each checkpoint, and again on resuming. A kill in between then leaves weights that are too old,
        but never those of an epoch that will be trained again, which on a GPU would end with other bits.
        """
        if best_of(self.history) in (None, self.history[-1]):
            self.keep_best(self.epochs_done)

    def keep_best(self, epoch: int) -> None:
        """Write the present weights as the best ones, which evaluations use."""
        kept = Kept(key=self.config.key, epoch=epoch, data=self.data.fingerprint)
        tensors = prefixed("model.", self.stage.module.state_dict())
        write_checkpoint(self.folder / BEST, tensors, kept.model_dump(mode="json"))

    def _checkpoint(self) -> None:
        assert self.optimiser is not None
        going = Going(
            key=self.config.key,
            threads=self.threads,
            data=self.data.fingerprint,
            seconds=self._seconds(),
            cpu_seconds=self._cpu_seconds(),
            peak_bytes=self._peak_bytes(),
            code=self.code,
            history=tuple(self.history),
        )
        tensors = prefixed("model.", self.stage.module.state_dict())
        tensors |= state_of(self.optimiser, self.stage.module, self.config.training)
        write_checkpoint(self.folder / LAST, tensors, going.model_dump(mode="json"))

    def _restore(self, tensors: dict[str, Tensor], going: Going) -> None:
        if going.key != self.config.key:
            raise ValueError(f"{self.folder / LAST} belongs to training {going.key}, not to {self.config.key}")
        if going.data != self.data.fingerprint:
            raise ValueError(
                f"{self.folder / LAST} was trained on other images of {self.config.data.name!r} than those at "
                f"data.root={self.config.data.root!r}; set data.root as before, or delete the file to start over"
            )
        assert self.optimiser is not None
        where, model = str(self.folder / LAST), self.stage.module
        load_weights(model, under("model.", tensors), where)
        state = {name: tensor for name, tensor in tensors.items() if not name.startswith("model.")}
        restore(self.optimiser, model, self.config.training, state, where)
        self.history = list(going.history)
        self._note_code(going.code or "unknown")

    def _note_code(self, earlier: str) -> None:
        """Add today's code, if it differs, to those that the training has run with; the record lists them all."""
        codes = earlier.split("+")
        if codes[-1] != self.code:
            log.warning("this training started with code %s and continues with code %s", earlier, self.code)
            codes.append(self.code)
        self.code = "+".join(codes)

    def _seconds(self) -> float:
        return (self.earlier.seconds if self.earlier else 0.0) + self.clock.seconds

    def _cpu_seconds(self) -> float | None:
        """None if the training began where nothing measured it."""
        earlier = self.earlier.cpu_seconds if self.earlier else 0.0
        return None if earlier is None else earlier + self.clock.cpu_seconds

    def _peak_bytes(self) -> int:
        return max(self.earlier.peak_bytes if self.earlier else 0, peak_bytes(self.device))

    def record(self, failure: Failure | None) -> TrainingRecord:
        """The record of this training."""
        best = best_of(self.history)
        return TrainingRecord(
            format=FORMAT,
            key=self.config.key,
            config=self.config,
            outcome="finished" if failure is None else "diverged",
            failure=failure,
            history=tuple(self.history),
            best_epoch=best.epoch if best else None,
            best_validation_accuracy=best.validation_accuracy if best else None,
            parameters=sum(parameter.numel() for parameter in self.stage.module.parameters()),
            image_flops=self._image_flops(),
            validation=self.stage.validation,
            start=self.stage.started,
            weights=weights_checksum(self.folder / BEST) if (self.folder / BEST).is_file() else "",
            seconds=self._seconds(),
            cpu_seconds=self._cpu_seconds(),
            peak_bytes=self._peak_bytes(),
            provenance=Provenance(
                data_fingerprint=self.data.fingerprint,
                image_sizes=self.data.image_sizes,
                git_commit=self.commit,
                versions=self.versions,
                device=device_name(self.device),
                device_type="cuda" if self.device.type == "cuda" else "cpu",
                threads=self.threads,
                code=self.code,
                data_doubts=self.data.doubts,
            ),
        )

    def _image_flops(self) -> int | None:
        """Of the backbone; None if there is none."""
        model, data = self.config.model, self.config.data
        return image_flops(model, data.channels, data.image_size) if isinstance(model, BackboneConfig) else None


def _check_folder(folder: Path, key: str) -> None:
    """Raise ValueError if the folder holds another training."""
    held = read_training(folder / CONFIG).key if (folder / CONFIG).is_file() else key
    if held != key:
        raise ValueError(f"{folder} holds training {held}, not {key}; use another folder for this training")


def check_finite(names: list[str], losses: list[Tensor], first_step: int) -> None:
    """Raise Diverged for the first row of `losses` that is not finite; row i is step `first_step` + i (from 0)."""
    finite = torch.stack(losses).isfinite().all(1)
    if finite.all():
        return
    row = int(finite.logical_not().nonzero()[0])
    before = dict(zip(names, losses[row - 1].tolist(), strict=True)) if row else {}
    raise Diverged(first_step + row + 1, before)
