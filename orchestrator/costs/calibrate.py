"""Measures the cost of trainings in advance, with a few real steps and validation episodes of every cost class.

Each class is measured in its own process (this module as a command, configuration on stdin, `Rates` on stdout), to get
its own peak memory. The store keeps the results, and they are measured again only on request.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from dmf.config import AnyTraining, EvaluationConfig
from dmf.data.layouts.layouts import SPLITS
from dmf.data.sets import DataSet, ImageSplit, open_for
from dmf.episodes import EpisodeIndices
from dmf.evaluation.bank import validation_bank
from dmf.evaluation.evaluate import episode_accuracies
from dmf.evaluation.tables import image_table
from dmf.evaluation.tasks import validation_task
from dmf.machine.device import device_name, peak_bytes
from dmf.machine.files import temporary_folder
from dmf.machine.precision import autocast
from dmf.methods.config import AlignmentConfig
from dmf.records.records import BEST, training_from
from dmf.training.run import Run
from orchestrator.costs.estimates import device_here
from orchestrator.costs.rates import Calibration, Rates, calibration_path, cost_class, images_forwarded
from orchestrator.spec.plan import Trial, labels
from orchestrator.store.ledger import Ledger
from orchestrator.text import duration

STRETCHES = 3
"""Timed stretches of training steps, after one warm-up step."""
STRETCH_SECONDS = 1.0
"""A stretch is one step, or as many as take about this long, but at most MOST_STEPS."""
MOST_STEPS = 10
EPISODES = 4
"""Validation episodes that are timed."""
ITERATIONS = 2
"""Iterations of an alignment that are timed."""
LEARNING_RATE = 1e-4
"""Low, so that no step diverges."""
BUSY = 0.5
"""The system load above which measurements are not reliable."""
USERS_MISTAKE = 2
"""Exit status of the measuring process for a mistake of the user's."""


def calibrate(
    trials: Sequence[Trial], ledger: Ledger, again: bool = False, say: Callable[[str], None] = print
) -> Calibration:
    """Measure every cost class of `trials` that has not been measured on this device, or all of them (`again`).

    Nothing else should run meanwhile. Raises ValueError, at the end, for classes that could not be measured.
    """
    calibration = Calibration.of(ledger.store)
    held = set() if again else {rates.place for rates in calibration.measured}
    missing: dict[tuple[str, str, int], AnyTraining] = {}
    for trial in trials:
        if (place := _place(trial.config)) not in held:
            missing.setdefault(place, trial.config)
    names = labels(missing.values())
    failed = []
    if missing and (load := os.getloadavg()[0]) > BUSY:
        say(f"other work is running (load {load:.1f}); the measured times will be too long")
    for number, config in enumerate(missing.values(), 1):
        try:
            rates = measured_aside(config)
        except ValueError as error:
            failed.append(f"{names[config.key]}: {error}")
            continue
        kept = (one for one in calibration.measured if one.place != rates.place)
        calibration = Calibration(measured=(*kept, rates))
        calibration.write(calibration_path(ledger.store))
        say(f"[{number}/{len(missing)}] {names[config.key]}: {_said(rates)}")
    if failed:
        raise ValueError("some trainings could not be measured:\n  " + "\n  ".join(failed))
    return calibration


def _place(config: AnyTraining) -> tuple[str, str, int]:
    device = device_here(config.training.device)
    if device is None:
        raise ValueError("training.device='cuda', but PyTorch sees no GPU here; calibrate where the sweep will run")
    return cost_class(config), device, config.training.threads


def _said(rates: Rates) -> str:
    per_step = rates.config.training.episodes_per_step if rates.config.kind == "experiment" else 1
    step = per_step * min(rates.episode_seconds, default=0.0)
    training = f"{step:.3g} s a step, " if step else ""
    return f"{training}{(rates.peak_bytes or 0) / 1e9:.1f} GB at most, {duration(rates.start_seconds)} to start"


def measured_aside(config: AnyTraining) -> Rates:
    """Run `measure` in its own process. Raises ValueError for a mistake of the user's, or if the process was killed."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.costs.calibrate"],
        input=config.model_dump_json(),
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    if done.returncode == USERS_MISTAKE:
        raise ValueError(done.stderr.strip().splitlines()[-1])
    if done.returncode < 0:
        raise ValueError(f"the measuring process was ended by signal {-done.returncode}; is there enough memory?")
    if done.returncode:
        raise RuntimeError(f"measuring {config.key} failed:\n{done.stderr}")
    return Rates.model_validate_json(done.stdout.splitlines()[-1])


def measure(config: AnyTraining) -> Rates:
    """Time a start, training steps and validation episodes of `config` on its images, in this process."""
    data = open_for(config)
    with temporary_folder("calibration") as room:
        started = time.perf_counter()
        start_weights = untrained_start(config, data, Path(room))
        run = Run(_shortened(config), data, Path(room), start_weights)
        start = time.perf_counter() - started
        episode_seconds = _episode_seconds(run) if run.stage.learns else ()
        image_seconds, test_episode_seconds = _evaluation_seconds(run, data)
        return Rates(
            cost_class=cost_class(config),
            device=device_name(run.device),
            threads=run.threads,
            config=config,
            episode_seconds=episode_seconds,
            image_seconds=image_seconds,
            test_episode_seconds=test_episode_seconds,
            start_seconds=start,
            peak_bytes=peak_bytes(run.device),
            image_bytes=_image_bytes(run, data, Path(room)),
            parameters=sum(parameter.numel() for parameter in run.stage.module.parameters()),
            images={split: len(data.split(split)) for split in SPLITS},
        )


def _shortened(config: AnyTraining) -> AnyTraining:
    """The training with a low learning rate, and with few iterations where episodes are aligned to base images."""
    changes: dict[str, object] = {"training.learning_rate": LEARNING_RATE}
    if isinstance(config.model, AlignmentConfig):
        changes["model.alignment_iterations"] = ITERATIONS
    return config.with_paths(changes)


def untrained_start(config: AnyTraining, data: DataSet, room: Path) -> Path | None:
    """Write random weights in place of those that the training starts from into `room`; None if it starts from none."""
    path = None
    for number, stage in enumerate(config.stages):
        folder = room / f"start{number}"
        folder.mkdir()
        Run(stage, data, folder, path).keep_best(epoch=0)
        path = folder / BEST
    return path


def _episode_seconds(run: Run) -> tuple[float, ...]:
    """Seconds per episode in each stretch. `train_steps` ends by reading the losses, so a device has finished."""
    run.train_steps(range(1))
    started = time.perf_counter()
    run.train_steps(range(1, 2))
    steps = max(1, min(MOST_STEPS, round(STRETCH_SECONDS / (time.perf_counter() - started))))
    found = []
    for first in range(2, 2 + STRETCHES * steps, steps):
        started = time.perf_counter()
        run.train_steps(range(first, first + steps))
        found.append((time.perf_counter() - started) * run.stage.steps_per_epoch / steps / run.config.batches_per_epoch)
    return tuple(found)


def _evaluation_seconds(run: Run, data: DataSet) -> tuple[float, float]:
    """Seconds per image, and per episode on top, from EPISODES different episodes and from one episode as often.

    The second bank has as many episodes but fewer images. If every episode has all images of a small split, half of
    the time is taken for each. Where episodes are aligned to base images, all is counted in images
    (`images_forwarded`).
    """
    split, task = data.val, validation_task(run.config, data.val)
    bank = validation_bank(split, task, EPISODES)
    if run.stage.method.reads_base:
        sizes = {each: len(data.split(each)) for each in SPLITS}
        test = EvaluationConfig(split="val", episodes=EPISODES, way=task.way, shot=task.shot, queries=task.queries)
        return _timed(run, split, bank, data.train) / images_forwarded(run.config, test, sizes), 0.0
    same = EpisodeIndices(*(rows[:1].expand_as(rows) for rows in (bank.support, bank.query, bank.targets)))
    _timed(run, split, same)
    different, repeated = _timed(run, split, bank), _timed(run, split, same)
    images, few = _images_in(bank), _images_in(same)
    if images == few:
        return repeated / 2 / few, repeated / 2 / EPISODES
    per_image = max(0.0, different - repeated) / (images - few)
    return per_image, max(0.0, repeated - few * per_image) / EPISODES


def _timed(run: Run, split: ImageSplit, bank: EpisodeIndices, base: ImageSplit | None = None) -> float:
    started = time.perf_counter()
    episode_accuracies(run.stage.method, split, bank, run.stage.augment, run.config.training.precision, base)
    return time.perf_counter() - started


def _images_in(bank: EpisodeIndices) -> int:
    return len(torch.cat([bank.support.flatten(), bank.query.flatten()]).unique())


def _image_bytes(run: Run, data: DataSet, room: Path) -> int:
    """Bytes that an evaluation keeps per image."""
    run.stage.method.eval()
    with torch.inference_mode(), autocast(run.device, run.config.training.precision):
        table = image_table(run.stage.method, data.val, torch.arange(2), run.stage.augment, run.device, room)
    return sum(values.nbytes for values in table.values()) // 2


def main() -> int:
    """Measure the configuration on stdin; print the rates."""
    try:
        rates = measure(training_from(sys.stdin.read()))
    except (ValueError, torch.OutOfMemoryError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return USERS_MISTAKE
    print(rates.model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
