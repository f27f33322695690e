"""The cost of a sweep besides its trainings, compared with bare Ray Tune: the same trivial trainings, two at a time.

Three commands run in turn, each in its own processes:

- ours: `python -m orchestrator.sweep`, with its ledger, MLflow in SQLite, progress and tables;
- bare: Ray Tune with reused actors and nothing else (no ledger, MLflow, progress, loggers or tables); its trainable
  trains and evaluates with the same functions of `dmf` and the same threads, and returns one number;
- alone: the same trainings in a loop in two processes, without a scheduler.

A command's start-up ends when as many trainings have ended as run at a time, because its workers have then imported and
opened what they need. The wall time per trial is the time from there to the end of the command (which for ours includes
updating MLflow and writing tables), divided by the number of remaining trainings. The overhead is its excess over
`alone`.

Another sweep, of one training with feature maps of megabytes, compares the CPU time of its steps in a worker of Ray
with that in the command's own process (`--executor local`), which runs them in its main thread.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.harness import AVX512, Report, alternate, cores, main, median
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import DataSet, open_for
from dmf.evaluation.evaluate import evaluate_folder
from dmf.machine.device import set_up
from dmf.methods import build_method
from dmf.records.checkpoints import prefixed, write_checkpoint
from dmf.training.run import train
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import SweepPlan, Trial, labels, plan
from orchestrator.store.ledger import Ledger

AT_A_TIME = 2
TRIALS, SHORT_TRIALS = 100, 20
AT_MOST = 1.5
ROOT = Path(__file__).resolve().parents[1]
SPEC = """
name: trivial
about: "one step of one episode each, on the smallest images"
set:
  data.name: glyphs
  data.image_size: 16
  data.channels: 1
  data.normalisation: half
  model.backbone: conv64f
  episodes.queries: 1
  training.epochs: 1
  training.warmup_epochs: 0
  training.episodes_per_epoch: 1
  training.episodes_per_step: 1
  training.validation_episodes: 2
  training.device: cpu
resources: {{cpu: {cpu}}}
seeds: {seeds}
evaluation: {{episodes: 2}}
parts:
  - table: 2c
"""


WORKER_AT_MOST = 1.15
HEAVY = """
name: heavy
about: "one training with feature maps of megabytes"
set:
  data.name: glyphs
  data.image_size: 64
  model.backbone: conv64f
  model.method: proto_net
  training.precision: fp32
  training.epochs: 1
  training.warmup_epochs: 0
  training.episodes_per_epoch: {episodes}
  training.validation_episodes: 2
  training.device: cpu
seeds: [0]
evaluation: {{episodes: 2}}
parts:
  - table: "1"
"""


@dataclass(frozen=True)
class Course:
    """Seconds from a command's start to the end of each of its trainings, and to its own end."""

    trainings: tuple[float, ...]
    command: float

    @property
    def start_up(self) -> float:
        """Seconds until as many trainings have ended as run at a time."""
        return self.trainings[AT_A_TIME - 1]

    @property
    def wind_up(self) -> float:
        """Seconds after the last training."""
        return self.command - self.trainings[-1]

    @property
    def per_trial(self) -> float:
        """Seconds per trial after the start-up."""
        return (self.command - self.start_up) / (len(self.trainings) - AT_A_TIME)


def run(report: Report) -> None:
    """Sweep overhead: wall time per trial after start-up, of ours and of bare Ray Tune with reused actors."""
    count = SHORT_TRIALS if report.settings.short else TRIALS
    with TemporaryDirectory(prefix="bench-") as place:
        room = Path(place)
        spec = room / "trivial.yaml"
        spec.write_text(SPEC.format(cpu=cores() / AT_A_TIME, seeds=list(range(count))))
        planned = plan(read_spec(spec, ()))
        open_for(planned.trials()[0].config)  # draws the images once
        courses: dict[str, list[Course]] = {"ours": [], "bare": [], "alone": []}

        def timed(name: str, command: Callable[[Path], list[str]], end: str) -> Callable[[], None]:
            def call() -> None:
                with TemporaryDirectory(dir=room) as folder:
                    courses[name].append(course(command(Path(folder)), end, Path(folder), count))

            return call

        variants = {
            "ours": timed("ours", lambda folder: sweep_command(spec, folder), ": done,"),
            "bare": timed("bare", lambda folder: our_function("bare", spec, folder), ENDED),
            "alone": timed("alone", lambda folder: our_function("alone", spec, folder), ENDED),
        }
        alternate(variants, report.settings.repeats, warmup=0)
        tell(report, courses, count)
        shares(report, planned, room)
        in_a_worker(report, room)


def tell(report: Report, courses: dict[str, list[Course]], count: int) -> None:
    """Report the claim and the times behind it, as medians over rounds."""
    rows = [
        {
            "variant": name,
            "start-up s": median([c.start_up for c in those]),
            "per trial ms": 1e3 * median([c.per_trial for c in those]),
            "least": 1e3 * min(c.per_trial for c in those),
            "greatest": 1e3 * max(c.per_trial for c in those),
            "wind-up s": median([c.wind_up for c in those]),
            "command s": median([c.command for c in those]),
        }
        for name, those in courses.items()
    ]
    report.table(f"{count} trivial trainings, {AT_A_TIME} at a time, medians of {report.settings.repeats} rounds", rows)
    rounds = list(zip(courses["ours"], courses["bare"], courses["alone"], strict=True))
    ratios = [ours.per_trial / bare.per_trial for ours, bare, _ in rounds]
    rows = [
        {
            "round": number,
            "ratio": ratio,
            **{name: 1e3 * those[number - 1].per_trial for name, those in courses.items()},
        }
        for number, ratio in enumerate(ratios, 1)
    ]
    report.table("wall time per trial of every round, ms, and ours over bare", rows)
    report.claim(
        "wall time per trial after start-up, over bare Ray Tune with re-used actors",
        median(ratios),
        at_most=AT_MOST,
        unit="x",
        note=f"{count} trainings, until the command's end; rounds {min(ratios):.2f} to {max(ratios):.2f}",
        seen=AVX512,
    )
    for name, which in (("ours", 0), ("bare Ray Tune", 1)):
        overhead = median([each[which].per_trial - each[2].per_trial for each in rounds])
        report.state(f"overhead per trial, {name}", 1e3 * overhead, "ms", "wall time more than the trainings alone")
        report.state(f"start-up, {name}", median([each[which].start_up for each in rounds]), "s")


def shares(report: Report, planned: SweepPlan, room: Path) -> None:
    """Report where our time goes: parts of one trial, each timed by itself in this process."""
    # Not at the top, because the workers of `bare` import this module and need none of these.
    from orchestrator.running.trial import run_trial
    from orchestrator.tracking.runs import SweepRuns
    from orchestrator.tracking.server import connect, tracking_uri

    set_up(1)
    trials = planned.trials()[:SHORT_TRIALS]
    store = room / "shares"
    whole = seconds_each(trials, lambda trial: run_trial(trial.config, trial.evaluations, store))
    apart = room / "apart"
    bare = seconds_each(trials, lambda trial: train_and_test(trial.config, trial.evaluations, apart / trial.key))
    method = build_method(trials[0].config.model, trials[0].config.data, 64)
    weights = prefixed("model.", method.state_dict())
    checkpoint = seconds_each(trials, lambda trial: write_checkpoint(room / f"{trial.key}.safetensors", weights, {}))
    ledger = Ledger(store)
    names = labels(trial.config for trial in planned.trials())
    runs = SweepRuns(*connect(tracking_uri(store, None), store / "artifacts"), ledger, planned)
    mirrored = seconds_each(trials, lambda trial: runs.mirror(trial.config, trial.evaluations, names[trial.key]))
    note = f"in one process, median of {len(trials) - 1}"
    report.state("of a trial, training and test", 1e3 * bare, "ms", note + "; its two checkpoints are in it")
    report.state("of a trial, one checkpoint with its fsync", 1e3 * checkpoint, "ms", note)
    report.state("of a trial, ledger and log", 1e3 * (whole - bare), "ms", note)
    report.state("of a trial, MLflow, in a thread beside the trials", 1e3 * mirrored, "ms", note)


def in_a_worker(report: Report, room: Path) -> None:
    """Report the CPU time of a training in a worker of Ray, relative to the same in the command's own process."""
    spec = room / "heavy.yaml"
    spec.write_text(HEAVY.format(episodes=40 if report.settings.short else 160))
    (trial,) = plan(read_spec(spec, ())).trials()
    times: dict[str, list[float]] = {"ray": [], "local": []}

    def timed(executor: str) -> Callable[[], None]:
        def call() -> None:
            with TemporaryDirectory(dir=room) as folder:
                place = Path(folder)
                listen([*sweep_command(spec, place), "--executor", executor], place, lambda *line: None, lambda: True)
                record = Ledger(place / "runs").training(trial.key)
                assert record is not None and record.cpu_seconds is not None
                times[executor].append(record.cpu_seconds)

        return call

    alternate({name: timed(name) for name in times}, report.settings.repeats, warmup=0)
    ratios = [worker / local for worker, local in zip(times["ray"], times["local"], strict=True)]
    report.claim(
        "CPU time of a training in a worker of Ray, over the same in the command's process",
        median(ratios),
        at_most=WORKER_AT_MOST,
        unit="x",
        note=f"Conv64F at 64 px; rounds {min(ratios):.2f} to {max(ratios):.2f}",
        seen=AVX512,
    )


def seconds_each(trials: tuple[Trial, ...], call: Callable[[Trial], object]) -> float:
    """Median seconds of `call` over the trials, without the first."""
    times = []
    for trial in trials:
        started = time.perf_counter()
        call(trial)
        times.append(time.perf_counter() - started)
    return median(times[1:])


def sweep_command(spec: Path, folder: Path) -> list[str]:
    """Our command, as users start it."""
    places = ["--store", str(folder / "runs"), "--results", str(folder / "results")]
    return [sys.executable, "-m", "orchestrator.sweep", str(spec), *places]


def our_function(name: str, spec: Path, folder: Path) -> list[str]:
    """The command that runs a function of this module."""
    return [sys.executable, "-c", f"from benchmarks.sweep import {name}; {name}({str(spec)!r}, {str(folder)!r})"]


ENDED = "a training has ended"
"""The line that `bare` and `alone` print when a training ends."""


def course(command: list[str], end: str, folder: Path, count: int) -> Course:
    """Run `command`, which prints a line that contains `end` for each of `count` trainings."""
    started = time.perf_counter()
    ended: list[float] = []

    def heard(line: str, process: int) -> None:
        if end in line:
            ended.append(time.perf_counter() - started)

    listen(command, folder, heard, expected=lambda: len(ended) == count)
    return Course(tuple(ended), time.perf_counter() - started)


def listen(command: list[str], folder: Path, heard: Callable[[str, int], None], expected: Callable[[], bool]) -> None:
    """Run `command` in `folder`, and call `heard` with every line that it prints, as it comes, and its process id.

    Raises RuntimeError, with all its output, if the command fails or `expected` returns False afterwards.
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    said = []
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            heard(line, process.pid)
    if process.returncode or not expected():
        raise RuntimeError(f"{command} ended with {process.returncode} and said:\n{''.join(said)}")


@functools.cache
def images(config: str) -> DataSet:
    """The images, which all trainings here share, opened once per process."""
    return open_for(ExperimentConfig.model_validate_json(config))


def train_and_test(config: ExperimentConfig, tests: tuple[EvaluationConfig, ...], folder: Path) -> float:
    """Do the work of a sweep's trial with the same functions, keeping only what `train` itself writes."""
    folder.mkdir(parents=True)
    data = images(config.replace(training__seed=0).model_dump_json())
    train(config, data, folder)
    return [evaluate_folder(folder, config, test, data).accuracy for test in tests][-1]


def bare(spec: str, folder: str) -> None:
    """Run the trainings by Ray Tune with reused actors, in as lean a setup as possible."""
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    import ray
    from ray import tune
    from ray.tune import Callback, RunConfig, TuneConfig, Tuner

    trials = plan(read_spec(Path(spec), ())).trials()
    tests = trials[0].evaluations

    class Told(Callback):
        def on_trial_complete(self, iteration: int, trials: list, trial: object, **info: object) -> None:
            print(ENDED, flush=True)

    def trainable(parameters: dict[str, str]) -> dict[str, float]:
        config = ExperimentConfig.model_validate_json(parameters["config"])
        return {"accuracy": train_and_test(config, tests, Path(folder) / config.key)}

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    configs = [trial.config.model_dump_json() for trial in trials]
    Tuner(
        tune.with_resources(trainable, {"CPU": cores() / AT_A_TIME}),
        param_space={"config": tune.grid_search(configs)},
        tune_config=TuneConfig(reuse_actors=True),
        run_config=RunConfig(storage_path=folder, callbacks=[Told()], verbose=0),
    ).fit()
    ray.shutdown()


def alone(spec: str, folder: str) -> None:
    """Run the trainings in a loop, shared between two processes."""
    trials = plan(read_spec(Path(spec), ())).trials()
    context = multiprocessing.get_context("spawn")
    with context.Pool(AT_A_TIME, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        work = [(trial.config, trial.evaluations, Path(folder) / trial.key) for trial in trials]
        for _ in pool.imap_unordered(_train_and_test, work):
            print(ENDED, flush=True)


def _train_and_test(arguments: tuple) -> float:
    return train_and_test(*arguments)


if __name__ == "__main__":
    sys.exit(main("sweep", run))
