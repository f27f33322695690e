"""Run a sweep file: train what is missing, test what is not tested, print its tables.

python -m orchestrator.sweep sweeps/demo.yaml --plan
python -m orchestrator.sweep sweeps/table2.yaml data.root=/images/mini_imagenet resources.gpu=0.5

Started again, the same command goes on where it stopped. Exit status: 0 when every trial has its record and MLflow is
complete, 1 when not, 2 for a mistake in the file or the command, 128 + signal when interrupted.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dmf.records.records import Failure
from dmf.records.staleness import Today
from orchestrator.costs.budget import parse_duration, select, within
from orchestrator.costs.describe import describe, other_root
from orchestrator.costs.estimates import Cost, estimate
from orchestrator.costs.machine import at_a_time
from orchestrator.costs.preview import machine_for
from orchestrator.costs.rates import Calibration
from orchestrator.costs.totals import compare
from orchestrator.report import report
from orchestrator.running.interrupts import Interrupted, Signals, Stopped
from orchestrator.running.options import Options
from orchestrator.running.order import stages_first, with_stages
from orchestrator.running.progress import Progress
from orchestrator.running.watch import SweepWatch
from orchestrator.spec.file import read_spec
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import SweepPlan, Trial, labels, plan
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.store.standing import Standing, standing
from orchestrator.text import duration
from orchestrator.tracking.uris import without_password

if TYPE_CHECKING:
    from orchestrator.tracking.tracker import Tracker

log = logging.getLogger("dmf.sweep")

ANEW = ("retry_diverged", "retry_failed", "retrain_stale")
"""Options that have something trained again."""
OF_PARTS = ("calibrate", "only", "budget", *ANEW)
"""Options that speak of trials which the file names; a search finds its own."""
TRIAL_TIMEOUT = "30m"
"""Of `--executor ray`."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _options(arguments)
    said = logging.StreamHandler()
    said.setLevel(logging.WARNING)  # a trial in this process logs more, to its folder
    logging.basicConfig(handlers=[said], level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        spec = read_spec(options.spec, options.settings)
        planned = plan(spec)
        _check_options(spec, options)
        _asked(planned, options)  # refuses a name that no training has
        if options.calibrate:
            _calibrate(planned, options)
        if options.plan:
            _print_plan(spec, planned, options)
        return 0 if options.calibrate or options.plan else _run(spec, planned, options)
    except (ValueError, BlockingIOError) as error:
        print(f"error: {without_password(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {without_password(str(error))}; {_again()}", file=sys.stderr)
        return 1


def _options(arguments: list[str] | None) -> Options:
    given = vars(_parser().parse_intermixed_args(arguments))
    if given["executor"] == "ray" and given["trial_timeout"] is None:
        given["trial_timeout"] = parse_duration(TRIAL_TIMEOUT)
    return Options(**given)


def _check_options(spec: SweepSpec, options: Options) -> None:
    """ValueError for options that nothing would read, or that exclude each other."""
    if spec.search is not None and (given := _given(OF_PARTS, options)):
        raise ValueError(f"{given}: for sweeps with parts, and {spec.name} is a search; leave it out")
    if (options.plan or options.calibrate) and (given := _given(ANEW, options)):
        raise ValueError(f"{given}: --plan and --calibrate train nothing; leave it out, or them")
    if options.calibrate and not options.plan and options.budget:
        raise ValueError("--budget: --calibrate alone chooses no trainings; give --plan too, or leave it out")
    if options.again and not options.calibrate:
        raise ValueError("--again says that --calibrate measures anew; give both, or leave it out")
    if options.executor == "local":
        _check_local(spec, options)


def _check_local(spec: SweepSpec, options: Options) -> None:
    """ValueError for what trials in this process do not have."""
    if spec.search is not None:
        raise ValueError(f"--executor local: {spec.name} is a search, which needs Ray Tune; leave it out")
    if options.plan or options.calibrate:
        raise ValueError("--executor: --plan and --calibrate run no trials; leave it out, or them")
    if options.address:
        raise ValueError("--address: of a running Ray, and --executor local starts none; leave one of them out")
    if options.trial_timeout:
        raise ValueError(
            "--trial-timeout: ends the process of a trial that hangs, with --executor local that of the sweep itself; "
            "leave it out, and end a hang with Ctrl-C"
        )


def _given(names: tuple[str, ...], options: Options) -> str:
    return ", ".join(f"--{name.replace('_', '-')}" for name in names if getattr(options, name))


def _again() -> str:
    """How to go on, without the password of a URI."""
    command = ["python", "-m", "orchestrator.sweep", *map(without_password, sys.argv[1:])]
    return f"go on with the same command: {shlex.join(command)}"


def _asked(planned: SweepPlan, options: Options) -> tuple[Trial, ...]:
    """The trials that the command line speaks of."""
    trials = planned.trials()
    if not options.only:
        return trials
    return with_stages(select(trials, labels(trial.config for trial in trials), options.only), trials)


def _calibrate(planned: SweepPlan, options: Options) -> None:
    """Measure what is not known of the sweep's trainings, and name switches that change nothing."""
    from orchestrator.costs.calibrate import calibrate
    from orchestrator.costs.canary import canary

    _check_writable(local_folder(options.store), "--store")
    with Ledger.at(options.store).driving(options.wait) as ledger:
        left = [trial for trial in _asked(planned, options) if ledger.state(trial) not in ("done", "diverged")]
        calibrate(left, ledger, options.again)
        for sentence in canary(planned):
            print(f"warning: {sentence}")


def _print_plan(spec: SweepSpec, planned: SweepPlan, options: Options) -> None:
    try:
        ledger, today, asked = Ledger.at(options.store), Today(options.accept_stale), _asked(planned, options)
        if options.budget:
            todo = tuple(trial for trial in asked if standing(trial, ledger, today).runs)
            costs = estimate(todo, ledger, Calibration.of(ledger.store))
            asked = _affordable(todo, costs, spec, options) if todo else asked
        text = describe(spec, planned, ledger, today, asked if options.only or options.budget else None)
    except OSError as error:
        raise ValueError(f"--store {options.store} can not be read: {error.strerror or error}") from None
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read it, such as head, has enough; the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", help="a sweep file, such as sweeps/demo.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="over the file: data.root=/images seeds=[0,1]")
    parser.add_argument("--plan", action="store_true", help="say what would be trained and tested, start nothing")
    parser.add_argument("--calibrate", action="store_true", help="time steps of every kind of training, for --plan")
    parser.add_argument("--again", action="store_true", help="with --calibrate: also what was measured before")
    parser.add_argument(
        "--only",
        action="append",
        metavar="PATTERN",
        help="run these trainings only: a key, a label such as 'groups=64*', or 'table 2c'; may be given again",
    )
    parser.add_argument(
        "--budget",
        type=_duration,
        metavar="TIME",
        help="run what ends within this time, the first seed of every cell first, and stop at it: 90m, 12h, 2d",
    )
    parser.add_argument("--store", default="runs", help="what is kept: a folder, or s3://bucket/prefix or gs:// (runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the tables (results)")
    parser.add_argument(
        "--executor",
        choices=("ray", "local"),
        default="ray",
        help="who runs the trials (ray): Ray's workers, several at a time, started again when they die; or, for "
        "debugging, this process, one after the other: breakpoints work, `resources` is not read, and searches, "
        "--address and --trial-timeout are refused",
    )
    parser.add_argument(
        "--address",
        help="a running Ray, auto or host:port on its head node (RAY_AUTH_MODE=token where it asks for one)",
    )
    parser.add_argument(
        "--tracking-uri",
        help="MLflow; default $MLFLOW_TRACKING_URI, else a database in the store, of an object store on this machine",
    )
    parser.add_argument("--wait", action="store_true", help="wait while another driver uses the store")
    parser.add_argument("--retry-diverged", action="store_true", help="train anew what diverged")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed and no machine was at fault")
    stale = parser.add_mutually_exclusive_group()
    stale.add_argument(
        "--accept-stale",
        action="store_true",
        help="take, and go on with, what other code made or what was made from other images; tables say so",
    )
    stale.add_argument("--retrain-stale", action="store_true", help="put such trainings aside and train them anew")
    parser.add_argument(
        "--trial-timeout",
        type=_duration,
        metavar="TIME",
        help="end and start again a trial that gives no sign of life for so long, such as 90s, 2h "
        f"({TRIAL_TIMEOUT}; none with --executor local, where a trial may hang for ever)",
    )
    return parser


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _check_writable(folder: Path, option: str) -> None:
    """ValueError unless files can be written to `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option}: {folder} can not be written to: {error.strerror or error}") from None


def _run(spec: SweepSpec, planned: SweepPlan, options: Options) -> int:
    if (options.address or "").startswith("ray://"):
        raise ValueError(
            f"--address {options.address}: what trials report does not reach this process through Ray Client; "
            "start the sweep on the cluster's head node with --address auto"
        )
    _check_writable(local_folder(options.store), "--store")
    if planned.cells:
        _check_writable(options.results / planned.name, "--results")
    signals = Signals()
    try:
        with signals.caught(), Ledger.at(options.store).driving(options.wait) as ledger:
            return 0 if _drive(spec, planned, ledger, signals, options) else 1
    except Interrupted as interrupted:
        print(f"stopped by {interrupted}; {_again()}", file=sys.stderr)
        return 128 + interrupted.number
    except Stopped as stopped:
        print(f"stopped: {stopped}; {_again()}", file=sys.stderr)
        return 1


def _drive(spec: SweepSpec, planned: SweepPlan, ledger: Ledger, signals: Signals, options: Options) -> bool:
    """Run a sweep with its mirror in MLflow; whether every trial has its record and the mirror is complete."""
    from orchestrator.tracking.server import tracking_uri
    from orchestrator.tracking.tracker import Tracker

    if options.executor == "ray" and options.address is None:
        # Read when ray is imported: our own Ray then listens on 127.0.0.1 only, as _node_ip_address would not.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if spec.search is not None:
        from orchestrator.running.search import check_fresh, run_search
        from orchestrator.store.searches import kept

        # Refuses another search of its name, and another code's, before anything is written.
        check_fresh(kept(spec, ledger), ledger, Today(options.accept_stale))
    uri = tracking_uri(ledger.store, options.tracking_uri)
    left = ledger.no_longer_planned(planned)
    if left:
        print(f"{len(left)} trainings of its last start are no longer asked for, they are kept: {', '.join(left[:10])}")
    ledger.write_plan(planned)
    tracker = Tracker(uri, ledger, planned, labels(trial.config for trial in planned.trials()))
    status, interrupted = "FAILED", False
    try:
        if spec.search is not None:
            complete = run_search(spec, ledger, tracker, signals, options)
        else:
            complete = run_sweep(spec, planned, ledger, tracker, signals, options)
        whole = complete and all(ledger.state(trial) in ("done", "diverged") for trial in planned.trials())
        status = "FINISHED" if whole else "KILLED" if complete else "FAILED"
    except Stopped:
        status, interrupted = "KILLED", True
        raise
    finally:
        trouble = _close(tracker, ledger, status, interrupted)
        print(_where(uri))
        if trouble:
            print(f"error: {trouble}; the next start of this sweep, or {_sync(options)}, adds it", file=sys.stderr)
    return complete and not trouble


def _close(tracker: Tracker, ledger: Ledger, status: str, interrupted: bool) -> str | None:
    """Bring MLflow to the end of the sweep; None, or why it is incomplete."""
    try:
        ledger.check()
    except OSError as error:  # another driver may have the store, and tells MLflow of it
        tracker.abandon()
        return f"MLflow is left to another driver: {error}"
    return tracker.stop(status, interrupted)


def _where(uri: str) -> str:
    """Where MLflow shows the runs."""
    if uri.startswith(("http://", "https://")):
        return f"MLflow: {without_password(uri)}"
    shown = shlex.join([sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", without_password(uri)])
    return f"MLflow: {without_password(uri)}\n  {shown}"


def _sync(options: Options) -> str:
    given = ["--tracking-uri", without_password(options.tracking_uri)] if options.tracking_uri else []
    return shlex.join(["python", "-m", "orchestrator.sync", "--store", options.store, *given])


def run_sweep(
    spec: SweepSpec,
    planned: SweepPlan,
    ledger: Ledger,
    tracker: Tracker,
    signals: Signals,
    options: Options,
) -> bool:
    """Run what is missing of a sweep and print its tables; whether every trial has its record."""
    trials, today = planned.trials(), Today(options.accept_stale)
    names, asked = labels(trial.config for trial in trials), _asked(planned, options)
    before = {trial.key: standing(trial, ledger, today) for trial in asked}
    wanted = _wanted(options)
    todo = stages_first(t for t in asked if before[t.key].runs or before[t.key].state in wanted)
    anew = {trial.key for trial in todo if before[trial.key].state in ("diverged", "stale")}
    costs = estimate(todo, ledger, Calibration.of(ledger.store), anew)
    if options.budget and todo:
        todo = _affordable(todo, costs, spec, options)
        signals.deadline = time.monotonic() + options.budget
    for trial in todo:
        if trial.key in anew:
            _drop(trial.key, before[trial.key].state, ledger, tracker)
    ended = sum(each.ended for each in before.values()) - sum(before[trial.key].ended for trial in todo)
    left = len(asked) - ended - len(todo)
    kept = f", {left} left as they are" if left else ""
    print(f"{planned.name}: {len(asked)} trainings, {ended} done, {len(todo)} to run{kept}")
    failures: dict[str, Failure] = {}
    stopped: Stopped | None = None
    if todo:
        from orchestrator.running.executor import executor

        with Progress(spec.name) as progress, executor(spec, ledger, signals, options) as chosen:
            watch = SweepWatch(spec, ledger, tracker, signals, progress, todo, names)
            try:
                chosen.run(todo, watch)
            except Interrupted:
                raise
            except Stopped as reason:
                stopped = reason
        failures = watch.failures
        _look(ledger)
    today = Today(options.accept_stale)  # images that no machine had opened before have a fingerprint now
    paths = report(planned, ledger, options.results, today=today)
    after = {trial.key: standing(trial, ledger, today) for trial in asked}
    print("\n" + summary(asked, after, ledger, failures))
    if any(costs[trial.key].seconds for trial in todo):
        print(compare({trial.key: costs[trial.key] for trial in todo}, ledger))
    if paths:
        print(f"tables: {paths[0].parent}")
    if stopped:
        raise stopped
    return all(each.ended for each in after.values())


def _look(ledger: Ledger) -> None:
    """Learn what trials wrote last; what is known must do where an object store does not answer."""
    try:
        ledger.all_ended()
    except OSError as error:
        log.warning("tables are made of what is known here: %s", error)


def _affordable(
    todo: tuple[Trial, ...], costs: dict[str, Cost], spec: SweepSpec, options: Options
) -> tuple[Trial, ...]:
    """The trials that are wanted most and end within --budget. ValueError when not even the shortest does."""
    assert options.budget is not None
    local = options.executor == "local"
    together = 1 if local else at_a_time(todo, spec.resources, machine_for(todo, costs, spec))
    chosen = within(todo, costs, options.budget, together, spec.seeds)
    told = duration(options.budget)
    if not chosen:
        least = min(costs[trial.key].seconds or 0.0 for trial in todo)
        raise ValueError(f"--budget: no training ends within {told}, the shortest takes {duration(least)}")
    print(f"of {len(todo)} trainings {len(chosen)} end within {told}, as far as is known")
    return chosen


def _wanted(options: Options) -> set[str]:
    """States whose trials the user wants to run, besides those that run anyway."""
    asked = {"failed": options.retry_failed, "diverged": options.retry_diverged, "stale": options.retrain_stale}
    asked["blocked"] = any(asked.values())
    return {state for state, given in asked.items() if given}


def _drop(key: str, state: str, ledger: Ledger, tracker: Tracker) -> None:
    """Have a training start from nothing."""
    if state == "diverged":
        ledger.forget(key)
    else:
        print(f"{key}: put aside as {ledger.supersede(key)}")
    tracker.forget(key)


def summary(
    trials: tuple[Trial, ...], standings: dict[str, Standing], ledger: Ledger, failures: dict[str, Failure]
) -> str:
    """How the trials stand (by key), for those without a result why, and which saw images elsewhere."""
    counts = Counter(each.state for each in standings.values())
    lines = [f"{len(standings)} trainings: " + ", ".join(f"{number} {state}" for state, number in counts.items())]
    for trial in trials:
        key, stands = trial.key, standings[trial.key]
        if where := other_root(trial, ledger):
            lines.append(f"  {stands.state}: {ledger.folder(key)}: {where}, not at {trial.config.data.root}")
        if stands.state == "done":
            continue
        told = stands.why or (failures[key].reason if key in failures else "did not end")
        lines.append(f"  {stands.state}: {ledger.folder(key)}: {told}")
    if counts["stale"]:
        lines.append("stale: keep them with --accept-stale, or make them anew with --retrain-stale")
    if any(each.state == "failed" and not each.again for each in standings.values()):
        lines.append("failed: once the cause is gone, try them again with --retry-failed")
    return "\n".join(lines)


if __name__ == "__main__":
    from orchestrator.sweep import main as imported_main  # so that workers find its classes by their module's name

    sys.exit(imported_main())
