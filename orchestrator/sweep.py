"""Run a sweep file: train and test what is missing, then print its tables.

python -m orchestrator.sweep sweeps/demo.yaml --plan
python -m orchestrator.sweep sweeps/table2.yaml data.root=/images/mini_imagenet resources.gpu=0.5

The same command, started again, continues where it stopped. Exit status: 0 if every trial has its record and MLflow is
complete, 1 if not, 2 for a mistake in the file or the command, 128 + signal if interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmf.machine.output import go_on, run
from dmf.machine.paths import address_option, default_cache_dir, path_option, takes
from dmf.machine.trouble import sentence
from dmf.records.records import Failure
from dmf.records.staleness import Today
from orchestrator.costs.budget import in_order, parse_duration, select, within
from orchestrator.costs.describe import costs_of, describe, other_root
from orchestrator.costs.estimates import Cost, estimate
from orchestrator.costs.images import Look
from orchestrator.costs.machine import at_a_time
from orchestrator.costs.preview import machine_for
from orchestrator.costs.rates import Calibration
from orchestrator.costs.totals import compare
from orchestrator.report import report
from orchestrator.running.deciding import decide_rows
from orchestrator.running.interrupts import Interrupted, Signals, Stopped
from orchestrator.running.options import Options
from orchestrator.running.order import startable, with_stages
from orchestrator.running.progress import Progress
from orchestrator.running.watch import SweepWatch
from orchestrator.spec.file import read_spec
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import SweepPlan, Trial, labels, plan
from orchestrator.store.home import settle
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.store.standing import Standing, standing
from orchestrator.text import complain, duration, log_to_terminal, say
from orchestrator.tracking.beside import runs_beside
from orchestrator.tracking.uris import page_of_runs, usable, without_password
from reports.owners import check_owner
from reports.words import counted

if TYPE_CHECKING:
    from orchestrator.running.executor import Executor
    from orchestrator.tracking.tracker import Tracker

log = logging.getLogger("dmf.sweep")

ANEW = ("retry_diverged", "retry_failed", "retrain_stale", "retrain_damaged", "retrain_lost")
"""Options that retrain something."""
OF_PARTS = ("calibrate", "only", "budget", *ANEW)
"""Options about the trials that a file names; a search makes up its own."""
MLFLOW_UI = "http://127.0.0.1:5000"
"""Where `mlflow ui` listens by default."""
KEYS_SHOWN = 5
"""Trainings named for each reason of failures that an earlier start had."""
TRIAL_TIMEOUT = "30m"
"""The default for `--executor ray`."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _options(arguments)
    settle(options.store)
    log_to_terminal()
    try:
        spec = read_spec(options.spec, options.settings)
        planned = plan(spec)
        _check_options(spec, options)
        _asked(planned, options)  # refuses a pattern that matches no training
        if options.calibrate:
            _calibrate(spec, planned, options)
        if options.plan:
            _print_plan(spec, planned, options)
        return 0 if options.calibrate or options.plan else _run(spec, planned, options)
    except (ValueError, BlockingIOError) as error:
        complain(f"error: {without_password(str(error))}")
        return 2
    except OSError as error:
        complain(f"error: {without_password(sentence(error, _places(options), _again()))}")
        return 1


def _places(options: Options) -> dict[str, str | os.PathLike[str]]:
    """Where settings of a sweep lead to."""
    return {
        "--store": local_folder(options.store),
        "--results": options.results,
        "the sweep file": options.spec,
    }


def _options(arguments: list[str] | None) -> Options:
    given = vars(_parser().parse_intermixed_args(arguments))
    if given["executor"] == "ray" and given["trial_timeout"] is None:
        given["trial_timeout"] = parse_duration(TRIAL_TIMEOUT)
    return Options(**given)


def _check_options(spec: SweepSpec, options: Options) -> None:
    """Raise ValueError for options that would be ignored or that exclude each other."""
    if spec.search is not None and (given := _given(OF_PARTS, options)):
        raise ValueError(f"{given}: only for sweeps with parts, but {spec.name} is a search; leave it out")
    if spec.deciding and (options.only or options.budget):
        raise ValueError(
            f"{_given(('only', 'budget'), options)}: {spec.name} chooses its trainings by its looks; leave it out, "
            "stop the sweep with Ctrl-C when its time is over, and go on later with the same command"
        )
    if (options.plan or options.calibrate) and (given := _given(ANEW, options)):
        raise ValueError(f"{given}: --plan and --calibrate train nothing; leave out one or the other")
    if options.calibrate and not options.plan and options.budget:
        raise ValueError("--budget: --calibrate alone selects no trainings; add --plan, or leave it out")
    if options.again and not options.calibrate:
        raise ValueError("--again makes --calibrate measure again; give both, or leave it out")
    if options.tracking_uri:
        usable(options.tracking_uri, "--tracking-uri")
    if options.executor == "local":
        _check_local(spec, options)


def _check_local(spec: SweepSpec, options: Options) -> None:
    """Raise ValueError for what `--executor local` does not support."""
    if spec.search is not None:
        raise ValueError(f"--executor local: {spec.name} is a search, which needs Ray Tune; leave it out")
    if options.plan or options.calibrate:
        raise ValueError("--executor: --plan and --calibrate run no trials; leave out one or the other")
    if options.address:
        raise ValueError("--address names a running Ray, but --executor local uses none; leave one of them out")
    if options.trial_timeout:
        raise ValueError(
            "--trial-timeout ends the process of a trial that hangs, which with --executor local is the sweep itself; "
            "leave it out, and end a hang with Ctrl-C"
        )


def _given(names: tuple[str, ...], options: Options) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(options, name))


def _again() -> str:
    """How to continue, without passwords in URIs."""
    command = ["python", "-m", "orchestrator.sweep", *map(without_password, sys.argv[1:])]
    return f"continue with the same command: {shlex.join(command)}"


def _asked(planned: SweepPlan, options: Options) -> tuple[Trial, ...]:
    """The trials that the command line selects, with the pre-trainings that they start from."""
    trials = planned.trials()
    if not options.only:
        return trials
    return with_stages(select(trials, labels(trial.config for trial in trials), options.only), trials)


def _calibrate(spec: SweepSpec, planned: SweepPlan, options: Options) -> None:
    """Measure the trainings whose cost is unknown, warn of switches that change nothing, and tell what is to come."""
    from orchestrator.costs.calibrate import calibrate
    from orchestrator.costs.canary import canary

    _check_writable(local_folder(options.store), "--store")
    with Ledger.at(options.store).driving(options.wait) as ledger:
        asked = _asked(planned, options)
        left = [trial for trial in asked if ledger.state(trial) not in ("done", "diverged")]
        calibrate(left, ledger, options.again)
        for sentence in canary(planned):
            say(f"warning: {sentence}")
        if options.plan:  # which tells the costs
            return
        if not left:
            say(f"{counted(len(asked), 'training')}, all done: nothing is left to estimate")
        for line in costs_of(spec, planned, ledger, asked if options.only else None):
            say(line)


def _print_plan(spec: SweepSpec, planned: SweepPlan, options: Options) -> None:
    try:
        ledger, today, asked = Ledger.at(options.store), Today(options.accept_stale), _asked(planned, options)
        ledger.index.look_once()
        if options.budget:
            todo = tuple(trial for trial in asked if standing(trial, ledger, today).runs)
            costs = estimate(todo, ledger, Calibration.of(ledger.store))
            names = labels(trial.config for trial in planned.trials())
            asked = _affordable(todo, costs, spec, options, names) if todo else asked
        images = Look(unset_is_doubt=True, absent_is_doubt=options.address is not None)
        if spec.search is not None:
            images.at([_base_of(spec)])
        text = describe(spec, planned, ledger, today, asked if options.only or options.budget else None, images)
    except OSError as error:
        raise ValueError(f"--store {options.store} cannot be read: {error.strerror or error}") from None
    say(text)
    if images.mistakes:
        raise ValueError(images.told)


def _base_of(spec: SweepSpec) -> Trial:
    """The training that a search varies, and the test of the best one."""
    base = spec.config_for({})
    return Trial(base, tuple(evaluation.resolve(base) for evaluation in spec.evaluation.configs()))


def _look_at_images(trials: Sequence[Trial], options: Options) -> None:
    """Say what the images of `trials` are, and what looks wrong. Raises ValueError if they make all impossible."""
    images = Look(absent_is_doubt=options.address is not None)
    images.at(trials)
    for line in images.facts:
        say(line)
    for doubt in images.doubts:
        say(f"warning: {doubt}")
    if images.mistakes and len(images.impossible) == len({trial.key for trial in trials}):
        raise ValueError(images.told)
    if images.mistakes:
        say(f"warning: these will fail, the others run: {images.told}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", type=path_option, help="a sweep file, such as sweeps/demo.yaml")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="override the file: data.root=/images 'seeds=[0,1]'"
    )
    parser.add_argument("--plan", action="store_true", help="print what would be trained and tested, and start nothing")
    parser.add_argument(
        "--calibrate", action="store_true", help="time a few steps of every kind of training, for --plan"
    )
    parser.add_argument("--again", action="store_true", help="with --calibrate: measure again what was measured before")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="run only these trainings: a key, a label, a word of it such as groups=64, or 'table 2c'; may be repeated",
    )
    parser.add_argument(
        "--budget",
        type=_duration,
        metavar="TIME",
        help="run only trainings that will end within this time (90m, 12h, 2d), the first seed of every cell first; "
        "stop when it is over",
    )
    parser.add_argument(
        "--store",
        type=address_option,
        default="runs",
        help="where to keep records and checkpoints: a folder, s3:// or gs:// (runs)",
    )
    parser.add_argument("--results", type=path_option, default=Path("results"), help="folder for the tables (results)")
    parser.add_argument(
        "--executor",
        choices=("ray", "local"),
        default="ray",
        help="who runs the trials: ray (the default) runs several at a time and restarts workers that die; local, for "
        "debugging, runs them one after another in this process: breakpoints work, `resources` is ignored, and "
        "searches, --address and --trial-timeout are refused",
    )
    parser.add_argument(
        "--address",
        help="a running Ray: auto, or host:port, from its head node (with RAY_AUTH_MODE=token if it needs a token)",
    )
    parser.add_argument(
        "--tracking-uri",
        help="MLflow; default $MLFLOW_TRACKING_URI, else a database in the store (for a bucket, on this machine)",
    )
    parser.add_argument("--wait", action="store_true", help="wait while another sweep uses the store")
    parser.add_argument("--retry-diverged", action="store_true", help="retrain what diverged")
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="retry trainings that failed by themselves; faults of a machine are always retried",
    )
    stale = parser.add_mutually_exclusive_group()
    stale.add_argument(
        "--accept-stale",
        action="store_true",
        help="use, and continue, what other code made or what was made from other images; tables say so",
    )
    stale.add_argument("--retrain-stale", action="store_true", help="put such trainings aside and retrain them")
    parser.add_argument(
        "--retrain-damaged",
        action="store_true",
        help="put trainings whose records or weights are damaged aside, and retrain them",
    )
    parser.add_argument(
        "--retrain-lost",
        action="store_true",
        help="put trainings whose weights were not kept, and which missing tests or other trainings need, aside, and "
        "retrain them",
    )
    parser.add_argument(
        "--trial-timeout",
        type=_duration,
        metavar="TIME",
        help="restart a trial that shows no sign of life for this long, such as 90s or 2h "
        f"({TRIAL_TIMEOUT}; none with --executor local, where a trial may hang for ever)",
    )
    return parser


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check_writable(folder: Path, option: str) -> None:
    """Make `folder`; raise ValueError unless files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option}: {folder} cannot be written to: {error.strerror or error}") from None


def _check_cache(options: Options) -> None:
    """Raise ValueError if trials on this machine cannot keep decoded images; one that is complete may be read-only."""
    cache = default_cache_dir()
    if options.address is None and not cache.is_dir() and not takes(cache):
        raise ValueError(
            f"{cache}, where decoded images are kept, cannot be made; set DMF_CACHE to a folder that can be written to"
        )


def _run(spec: SweepSpec, planned: SweepPlan, options: Options) -> int:
    address = os.environ.get("RAY_ADDRESS", "") if options.address == "auto" else options.address or ""
    if address.startswith("ray://"):
        raise ValueError(
            f"--address {address}: what trials report does not reach this process through Ray Client; "
            "run the sweep on the cluster's head node with --address auto"
        )
    _check_writable(local_folder(options.store), "--store")
    if planned.cells:
        _check_writable(options.results / planned.name, "--results")
    go_on("the sweep goes on, and `python -m orchestrator.status` shows it")
    signals = Signals()
    try:
        with signals.caught(), Ledger.at(options.store).driving(options.wait) as ledger:
            return 0 if _drive(spec, planned, ledger, signals, options) else 1
    except Interrupted as interrupted:
        complain(f"stopped by {interrupted}; {_again()}")
        return 128 + interrupted.number
    except Stopped as stopped:
        complain(f"stopped: {stopped}; {_again()}")
        return 1


def _drive(spec: SweepSpec, planned: SweepPlan, ledger: Ledger, signals: Signals, options: Options) -> bool:
    """Run a sweep and mirror it in MLflow; return whether every trial has its record and the mirror is complete."""
    from orchestrator.tracking.server import tracking_uri
    from orchestrator.tracking.tracker import Tracker

    if options.executor == "ray" and options.address is None:
        # Read when ray is imported: our own Ray then listens only on 127.0.0.1, which `_node_ip_address` would not do.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if spec.search is not None:
        from orchestrator.running.search import check_fresh, run_search
        from orchestrator.store.searches import kept, resume

        if len(resume(spec, ledger).tried) < spec.search.trials:
            _look_at_images([_base_of(spec)], options)
        # Refuses a different search of this name, or one that other code made, before anything is written.
        check_fresh(kept(spec, ledger), ledger, Today(options.accept_stale))
    ledger.asked(planned)  # refuses a rule that has changed since the first look, likewise
    if planned.cells:
        check_owner(options.results / planned.name, ledger.owner)
    uri = tracking_uri(ledger.store, options.tracking_uri)
    left = ledger.no_longer_planned(planned)
    if left:
        say(f"{counted(len(left), 'training')} of its last start, no longer in the file, kept: {', '.join(left[:10])}")
    ledger.write_plan(planned)
    tracker: Tracker | None = None
    status, interrupted = "FAILED", False
    try:
        with signals.deferring():  # a run that is made is also closed
            tracker = Tracker(uri, ledger, planned, labels(trial.config for trial in planned.trials()))
        if spec.search is not None:
            complete = run_search(spec, ledger, tracker, signals, options)
        else:
            complete = run_sweep(spec, planned, ledger, tracker, signals, options)
        left_out = planned.trials() if options.only else ()  # without --only, `complete` speaks for all trials
        whole = complete and all(ledger.state(trial) in ("done", "diverged") for trial in left_out)
        status = "FINISHED" if whole else "KILLED" if complete else "FAILED"
    except Stopped:
        status, interrupted = "KILLED", True
        raise
    finally:
        trouble = tracker and _close(tracker, ledger, status, interrupted)
        if tracker:
            say(_where(uri, tracker.experiment_id))
        if trouble:
            complain(f"error: {trouble}; the next start of this sweep, or {_sync(options)}, adds it")
    return complete and not trouble


def _close(tracker: Tracker, ledger: Ledger, status: str, interrupted: bool) -> str | None:
    """Write the sweep's end to MLflow; return None, or why MLflow is incomplete."""
    try:
        ledger.check()
    except OSError as error:  # another driver may have taken the store, and then it writes to MLflow
        tracker.abandon()
        return f"another driver now writes to MLflow: {error}"
    return tracker.stop(status, interrupted)


def _where(uri: str, experiment_id: str | None) -> str:
    """Where MLflow shows the runs; without the experiment's id, where it is."""
    if uri.startswith(("http://", "https://")):
        return f"MLflow: {page_of_runs(uri, experiment_id) if experiment_id else without_password(uri)}"
    command = shlex.join([sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", without_password(uri)])
    page = f"\n  then open {page_of_runs(MLFLOW_UI, experiment_id)}" if experiment_id else ""
    return f"MLflow: {without_password(uri)}\n  {command}{page}"


def _sync(options: Options) -> str:
    given = ["--tracking-uri", without_password(options.tracking_uri)] if options.tracking_uri else []
    return shlex.join(["python", "-m", "orchestrator.sync", "--store", options.store, *given])


class Rounds:
    """Trains what a sweep asks for: everything at once or, if it decides, what each look needs.

    The executor starts with the first training and ends with the sweep.
    """

    def __init__(
        self,
        spec: SweepSpec,
        planned: SweepPlan,
        ledger: Ledger,
        tracker: Tracker,
        signals: Signals,
        options: Options,
    ) -> None:
        self.spec, self.ledger, self.tracker, self.signals, self.options = spec, ledger, tracker, signals, options
        self.names = labels(trial.config for trial in planned.trials())
        self.costs: dict[str, Cost] = {}
        """Of all trainings run, before they ran."""
        self.failures: dict[str, Failure] = {}
        self._executor: Executor | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Rounds:
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def train(self, asked: tuple[Trial, ...]) -> None:
        """Run the missing ones of the trials `asked`. Raises Stopped."""
        spec, ledger, options, today = self.spec, self.ledger, self.options, Today(self.options.accept_stale)
        before = {trial.key: standing(trial, ledger, today) for trial in asked}
        wanted = _wanted(options)
        to_run = [t for t in asked if before[t.key].runs or before[t.key].state in wanted]
        todo, lost, left = startable(to_run, asked, before, ledger, today, options.retrain_lost)
        states = {t.key: before[t.key].state for t in todo if not before[t.key].again}
        anew = {key for key, state in states.items() if state in ("diverged", "stale", "damaged", "no weights")}
        for trial in todo:  # what began from weights that are made again does not go on from there
            if any(stage.key in anew for stage in trial.config.stages) and ledger.begun(trial.key):
                anew.add(trial.key)
        anew |= lost
        whole = {trial.key: before[trial.key].whole(trial) for trial in todo}
        costs = estimate(todo, ledger, Calibration.of(ledger.store), anew, whole)
        if options.budget and todo:
            todo = _affordable(todo, costs, spec, options, self.names)
            self.signals.deadline = time.monotonic() + options.budget
        ended = sum(each.ended for each in before.values()) - sum(before[trial.key].ended for trial in todo)
        work = _work(before, [trial.key for trial in todo])
        say(f"{spec.name}: {counted(len(asked), 'training')}, {ended} done, {work}")
        for key, why in left.items():
            say(f"{key} {self.names[key]}: left as it is, since {why}")
        if not todo:
            return
        if not self.costs:  # looks go on with the same images
            _check_cache(options)
            _look_at_images(todo, options)  # before anything is put aside
        ledger.index.look_again()
        for trial in todo:
            if trial.key in anew:
                _drop(trial.key, before[trial.key].state, ledger, self.tracker)
        self.costs |= {trial.key: costs[trial.key] for trial in todo}
        with Progress(spec.name) as progress:
            chosen = self._start()
            watch = SweepWatch(spec, ledger, self.tracker, self.signals, progress, todo, self.names)
            try:
                chosen.run(todo, watch)
            finally:
                self.failures |= watch.failures

    def _start(self) -> Executor:
        from orchestrator.running.executor import executor

        if self._executor is None:
            chosen = executor(self.spec, self.ledger, self.signals, self.options)
            self._executor = self._stack.enter_context(chosen)
        return self._executor


def run_sweep(
    spec: SweepSpec,
    planned: SweepPlan,
    ledger: Ledger,
    tracker: Tracker,
    signals: Signals,
    options: Options,
) -> bool:
    """Run the missing trials of a sweep and print its tables; return whether every trial has its record."""
    ledger.index.look_once()  # until a trial runs
    stopped: Stopped | None = None
    with Rounds(spec, planned, ledger, tracker, signals, options) as rounds:
        try:
            if planned.rule is None:
                rounds.train(_asked(planned, options))
            else:
                _put_doubtful_looks_aside(planned, ledger, options)
                decide_rows(planned, ledger, options.accept_stale, rounds.train)
        except Interrupted:
            raise
        except Stopped as reason:
            stopped = reason
    if rounds.costs:
        _look(ledger)
        ledger.index.look_once()
    asked = _asked(planned, options) if planned.rule is None else ledger.asked(planned).trials()
    today = Today(options.accept_stale)  # images that had never been opened now have a fingerprint
    looks = ledger.looks(planned.name)
    try:
        paths = report(
            planned, ledger, options.results, today=today, looks=looks, runs=runs_beside(ledger), owner=ledger.owner
        )
    except OSError as error:
        if stopped is None:
            raise
        log.warning("the tables were not written: %s", error)
        paths = []
    after = {trial.key: standing(trial, ledger, today) for trial in asked}
    say("\n" + summary(asked, after, ledger, rounds.failures, frozenset(rounds.costs)))
    if any(cost.seconds for cost in rounds.costs.values()):
        say(compare(rounds.costs, ledger))
    if paths:
        say(f"tables: {paths[0].parent}")
    if stopped:
        raise stopped
    return all(each.ended for each in after.values())


def _put_doubtful_looks_aside(planned: SweepPlan, ledger: Ledger, options: Options) -> None:
    """What was seen in trainings that are now retrained decides nothing: the looks begin anew."""
    states = {"stale": options.retrain_stale, "damaged": options.retrain_damaged, "no weights": options.retrain_lost}
    if not any(states.values()) or ledger.looks(planned.name) is None:
        return
    today = Today(options.accept_stale)
    seen = [standing(trial, ledger, today) for trial in ledger.asked(planned).trials()]
    if any(states.get(each.state) and not each.again for each in seen):
        say(f"looks begin anew, since trainings that they saw are retrained: {ledger.put_looks_aside(planned.name)}")


def _work(before: dict[str, Standing], todo: list[str]) -> str:
    """What a start does: `5 to run (2 only to test), 3 left as they are (2 failed, 1 stale)`."""
    tests = sum(before[key].state == "untested" for key in todo)
    only = f" ({'all' if tests == len(todo) else tests} only to test)" if tests else ""
    left = Counter(each.state for key, each in before.items() if not each.ended and key not in todo)
    told = ", ".join(f"{number} {state}" for state, number in left.items())
    return f"{len(todo)} to run{only}" + (f", {left.total()} left as they are ({told})" if left else "")


def _look(ledger: Ledger) -> None:
    """Read what trials wrote last; if an object store does not answer, make do with what is known."""
    try:
        ledger.all_ended()
    except OSError as error:
        log.warning("the tables use what is known here: %s", error)


def _affordable(
    todo: tuple[Trial, ...], costs: dict[str, Cost], spec: SweepSpec, options: Options, names: dict[str, str]
) -> tuple[Trial, ...]:
    """The most wanted trials that end within --budget. Raises ValueError if not even the shortest one does."""
    assert options.budget is not None
    local = options.executor == "local"
    together = 1 if local else at_a_time(todo, spec.resources, machine_for(todo, costs, spec))
    chosen = within(todo, costs, options.budget, together, spec.all_seeds)
    told = duration(options.budget)
    if not chosen:
        first = in_order(todo, costs, spec.all_seeds)[0]
        least = min(todo, key=lambda trial: costs[trial.key].seconds or 0.0)
        takes = {each.key: duration(costs[each.key].seconds or 0.0) for each in (first, least)}
        shorter = f"; {names[least.key]} takes {takes[least.key]}: choose it with --only" if least is not first else ""
        raise ValueError(
            f"--budget: the first training to run, {names[first.key]}, takes {takes[first.key]}, which is "
            f"more than {told}{shorter}"
        )
    say(f"{len(chosen)} of {counted(len(todo), 'training')} should end within {told}")
    return chosen


def _wanted(options: Options) -> set[str]:
    """States whose trials the user asks to run, besides those that run anyway."""
    asked = {"failed": options.retry_failed, "diverged": options.retry_diverged}
    asked |= {"stale": options.retrain_stale, "damaged": options.retrain_damaged, "no weights": options.retrain_lost}
    asked["blocked"] = any(asked.values())
    return {state for state, given in asked.items() if given}


def _drop(key: str, state: str, ledger: Ledger, tracker: Tracker) -> None:
    """Make a training start from scratch."""
    if state == "diverged":
        ledger.forget(key)
    else:
        say(f"{key}: moved to {ledger.supersede(key)}")
    tracker.forget(key)


def summary(
    trials: tuple[Trial, ...],
    standings: dict[str, Standing],
    ledger: Ledger,
    failures: dict[str, Failure],
    tried: frozenset[str],
) -> str:
    """The trials' states, why some have no result, and which ones read their images from another folder.

    What failed in an earlier start and was not `tried` now (keys) is told apart, once for each reason.
    """
    counts = Counter(each.state for each in standings.values())
    states = ", ".join(f"{number} {state}" for state, number in counts.items())
    lines = [f"{counted(len(standings), 'training')}: {states}"]
    earlier: dict[tuple[str, str], list[str]] = {}
    for trial in trials:
        key, stands = trial.key, standings[trial.key]
        if where := other_root(trial, stands):
            lines.append(f"  {stands.state}: {ledger.folder(key)}: {where}, not at {trial.config.data.root}")
        if stands.state == "done":
            continue
        if stands.state in ("failed", "diverged") and key not in tried:
            earlier.setdefault((stands.state, stands.why), []).append(key)
            continue
        told = stands.why or (failures[key].reason if key in failures else "did not end")
        lines.append(f"  {stands.state}: {ledger.folder(key)}: {told}")
    for (state, why), keys in earlier.items():
        more = f" and {len(keys) - KEYS_SHOWN} more" if len(keys) > KEYS_SHOWN else ""
        lines.append(f"  {state} in an earlier start, not tried now: {', '.join(keys[:KEYS_SHOWN])}{more}: {why}")
    if counts["stale"]:
        lines.append("stale: use them with --accept-stale, or retrain them with --retrain-stale")
    if counts["damaged"]:
        lines.append("damaged: put them aside and retrain them with --retrain-damaged")
    if counts["no weights"]:
        lines.append("no weights: put them aside and retrain them with --retrain-lost")
    if any(each.state == "failed" and not each.again for each in standings.values()):
        lines.append("failed: once the cause is gone, retry them with --retry-failed")
    return "\n".join(lines)


if __name__ == "__main__":
    from orchestrator.sweep import main as imported_main  # so that workers find its classes under the module's name

    sys.exit(run(imported_main))
