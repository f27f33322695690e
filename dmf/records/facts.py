"""The parts of records that tables and standings need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasPath, ConfigDict, Field

from dmf.records.classes import drawn_classes, sums_by_class
from dmf.records.records import Epoch, EvaluationRecord, Failure
from dmf.values import Checked, Value


class MadeBy(Value):
    """The part of a record's provenance that decides whether it is stale and what it may be compared with."""

    model_config = ConfigDict(extra="ignore")

    format: int = 1
    """The record's format; a training's provenance does not hold it."""
    data_fingerprint: str
    image_sizes: str = ""
    """A training's image sizes as found on disk; empty if not known."""
    code: str = ""
    git_commit: str | None = None
    device: str = ""
    device_type: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    data_doubts: tuple[str, ...] = ()
    """Of a training: what was left out, converted or found twice among its images."""


class Ended(Checked):
    """What tables and standings need from a training's record: all but the curves, which take up most of it."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    format: int = 1
    outcome: Literal["finished", "diverged", "failed"]
    failure: Failure | None = None
    parameters: int | None = None
    image_flops: int | None = None
    seconds: float = 0.0
    cpu_seconds: float | None = None
    peak_bytes: int | None = None
    best_validation_accuracy: float | None = None
    provenance: MadeBy | None = None
    start_weights: Annotated[str | None, Field(validation_alias=AliasPath("start", "weights"))] = None
    """SHA-256 of the weights that it started from; None if these were random, or of a file."""
    data_root: Annotated[str | None, Field(validation_alias=AliasPath("config", "data", "root"))] = None

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU trained it."""
        return self.provenance is not None and self.provenance.device_type == "cuda"

    @property
    def minutes(self) -> float:
        """What it cost: minutes of a GPU, or core-minutes.

        These are CPU time or, where a record does not hold it, wall time times threads.
        """
        if not self.on_gpu and self.cpu_seconds is not None:
            return self.cpu_seconds / 60
        return self.seconds / 60 * (self.provenance.threads if self.provenance and not self.on_gpu else 1)


class Point(Value):
    """An epoch of a training's curves, as in `Epoch`."""

    model_config = ConfigDict(extra="ignore")

    epoch: int
    loss: float
    validation_accuracy: float | None = None


class Curves(Checked):
    """A training's curves, which only a page draws."""

    model_config = ConfigDict(extra="ignore")

    history: tuple[Point, ...] = ()

    @classmethod
    def of(cls, history: Iterable[Epoch]) -> Curves:
        """Extract them from a record's history."""
        told = (Point(epoch=e.epoch, loss=e.loss, validation_accuracy=e.validation_accuracy) for e in history)
        return cls(history=tuple(told))


@dataclass(frozen=True, eq=False)
class Tested:
    """What tables need from an evaluation's record."""

    name: str
    """`training key/evaluation key`, as in the record."""
    config_key: str
    """Key of the settings in the record."""
    accuracy: float
    ci95: float
    bank: str
    data_fingerprint: str
    code: str
    format: int
    accuracies: NDArray[np.float64]
    """[E]: accuracy of every episode."""
    data_doubts: tuple[str, ...] = ()
    class_sums: tuple[int, ...] = ()
    """[C]: correct answers in the episodes that draw a class, for each class of the split; empty if the record does not
    say how many classes there are, as in format 1."""
    counts: dict[str, int] = field(default_factory=dict)
    """As in the record."""
    seconds: float = 0.0
    """Wall time of the evaluation, its images' forward passes included."""
    cpu_seconds: float | None = None
    """CPU time likewise."""

    @classmethod
    def of(cls, record: EvaluationRecord) -> Tested:
        """Extract it from a complete record."""
        accuracies = record.accuracies
        return cls(
            name=f"{record.training_key}/{record.evaluation_key}",
            config_key=record.config.key,
            accuracy=record.accuracy,
            ci95=record.ci95,
            bank=record.bank,
            data_fingerprint=record.data_fingerprint,
            code=record.code,
            format=record.format,
            accuracies=accuracies,
            class_sums=_class_sums(record, accuracies),
            data_doubts=record.data_doubts,
            counts=record.counts,
            seconds=record.seconds,
            cpu_seconds=record.cpu_seconds,
        )


def _class_sums(record: EvaluationRecord, accuracies: NDArray[np.float64]) -> tuple[int, ...]:
    if record.classes is None or not record.correct:
        return ()
    # Whole numbers again: cheaper than to go through all of the record's counts once more.
    correct = np.rint(accuracies * (record.config.way * record.config.queries)).astype(np.int64)
    return sums_by_class(drawn_classes(record.config, record.classes, len(correct)), correct, record.classes)
