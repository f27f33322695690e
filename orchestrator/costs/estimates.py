"""Estimates what trainings will cost, from this store's history or from a calibration.

Sources, in order: records of the same cost class on the same device with as many threads; a calibration of the class;
records or calibrations of another class there, scaled by the FLOPs of the backbones. A cost covers only what is left to
do: finished trainings cost nothing, started ones only their remaining epochs.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dmf.backbones.config import BackboneConfig
from dmf.config import AnyTraining, EvaluationConfig
from dmf.config.sections import TABLE_BYTES
from dmf.machine.processor import cpu_name
from dmf.records.records import RECORD, TrainingRecord
from dmf.training.schedule import validates
from orchestrator.costs.rates import (
    Calibration,
    Images,
    Rates,
    cost_class,
    distinct_images,
    flops_per_image,
    images_forwarded,
    merged,
    of_record,
    validation_of,
)
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger

log = logging.getLogger("dmf.estimates")

RECORDS_READ = 200
"""How many of a store's records are read, the newest ones."""
GPU_DRIVER = Path("/proc/driver/nvidia/version")
"""If it is missing, there is no need to wait for torch to find no GPU."""

Source = Literal["records", "calibration", "FLOPs", "done", "unknown"]
"""The source of an estimate."""
LEAST_SPREAD: dict[Source, float] = {"records": 1.1, "calibration": 1.3, "FLOPs": 2.0}
"""The range extends from the estimate divided by this to the estimate times this, or further if epochs vary more:
machines are never more regular, a few steps are not a training, and models reach different shares of a device's FLOP
rate."""


FLOPS_OF_A_CORE, FLOPS_OF_A_GPU = 5e10, 1e14
"""FLOPs per second that convolutions hardly exceed, in float32 and bfloat16. Small models and busy machines reach a
hundredth of that, and less, so what is scaled from them may take as little time as these say."""


@dataclass(frozen=True)
class Cost:
    """The cost of what is left to do of one trial."""

    seconds: float | None
    """None: unknown."""
    seconds_low: float | None
    seconds_high: float | None
    bytes: int | None
    """Peak memory of the process, or of the GPU if it trains on one."""
    source: Source
    earlier_seconds: float = 0.0
    """Time that the store already has recorded for the trial."""


DONE = Cost(0.0, 0.0, 0.0, None, "done")
UNKNOWN = Cost(None, None, None, None, "unknown")


def estimate(
    trials: Sequence[Trial],
    ledger: Ledger,
    calibration: Calibration,
    anew: Collection[str] = (),
    whole: Mapping[str, bool] | None = None,
) -> dict[str, Cost]:
    """The cost of every trial, by key; trials in `anew` count from their beginning.

    `whole` says by key which have all their records, if that has been looked up.
    """
    whole = whole or {trial.key: ledger.state(trial) in ("done", "diverged") for trial in trials}
    known = {} if all(whole[t.key] and t.key not in anew for t in trials) else known_rates(ledger, calibration)
    costs = {}
    for trial in trials:
        if whole[trial.key] and trial.key not in anew:
            costs[trial.key] = DONE
        elif found := _rates_for(trial.config, known) if known else None:
            done, spent, left = (0, 0.0, list(trial.evaluations)) if trial.key in anew else _progress(trial, ledger)
            costs[trial.key] = _cost(trial, *found, done, spent, left, _images(trial.config, calibration))
        else:
            costs[trial.key] = UNKNOWN
    return costs


def known_rates(ledger: Ledger, calibration: Calibration) -> dict[tuple[str, str, int], tuple[Rates, Source]]:
    """The rates of every known class, device and number of threads, and their source."""
    seen: dict[tuple[str, str, int], list[Rates]] = {}
    for rates in _rates_seen(ledger, calibration):
        seen.setdefault(rates.place, []).append(rates)
    known: dict[tuple[str, str, int], tuple[Rates, Source]]
    known = {rates.place: (rates, "calibration") for rates in calibration.measured}
    for place, several in seen.items():
        rates = merged(several)
        if rates.peak_bytes is None and place in known:
            calibrated = known[place][0]
            rates = rates.replace(peak_bytes=calibrated.peak_bytes, image_bytes=calibrated.image_bytes)
        known[place] = rates, "records"
    return known


def _rates_seen(ledger: Ledger, calibration: Calibration) -> Iterator[Rates]:
    """The rates of the newest trainings; a record that cannot be read is left out with a warning."""
    for path in _newest_records(ledger):
        try:
            record = TrainingRecord.read(path)
            tests = ledger.evaluations(path.parent.name)
        except ValueError as error:
            log.warning("estimates leave out %s: %s", path.parent, " ".join(str(error).split())[:300])
            continue
        rates = of_record(record, tests, _images(record.config, calibration))
        if rates is not None:
            yield rates


def _newest_records(ledger: Ledger) -> list[Path]:
    """Paths of the newest records, which takes one look at each."""
    found: list[tuple[int, Path]] = []
    for key in ledger.kept_keys():
        path = ledger.folder(key) / RECORD
        with contextlib.suppress(FileNotFoundError):
            found.append((path.stat().st_mtime_ns, path))
    return [path for _, path in sorted(found)[-RECORDS_READ:]]


def _images(config: AnyTraining, calibration: Calibration) -> Images:
    """Sizes of a training's splits, from the known data sets or from a calibration."""
    from dmf.data.sets import DATASETS, QUARTER_TURNS  # torch takes seconds to import

    facts = DATASETS.get(config.data.name)
    if facts is None or facts.images is None:
        return calibration.images_of(config.data)
    times = QUARTER_TURNS if config.data.rotations_as_classes else 1
    return dict(zip(("train", "val", "test"), (times * count for count in facts.images), strict=True))


def _rates_for(
    config: AnyTraining, known: dict[tuple[str, str, int], tuple[Rates, Source]]
) -> tuple[Rates, Source] | None:
    """Rates for a training and their source; None if nothing is similar."""
    device, threads = device_here(config.training.device), config.training.threads
    if device is None:
        return None
    place = cost_class(config), device, threads
    if place in known:
        return known[place]
    alike = [
        rates
        for rates, _ in known.values()
        if (rates.device, rates.threads) == (device, threads)
        and rates.config.training.precision == config.training.precision
        and rates.episode_seconds
        and flops_per_image(rates.config)
    ]
    if not alike or not flops_per_image(config):
        return None

    def distance(rates: Rates) -> tuple[bool, float]:
        return _backbone(rates.config) != _backbone(config), abs(math.log(_work(config) / _work(rates.config)))

    nearest = min(alike, key=distance)
    return nearest.scaled(config), "FLOPs"


def _work(config: AnyTraining) -> int:
    return flops_per_image(config) * config.images_per_batch


def _backbone(config: AnyTraining) -> str:
    return config.model.backbone if isinstance(config.model, BackboneConfig) else ""


@functools.cache
def device_here(wanted: str) -> str | None:
    """The name in records of the device that `training.device` selects here; None if it is missing."""
    if not GPU_DRIVER.exists():
        return None if wanted == "cuda" else cpu_name()
    import torch

    from dmf.machine.device import device_name

    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        return None
    return device_name(torch.device("cuda" if there and wanted != "cpu" else "cpu"))


def _cost(
    trial: Trial,
    rates: Rates,
    source: Source,
    done: int,
    earlier: float,
    tests: list[EvaluationConfig],
    images: Images,
) -> Cost:
    """The cost of the rest of a trial: `done` epochs took `earlier` seconds, and `tests` are to be made."""
    settings = trial.config.training
    left = range(done + 1, settings.epochs + 1) if rates.episode_seconds else range(0)
    training = len(left) * trial.config.batches_per_epoch * statistics.median(rates.episode_seconds or [0.0])
    validations = sum(validates(epoch, settings) for epoch in left)
    seconds = training + validations * _evaluation_seconds(validation_of(trial.config), rates, images)
    seconds += sum(_evaluation_seconds(test, rates, images) for test in tests)
    seconds += rates.start_seconds if done < settings.epochs else 0.0
    low, high = _spread(rates.episode_seconds, LEAST_SPREAD[source])
    if source == "FLOPs" and seconds:
        images_seen: float = 3 * len(left) * trial.config.batches_per_epoch * trial.config.images_per_batch
        images_seen += sum(images_forwarded(trial.config, test, images) for test in tests)
        low = min(low, images_seen * flops_per_image(trial.config) / _flops_at_most(rates) / seconds)
    peak = _peak_bytes(rates, [*([validation_of(trial.config)] if validations else []), *tests], images)
    return Cost(seconds, seconds * low, seconds * high, peak, source, earlier)


def _flops_at_most(rates: Rates) -> float:
    return rates.threads * FLOPS_OF_A_CORE if rates.device == cpu_name() else FLOPS_OF_A_GPU


def _evaluation_seconds(evaluation: EvaluationConfig, rates: Rates, images: Images) -> float:
    forwards = images_forwarded(rates.config, evaluation, images) * rates.image_seconds
    return forwards + evaluation.tested * rates.test_episode_seconds


def _peak_bytes(rates: Rates, evaluations: Sequence[EvaluationConfig], images: Images) -> int | None:
    if rates.peak_bytes is None:
        return None
    kept = max((distinct_images(evaluation, images) for evaluation in evaluations), default=0.0) * rates.image_bytes
    return rates.peak_bytes + min(round(kept), TABLE_BYTES)


def _spread(seconds: Sequence[float], least: float) -> tuple[float, float]:
    """Factors for a range's ends: the middle 80 % of epochs relative to their median, and at least `least`."""
    if len(seconds) < 2 or not (middle := statistics.median(seconds)):
        return 1 / least, least
    tenths = statistics.quantiles(seconds, n=10, method="inclusive")
    return min(1 / least, tenths[0] / middle), max(least, tenths[-1] / middle)


def _progress(trial: Trial, ledger: Ledger) -> tuple[int, float, list[EvaluationConfig]]:
    """Epochs done, seconds spent, and remaining tests."""
    try:
        record = ledger.training(trial.key)
        if record is not None and record.outcome == "finished":
            tests = {test.evaluation_key: test.seconds for test in ledger.evaluations(trial.key)}
            missing = [evaluation for evaluation in trial.evaluations if evaluation.key not in tests]
            return trial.config.training.epochs, record.seconds + sum(tests.values()), missing
        at = ledger.checkpoint(trial.key)
    except ValueError:  # one of them cannot be read; the trial will report that
        at = None
    return (len(at.history), at.seconds, list(trial.evaluations)) if at else (0, 0.0, list(trial.evaluations))
