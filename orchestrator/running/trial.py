"""Runs one trial in plain Python: train and test what is missing, and write the records."""

from __future__ import annotations

import contextlib
import errno
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from dmf.config import AnyTraining, EvaluationConfig, ExperimentConfig
from dmf.data.sets import images_for, images_of
from dmf.evaluation.evaluate import evaluate_folder
from dmf.evaluation.partial import remove_partial
from dmf.evaluation.tasks import check_bank, check_base
from dmf.machine.watchdog import watched
from dmf.records.checkpoints import read_checkpoint_of, weights_checksum
from dmf.records.records import (
    BEST,
    DAMAGED_BEST,
    FORMAT,
    LAST,
    STACKS,
    Epoch,
    Going,
    Kept,
    TrainingRecord,
    damaged_weights,
    without_weights,
)
from dmf.training.run import close, train
from dmf.values import Damaged
from orchestrator.running.faults import failure_of
from orchestrator.store.bucket.mirror import RemoteStore
from orchestrator.store.bucket.training import RemoteTraining
from orchestrator.store.ledger import Ledger, local_folder

log = logging.getLogger("dmf.trial")


class DamagedStage(Damaged):
    """The weights of the pre-training that a training starts from are damaged."""


def run_trial(
    config: AnyTraining,
    evaluations: tuple[EvaluationConfig, ...],
    store: str | Path,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    timeout_s: float | None = None,
    keep_weights: bool = True,
    alive: Callable[[], None] = lambda: None,
) -> TrainingRecord:
    """Complete one trial in `store`, from wherever it stands, and return the training's record.

    If the store is an object store, the trial works on a local copy, which is uploaded after every epoch.

    With `timeout_s`, this process ends when it shows no sign of life for that long (`dmf.machine.watchdog`), and passes
    signs on by calling `alive`. It waits for another process that works on the trial for as long, then TimeoutError
    names that one.

    If a checkpoint of a training that has not ended is damaged, the training starts from its beginning. Damaged weights
    of one that has ended are put aside.

    An exception in the training is recorded, with its traceback, and raised. One in an evaluation leaves the
    training's record as it is. A training that diverged has ended and is not tested. Without `keep_weights`, the best
    weights are deleted once all evaluations are recorded.
    """
    if RemoteStore.is_remote(str(store)):
        return _run_remote_trial(config, evaluations, str(store), on_epoch, timeout_s, keep_weights, alive)
    ledger = Ledger(Path(store))
    with (
        ledger.holding(config.key, timeout_s) as folder,
        _logging_to(folder / "log.txt"),
        _watched(folder / STACKS, timeout_s, alive),
    ):
        record = ledger.training(config.key)
        if record is not None and record.outcome == "failed":
            ledger.reopen(config.key)
            record = None
        if record is None:
            ledger.drop_tests(config.key)  # of a training whose record somebody has removed
            _check_checkpoints(folder)
            _check_stage(config, ledger)
            record = _trained(config, evaluations, ledger, on_epoch)
        else:
            (folder / LAST).unlink(missing_ok=True)  # left by a kill after the record was written
        if record.outcome == "finished":
            missing = [e for e in evaluations if not ledger.tested(config.key, e.key)]
            if missing:
                assert isinstance(config, ExperimentConfig)
                _check_weights(ledger, record)
                for evaluation in missing:
                    data = images_for(config, evaluation)
                    ledger.write_evaluation(evaluate_folder(folder, config, evaluation, data))
                    remove_partial(folder, evaluation.key)
        if not keep_weights and config.kind == "experiment":  # other trainings start from a pre-training's weights
            (folder / BEST).unlink(missing_ok=True)
        return record


def _check_checkpoints(folder: Path) -> bool:
    """Delete both checkpoints of a training if one is damaged, so that it starts from its beginning; say whether."""
    for kind, name in ((Going, LAST), (Kept, BEST)):
        try:
            read_checkpoint_of(kind, folder / name)
        except FileNotFoundError:
            continue
        except Damaged as error:
            log.warning("the training starts from its beginning: %s", error)
            for each in (LAST, BEST):
                (folder / each).unlink(missing_ok=True)
            return True
    return False


def _check_stage(config: AnyTraining, ledger: Ledger) -> None:
    """Raise DamagedStage, and put the weights aside, if those of the pre-training that `config` needs are damaged."""
    if config.stage is None:
        return
    stage = config.stage.key
    try:
        read_checkpoint_of(Kept, ledger.folder(stage) / BEST)
    except Damaged:
        ledger.put_weights_aside(stage)
    except FileNotFoundError:
        if not ledger.has_damaged_weights(stage):
            return  # building the model says what is missing
    else:
        return
    raise DamagedStage(damaged_weights(stage))


def _check_weights(ledger: Ledger, record: TrainingRecord) -> None:
    """Raise ValueError unless the weights are there, whole, and those of the record. Damaged ones are put aside."""
    path = ledger.folder(record.key) / BEST
    if not path.is_file():
        aside = ledger.has_damaged_weights(record.key)
        raise ValueError(damaged_weights(record.key) if aside else without_weights(record.key))
    try:
        epoch = read_checkpoint_of(Kept, path)[1].epoch
    except Damaged as error:
        log.warning("the weights are put aside: %s", error)
        ledger.put_weights_aside(record.key)
        raise Damaged(damaged_weights(record.key)) from error
    best = len(record.history) if record.best_epoch is None else record.best_epoch
    if epoch != best or record.weights not in ("", weights_checksum(path)):
        raise ValueError(
            f"training {record.key} has other weights, of epoch {epoch}, than its record, whose best epoch is {best}; "
            f"remove its folder trainings/{record.key} from the store to retrain it"
        )


def _run_remote_trial(
    config: AnyTraining,
    evaluations: tuple[EvaluationConfig, ...],
    store: str,
    on_epoch: Callable[[Epoch], None],
    timeout_s: float | None,
    keep_weights: bool,
    alive: Callable[[], None],
) -> TrainingRecord:
    folder = local_folder(store) / "work" / config.key
    training = RemoteTraining(RemoteStore(store), folder, config.key)
    with Ledger(folder).driving(wait=True):
        with _away_may_pass(store):
            training.fetch()
            if config.stage is not None:
                training.remote.pull(folder, f"trainings/{config.stage.key}", (BEST, DAMAGED_BEST))

        def brought(epoch: Epoch) -> None:
            training.epoch()
            on_epoch(epoch)

        try:
            return run_trial(config, evaluations, folder, brought, timeout_s, keep_weights, alive)
        finally:
            with _away_may_pass(store):
                training.finish()
            shutil.rmtree(folder)


@contextlib.contextmanager
def _away_may_pass(store: str) -> Iterator[None]:
    """Give an object store's error, which has no number, that of a file system that is away."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.EIO, f"{store} does not answer: {error}") from error
        raise


def _trained(
    config: AnyTraining,
    evaluations: tuple[EvaluationConfig, ...],
    ledger: Ledger,
    on_epoch: Callable[[Epoch], None],
) -> TrainingRecord:
    folder = ledger.folder(config.key)
    try:
        data = images_of(config)
        for evaluation in evaluations:  # raises for what cannot be tested, before it is trained
            assert isinstance(config, ExperimentConfig)
            check_bank(images_for(config, evaluation).split(evaluation.split), evaluation.resolve(config))
            check_base(config, evaluation, data.train)
        start = ledger.folder(config.stage.key) / BEST if config.stage else None
        try:
            record = train(config, data, folder, on_epoch, start)
        except Damaged:  # it may be the best weights, which were whole when they were written
            if not _check_checkpoints(folder):
                raise
            record = train(config, data, folder, on_epoch, start)
    except Exception as error:
        failed = TrainingRecord(
            format=FORMAT, key=config.key, config=config, outcome="failed", failure=failure_of(error)
        )
        ledger.write_training(failed)
        raise
    close(folder, record)
    return record


@contextlib.contextmanager
def _watched(stacks: Path, timeout_s: float | None, alive: Callable[[], None]) -> Iterator[None]:
    """Watch over this process, and log the stacks of an earlier one that was ended."""
    if stacks.is_file() and (told := stacks.read_text(encoding="utf-8")):
        log.warning("the previous process showed no sign of life and was ended; its stacks:\n%s", told)
    with watched(timeout_s, stacks, alive) if timeout_s else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Append the `dmf` loggers' messages to a file."""
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
