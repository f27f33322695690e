"""Run a sweep file: train what is missing, test what is not tested, print its tables.

python -m orchestrator.sweep sweeps/demo.yaml --plan
python -m orchestrator.sweep sweeps/table2.yaml data.root=/images/mini_imagenet resources.gpu=0.5

Started again, the same command goes on where it stopped. Exit status: 0 when every trial has its record and MLflow is
complete, 1 when not, 2 for a mistake in the file or the command, 128 + signal when interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from dmf.records import Epoch, Failure, TrainingRecord
from orchestrator.interrupts import Interrupted, Signals
from orchestrator.ledger import Ledger, State
from orchestrator.plan import SweepPlan, Trial, labels, plan
from orchestrator.progress import Progress
from orchestrator.report import report
from orchestrator.spec import SweepSpec
from orchestrator.spec_file import read_spec

if TYPE_CHECKING:
    from orchestrator.tracking import Tracker

log = logging.getLogger("dmf.sweep")

PLANNED = {
    "missing": "to train",
    "started": "to go on with from its checkpoint",
    "failed": "failed, to try again",
    "untested": "trained, to test",
    "done": "done",
    "diverged": "diverged",
}
"""What a state of the ledger means for the next start."""


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    try:
        spec = read_spec(options.spec, options.settings)
        planned = plan(spec)
        if options.plan:
            return _print_plan(spec, planned, options.store)
        return _run(spec, planned, options)
    except (ValueError, BlockingIOError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _print_plan(spec: SweepSpec, planned: SweepPlan, store: Path) -> int:
    try:
        text = describe(spec, planned, Ledger(store))
    except OSError as error:
        raise ValueError(f"--store {store} can not be read: {error.strerror or error}") from None
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read it, such as head, has enough; the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", help="a sweep file, such as sweeps/demo.yaml")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="over the file: data.root=/images seeds=[0,1]")
    parser.add_argument("--plan", action="store_true", help="say what would be trained and tested, start nothing")
    parser.add_argument("--store", type=Path, default=Path("runs"), help="folder of everything that is kept (runs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the tables (results)")
    parser.add_argument(
        "--address",
        help="a running Ray, auto or host:port on its head node (RAY_AUTH_MODE=token where it asks for one)",
    )
    parser.add_argument("--tracking-uri", help="MLflow; default $MLFLOW_TRACKING_URI, else a database in the store")
    parser.add_argument("--wait", action="store_true", help="wait while another driver uses the store")
    parser.add_argument("--retry-diverged", action="store_true", help="train anew what diverged")
    return parser


def describe(spec: SweepSpec, planned: SweepPlan, ledger: Ledger) -> str:
    """What a sweep would do, as text."""
    if spec.search is not None:
        return describe_search(spec, ledger)
    trials = planned.trials()
    states = {trial.key: ledger.state(trial) for trial in trials}
    told = labels(trial.config for trial in trials)
    asked, cells = planned.trainings_asked, len(planned.cells)
    tables = Counter(cell.table for cell in planned.cells)
    counts = Counter(states.values())
    evaluations = {(trial.key, e.key) for trial in trials for e in trial.evaluations}
    tested = sum(ledger.evaluation(*pair) is not None for pair in evaluations)
    lines = [
        f"Sweep {planned.name}: {planned.about}",
        f"{cells} cells in {', '.join(f'table {name}: {n}' for name, n in tables.items())}; seeds {list(spec.seeds)}",
        f"{asked} trainings asked for, {len(trials)} distinct ({asked - len(trials)} duplicates removed)",
        f"{len(evaluations)} evaluations, {tested} done",
        "trainings: " + ", ".join(f"{number} {PLANNED[state]}" for state, number in counts.items()),
        "",
    ]
    width = max(len(text) for text in told.values())
    for trial in trials:
        fills = ", ".join(dict.fromkeys(trial.tables))
        line = f"{trial.key}  {told[trial.key]:<{width}}  table {fills}  {PLANNED[states[trial.key]]}"
        lines.append(line + (f", {where}" if (where := other_root(trial, ledger)) else ""))
    return "\n".join(lines)


def other_root(trial: Trial, ledger: Ledger) -> str | None:
    """`trained on images at ...`, when a stored training's images lay elsewhere than the sweep says now."""
    record = ledger.training(trial.key)
    if record is None or record.outcome == "failed" or record.config.data.root in (None, trial.config.data.root):
        return None
    return f"trained on images at {record.config.data.root}"


def describe_search(spec: SweepSpec, ledger: Ledger) -> str:
    """What a search would do and what it has tried. ValueError when the store holds another one of its name."""
    from orchestrator.search import listing, resume

    assert spec.search is not None
    results = resume(spec, ledger)
    lines = [f"Search {spec.name}: {spec.search.trials} trainings over"]
    lines += [f"  {path}: {range_}" for path, range_ in spec.search.parameters.given().items()]
    lines.append(f"{len(results.tried)} tried, {max(0, spec.search.trials - len(results.tried))} to try")
    return "\n".join([*lines, listing(results)] if results.tried else lines)


def _check_writable(folder: Path, option: str) -> None:
    """ValueError unless files can be written to `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{option}: {folder} can not be written to: {error.strerror or error}") from None


def _run(spec: SweepSpec, planned: SweepPlan, options: argparse.Namespace) -> int:
    if (options.address or "").startswith("ray://"):
        raise ValueError(
            f"--address {options.address}: what trials report does not reach this process through Ray Client; "
            "start the sweep on the cluster's head node with --address auto"
        )
    _check_writable(options.store, "--store")
    if planned.cells:
        _check_writable(options.results / planned.name, "--results")
    signals = Signals()
    try:
        with signals.caught(), Ledger(options.store.resolve()).driving(options.wait) as ledger:
            return 0 if _drive(spec, planned, ledger, signals, options) else 1
    except Interrupted as interrupted:
        again = shlex.join(["python", "-m", "orchestrator.sweep", *sys.argv[1:]])
        print(f"stopped by {interrupted}; go on with the same command: {again}", file=sys.stderr)
        return 128 + interrupted.number


def _drive(spec: SweepSpec, planned: SweepPlan, ledger: Ledger, signals: Signals, options: argparse.Namespace) -> bool:
    """Run a sweep with its mirror in MLflow; whether every trial has its record and the mirror is complete."""
    from orchestrator.tracking import Tracker, tracking_uri

    if options.address is None:
        # Read when ray is imported: our own Ray then listens on 127.0.0.1 only, as _node_ip_address would not.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if spec.search is not None:
        from orchestrator.search import resume, run_search

        resume(spec, ledger)  # refuses another search of its name, before anything is written
    uri = tracking_uri(ledger.store, options.tracking_uri)
    ledger.write_plan(planned)
    tracker = Tracker(uri, ledger, planned, labels(trial.config for trial in planned.trials()))
    status = "FAILED"
    try:
        if spec.search is not None:
            complete = run_search(spec, ledger, tracker, signals, options.address)
        else:
            complete = run_sweep(spec, planned, ledger, tracker, signals, options)
        status = "FINISHED" if complete else "FAILED"
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        trouble = tracker.stop(status)
        print(f"MLflow: {uri}\n  {shlex.join([sys.executable, '-m', 'mlflow', 'ui', '--backend-store-uri', uri])}")
        if trouble:
            print(f"error: {trouble}; the next start of this sweep adds what is missing", file=sys.stderr)
    return complete and not trouble


def run_sweep(
    spec: SweepSpec,
    planned: SweepPlan,
    ledger: Ledger,
    tracker: Tracker,
    signals: Signals,
    options: argparse.Namespace,
) -> bool:
    """Run what is missing of a sweep and print its tables; whether every trial has its record."""
    trials = planned.trials()
    if options.retry_diverged:
        for trial in trials:
            if ledger.state(trial) == "diverged":
                ledger.forget(trial.key)
                tracker.forget(trial.key)
    todo = tuple(trial for trial in trials if ledger.state(trial) not in ("done", "diverged"))
    print(f"{planned.name}: {len(trials)} trainings, {len(trials) - len(todo)} done, {len(todo)} to run")
    errors: dict[str, str] = {}
    if todo:
        from orchestrator.scheduling import cluster, request, run_trials

        names = labels(trial.config for trial in trials)
        with Watch(planned.name, ledger, tracker, todo, names) as watch, cluster(options.address, signals) as nodes:
            requests = {trial.key: request(trial.config, spec.resources, nodes) for trial in todo}
            run_trials(planned.name, todo, ledger.store, requests, spec.max_failures, watch, signals)
        errors = watch.errors
    paths = report(planned, ledger, options.results)
    states = {trial.key: ledger.state(trial) for trial in trials}
    print("\n" + summary(trials, states, ledger, errors))
    if paths:
        print(f"tables: {paths[0].parent}")
    return all(state in ("done", "diverged") for state in states.values())


def summary(trials: tuple[Trial, ...], states: dict[str, State], ledger: Ledger, errors: dict[str, str]) -> str:
    """How the trials stand (`states`, by key), for those without a result why, and which saw images elsewhere."""
    counts = Counter(states.values())
    lines = [f"{len(states)} trainings: " + ", ".join(f"{number} {state}" for state, number in counts.items())]
    for trial in trials:
        key, state = trial.key, states[trial.key]
        if where := other_root(trial, ledger):
            lines.append(f"  {state}: {ledger.folder(key)}: {where}, not at {trial.config.data.root}")
        if state == "done":
            continue
        record = ledger.training(key)
        reason = record.failure.reason if record and record.failure else errors.get(key, "did not end")
        lines.append(f"  {state}: {ledger.folder(key)}: {reason}")
    return "\n".join(lines)


class Watch(contextlib.ExitStack):
    """Tells the progress display and MLflow what trials do, and the ledger of those whose process died."""

    def __init__(
        self, title: str, ledger: Ledger, tracker: Tracker, trials: tuple[Trial, ...], names: dict[str, str]
    ) -> None:
        super().__init__()
        self.ledger, self.tracker, self.names = ledger, tracker, names
        self.trials = {trial.key: trial for trial in trials}
        self.before = {trial.key: ledger.training(trial.key) for trial in trials}
        self.errors: dict[str, str] = {}
        self.progress = self.enter_context(Progress(title))
        for key, trial in self.trials.items():
            self.progress.planned(key, names[key], trial.config.training.epochs)

    def started(self, key: str) -> None:
        self.tracker.started(self.trials[key].config, self.names[key])
        self.progress.started(key)

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.tracker.epoch(key, epoch)
        self.progress.epoch(key, epoch)

    def recovering(self, key: str) -> None:
        self.progress.note(key, "lost its process, goes on from its checkpoint")

    def ended(self, key: str, error: str | None) -> None:
        trial, record = self.trials[key], self.ledger.training(key)
        if error:
            self.errors[key] = error
            if record is None or (record.outcome == "failed" and record == self.before[key]):
                failure = Failure(reason=error)
                record = TrainingRecord(key=key, config=trial.config, outcome="failed", failure=failure)
                self.ledger.write_training(record)
        self.tracker.ended(trial, self.names[key])
        state = self.ledger.state(trial)
        stage = state if state in ("done", "diverged") else "failed"
        self.progress.ended(key, stage, error or "")


if __name__ == "__main__":
    from orchestrator.sweep import main as imported_main  # so that workers find its classes by their module's name

    sys.exit(imported_main())
