"""One trial, as plain Python: train what is not trained, test what is not tested, write both down."""

from __future__ import annotations

import contextlib
import functools
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from dmf.config import AugmentationConfig, DataConfig, EvaluationConfig, ExperimentConfig
from dmf.data import DataSet, open_for
from dmf.evaluation import evaluate_folder
from dmf.records import LAST, Epoch, Failure, TrainingRecord
from dmf.training import close, train
from orchestrator.ledger import Ledger

log = logging.getLogger("dmf.trial")

DATA_SETS_OPEN = 4
"""That a process keeps open for its next trials: memory maps, whose pages all processes share."""


def run_trial(
    config: ExperimentConfig,
    evaluations: tuple[EvaluationConfig, ...],
    store: Path,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainingRecord:
    """Bring one trial to its end in `store`, from wherever it stands, and return the training's record.

    An exception in the training becomes its record, with the traceback, and goes on up. One in an evaluation leaves
    the training's record as it is. A training that diverged has ended; it is not tested.
    """
    ledger = Ledger(store)
    with ledger.holding(config.key) as folder, _logging_to(folder / "log.txt"):
        record = ledger.training(config.key)
        if record is not None and record.outcome == "failed":
            ledger.reopen(config.key)
            record = None
        if record is None:
            record = _trained(config, ledger, on_epoch)
        else:
            (folder / LAST).unlink(missing_ok=True)  # left by a kill between the record and its removal
        if record.outcome == "finished":
            missing = [e for e in evaluations if ledger.evaluation(config.key, e.key) is None]
            if missing:
                data = images_of(config)
                for evaluation in missing:
                    ledger.write_evaluation(evaluate_folder(folder, config, evaluation, data))
        return record


def _trained(config: ExperimentConfig, ledger: Ledger, on_epoch: Callable[[Epoch], None]) -> TrainingRecord:
    folder = ledger.folder(config.key)
    try:
        data = images_of(config)
        record = train(config, data, folder, on_epoch)
    except Exception as error:
        failure = Failure(reason=one_line(error), traceback=traceback.format_exc())
        ledger.write_training(TrainingRecord(key=config.key, config=config, outcome="failed", failure=failure))
        raise
    close(folder, record)
    return record


def images_of(config: ExperimentConfig) -> DataSet:
    """The data set of a training; a process opens each once."""
    data = _opened(config.data, config.augmentation.crop)
    log.info("images: %s, %s, fingerprint %s", data.name, data.layout, data.fingerprint[:16])
    return data


@functools.lru_cache(maxsize=DATA_SETS_OPEN)
def _opened(data: DataConfig, crop: Literal["none", "padded", "resized"]) -> DataSet:
    return open_for(ExperimentConfig(data=data, augmentation=AugmentationConfig(crop=crop)))


def one_line(error: BaseException) -> str:
    """An exception as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Add what the product logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logger = logging.getLogger("dmf")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
