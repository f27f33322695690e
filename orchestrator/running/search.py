"""A search sweep: Optuna proposes values, ASHA stops trials that fall behind, validation accuracy decides.

The first proposal is the base configuration itself (the paper's), as far as the ranges hold it. What was tried is kept
in the store, so that a search started again goes on with what it knows; what failed or was cut off is tried again
first.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import Field

from dmf.config import ExperimentConfig, Fraction
from dmf.records.records import CONFIG, Epoch, Failure, TrainingRecord
from dmf.values import Value, digest
from orchestrator.running.interrupts import Signals
from orchestrator.running.progress import Progress, Stage
from orchestrator.running.watch import Watch, check_lease, note_failure, stop_after
from orchestrator.spec.model import Range, Search, SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.snapshot import snapshot
from reports.staleness import Today

if TYPE_CHECKING:
    from orchestrator.tracking.tracker import Tracker

TAKE_STALE = "take it all the same with --accept-stale, or give the search a --store of its own"


class Tried(Value):
    """One proposal and how it did."""

    values: dict[Annotated[str, Field(pattern=r"^[a-z]+\.[a-z_]+$")], Any]
    """Dotted path -> value."""
    key: str
    accuracy: Fraction
    """Best validation accuracy when it ended, 0 if it diverged, failed or is impossible."""
    epochs: int
    outcome: Literal["running", "finished", "diverged", "failed", "stopped", "impossible"]
    """`running`: begun, and not ended as far as is known. `stopped`: by ASHA, before its last epoch; its checkpoint is
    kept, it has no record. `impossible`: values that no configuration can have together."""


class SearchResults(Value):
    """Everything that a search has tried."""

    base: ExperimentConfig
    parameters: dict[str, Any]
    tried: tuple[Tried, ...] = ()
    trials: int = 0
    """How many were asked for last."""

    @property
    def best(self) -> Tried | None:
        """Of those trained to their end, the one of highest validation accuracy."""
        finished = [tried for tried in self.tried if tried.outcome == "finished"]
        return max(finished, key=lambda tried: tried.accuracy, default=None)

    @property
    def open(self) -> tuple[Tried, ...]:
        """Those that an error or a kill ended: nothing is known of their values."""
        return tuple(tried for tried in self.tried if tried.outcome in ("failed", "running"))

    def with_tried(self, tried: Iterable[Tried]) -> SearchResults:
        """The same search with `tried` instead."""
        return SearchResults(base=self.base, parameters=self.parameters, tried=tuple(tried), trials=self.trials)


def results_path(ledger: Ledger, name: str) -> Path:
    """Where a search keeps what it has tried."""
    return ledger.sweep_folder(name) / "search.json"


def results_of(ledger: Ledger, name: str) -> SearchResults | None:
    """What a search has tried; None where there is no search of that name."""
    path = results_path(ledger, name)
    return SearchResults.read(path) if path.is_file() else None


def kept(spec: SweepSpec, ledger: Ledger) -> SearchResults:
    """Everything that a search has tried so far. ValueError when it was another search."""
    assert spec.search is not None
    search = spec.search
    fresh = SearchResults(base=spec.config_for({}), parameters=search.parameters.given(), trials=search.trials)
    path, earlier = results_path(ledger, spec.name), results_of(ledger, spec.name)
    if earlier is None:
        return fresh
    if (earlier.base.key, earlier.parameters) != (fresh.base.key, fresh.parameters):
        raise ValueError(
            f"{path} is of a search with another base or other ranges; give this one a name of its own (name=...)"
        )
    return fresh.with_tried(earlier.tried)


def resume(spec: SweepSpec, ledger: Ledger) -> SearchResults:
    """What a search goes on from: `kept` without what failed or was cut off, which is to be tried again."""
    results = kept(spec, ledger)
    return results.with_tried(tried for tried in results.tried if tried not in results.open)


def check_fresh(results: SearchResults, ledger: Ledger, today: Today) -> None:
    """ValueError when today's code and images would not make what a search has tried so far."""
    for tried in results.tried:
        if doubts := _doubts(tried.key, ledger, today):
            raise ValueError(f"training {tried.key} of this search was {doubts}; {TAKE_STALE}")


def _doubts(key: str, ledger: Ledger, today: Today) -> str:
    """Why a training that is there is stale; empty where it is not, or the user takes it all the same."""
    if today.accept_stale:
        return ""
    record = ledger.training(key)
    if record and record.provenance:
        return ", ".join(today.doubts(record.config, record.provenance.code, record.provenance.data_fingerprint))
    try:
        at = ledger.checkpoint(key)
    except ValueError:  # one that can not be read; the trial will say so when it meets it
        return ""
    config = ExperimentConfig.read(ledger.folder(key) / CONFIG) if at else None
    return ", ".join(today.doubts(config, at.code, at.data)) if at and config else ""


def first_point(base: ExperimentConfig, search: Search) -> dict[str, Any] | None:
    """The base configuration as a proposal; None when a range leaves it out."""
    point = {}
    for path, given in search.parameters.given().items():
        value, range_ = base.at(path), Range.from_dict(given)
        inside = value in range_.ends if range_.choice else range_.ends[0] <= value <= range_.ends[1]
        if not inside:
            return None
        point[path] = value
    return point


class SearchWatch:
    """Keeps what is tried, and tells progress and MLflow of it, as `Watch` does for a sweep."""

    def __init__(
        self,
        spec: SweepSpec,
        results: SearchResults,
        ledger: Ledger,
        tracker: Tracker,
        signals: Signals,
        progress: Progress,
        today: Today,
    ) -> None:
        self.spec, self.results, self.ledger, self.today = spec, results, ledger, today
        self.tracker, self.signals, self.progress = tracker, signals, progress
        self.values: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, ExperimentConfig | None] = {}
        self.before: dict[str, TrainingRecord | None] = {}
        self.seen: dict[str, list[Epoch]] = {}

    def key_of(self, values: dict[str, Any]) -> str:
        """The training's key for proposed values; for impossible ones a key of their own."""
        try:
            config = self.results.base.with_paths(values)
        except ValueError:
            config = None
        key = config.key if config else digest(values)
        if key not in self.values:
            self.values[key], self.configs[key], self.before[key] = values, config, self.ledger.training(key)
            self.progress.planned(key, label(values), self.results.base.training.epochs)
        return key

    def check(self) -> None:
        check_lease(self.ledger, self.signals)

    def started(self, key: str) -> None:
        if config := self.configs[key]:
            self.tracker.started(config, label(self.values[key]))
        self.progress.started(key)
        self._keep(Tried(values=self.values[key], key=key, accuracy=0.0, epochs=0, outcome="running"))

    def _keep(self, tried: Tried) -> None:
        """Write what there is of a proposal in place of what was known of it while it was open."""
        known = self.results
        others = (each for each in known.tried if each.key != tried.key or each not in known.open)
        self.results = known.with_tried([*others, tried])
        self.results.write(results_path(self.ledger, self.spec.name))
        self.ledger.keep(results_path(self.ledger, self.spec.name))

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.seen.setdefault(key, []).append(epoch)
        self.tracker.epoch(key, epoch)
        self.progress.epoch(key, epoch)

    def recovering(self, key: str) -> None:
        self.progress.note(key, f"{self.ledger.how_lost(key)}, goes on from its checkpoint")

    def ended(self, key: str, failure: Failure | None) -> None:
        stop_after(failure, self.spec.fail_fast, self.signals)  # first: what follows may fail
        self.ledger.ended(key, failure is not None)
        config, record = self.configs[key], self.ledger.training(key)
        if config and failure:
            record = note_failure(self.ledger, config, failure, self.before[key])
        outcome: Any = "impossible" if not config else "failed" if failure else record.outcome if record else "stopped"
        if outcome == "finished" and (doubts := _doubts(key, self.ledger, self.today)):
            outcome, failure = "failed", Failure(reason=f"it was there already, {doubts}; {TAKE_STALE}")
        history = record.history if record else self.seen.get(key, ())
        accuracies = [e.validation_accuracy for e in history if e.validation_accuracy is not None]
        tried = Tried(
            values=self.values[key],
            key=key,
            accuracy=max(accuracies, default=0.0) if outcome in ("finished", "stopped") else 0.0,
            epochs=max((e.epoch for e in history), default=0),
            outcome=outcome,
        )
        self._keep(tried)
        if config:
            self.tracker.ended(Trial(config, ()), label(self.values[key]))
        stage: dict[str, Stage] = {"finished": "done", "impossible": "failed"}
        self.progress.ended(key, stage.get(outcome, outcome), failure.reason if failure else "")


def label(values: dict[str, Any]) -> str:
    """Proposed values, short: `learning_rate=0.1 groups=64`."""
    short = {path.split(".")[1]: f"{v:.4g}" if isinstance(v, float) else v for path, v in values.items()}
    return " ".join(f"{name}={value}" for name, value in short.items())


def listing(results: SearchResults) -> str:
    """What was tried, the best first, and the best configuration as `set` lines of a sweep file."""
    lines = ["validation  epochs  outcome    values"]
    for tried in sorted(results.tried, key=lambda tried: (tried.outcome != "finished", -tried.accuracy)):
        lines.append(f"{100 * tried.accuracy:8.2f} %  {tried.epochs:>6}  {tried.outcome:<10} {label(tried.values)}")
    if results.best is not None:
        text = yaml.safe_dump({"set": results.best.values}, sort_keys=False).rstrip()
        lines.append(f"best: training {results.best.key}\n{text}")
    return "\n".join(lines)


def run_search(
    spec: SweepSpec, ledger: Ledger, tracker: Tracker, signals: Signals, options: argparse.Namespace
) -> bool:
    """Try what is left of a search's trials, test the best, print all.

    Returns whether as many were tried as are asked for, none failed, and the best is tested.
    """
    assert spec.search is not None
    results = resume(spec, ledger)
    again = list({tried.key: tried.values for tried in kept(spec, ledger).open}.values())
    left = max(0, spec.search.trials - len(results.tried))
    print(f"{spec.name}: {spec.search.trials} trials, {len(results.tried)} done, {left} to run")
    best = _best_trial(spec, results)
    if left or (best is not None and ledger.state(best) != "done"):
        results = _run_left(spec, results, again, left, ledger, tracker, signals, options)
        best = _best_trial(spec, results)
    print(listing(results))
    for key in dict.fromkeys(tried.key for tried in results.open):
        record = ledger.training(key)
        reason = record.failure.reason if record and record.failure else "did not end"
        print(f"failed, to be tried again: {ledger.folder(key)}: {reason}")
    tested = best is not None and _told_test(ledger, best)
    return tested and not results.open and len(results.tried) >= spec.search.trials


def _best_trial(spec: SweepSpec, results: SearchResults) -> Trial | None:
    if results.best is None:
        return None
    config = results.base.with_paths(results.best.values)
    return Trial(config, tuple(evaluation.resolve(config) for evaluation in spec.evaluation.configs()))


def _run_left(
    spec: SweepSpec,
    results: SearchResults,
    again: list[dict[str, Any]],
    left: int,
    ledger: Ledger,
    tracker: Tracker,
    signals: Signals,
    options: argparse.Namespace,
) -> SearchResults:
    """Run `left` proposals, those of `again` before others, then the tests of the best."""
    from orchestrator.running.cluster import cluster, node_watch, request
    from orchestrator.running.tune import run_proposals, run_trials

    assert spec.search is not None
    timeout_s = options.trial_timeout
    code = snapshot(ledger.store)
    with cluster(options.address, signals, code, shared=ledger.shared) as nodes:
        needs = request(results.base, spec.resources, nodes)
        around = node_watch(signals, [needs], options.address, timeout_s)
        if left:
            with Progress(spec.name) as progress:
                today = Today(options.accept_stale)
                watch = SearchWatch(spec, kept(spec, ledger), ledger, tracker, signals, progress, today)
                point = first_point(results.base, spec.search)
                known = [*(tried.values for tried in results.tried), *again]
                first = [point, *again] if point is not None and point not in known else again
                run_proposals(spec, results, first, left, watch, needs, timeout_s, around, signals)
                results = watch.results
        best = _best_trial(spec, results)
        if best is not None and results.best is not None and ledger.state(best) != "done":
            tracker.expect(best)
            names = {best.key: label(results.best.values)}
            with Watch(spec, ledger, tracker, signals, (best,), names) as final:
                run_trials(
                    spec.name, (best,), ledger, {best.key: needs}, spec.max_failures, timeout_s, final, around, signals
                )
    return results


def _told_test(ledger: Ledger, best: Trial) -> bool:
    for evaluation in best.evaluations:
        test = ledger.evaluation(best.key, evaluation.key)
        if test is None:
            return False
        way, shot = evaluation.way, evaluation.shot
        print(f"test, {way}-way {shot}-shot: {100 * test.accuracy:.2f} ± {100 * test.ci95:.2f} %")
    return True
