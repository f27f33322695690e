"""Runs a search: Optuna proposes values, ASHA stops trials that fall behind, validation accuracy decides.

The first proposal is the base configuration (the paper's), if the ranges contain it. The store keeps what was tried, so
that a search started again continues with what it knows. It first retries what failed or was cut off.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dmf.config import ExperimentConfig
from dmf.records.records import CONFIG, Epoch, Failure, TrainingRecord
from dmf.records.staleness import Today
from dmf.values import Damaged, digest
from orchestrator.running.faults import one_line
from orchestrator.running.interrupts import Signals
from orchestrator.running.job import Job
from orchestrator.running.options import Options
from orchestrator.running.progress import Progress, Stage
from orchestrator.running.watch import End, SweepWatch, Watch, note_failure
from orchestrator.spec.model import Range, SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.searches import (
    SearchResults,
    Tried,
    first_point,
    kept,
    label,
    listing,
    results_path,
    resume,
    training_or_none,
)
from orchestrator.text import say
from reports.words import counted

if TYPE_CHECKING:
    from orchestrator.running.tune import RayTune
    from orchestrator.tracking.tracker import Tracker

TAKE_STALE = "use it anyway with --accept-stale, or give the search another --store"


def check_fresh(results: SearchResults, ledger: Ledger, today: Today) -> None:
    """Raise ValueError if what a search has tried so far is stale."""
    for tried in results.tried:
        if doubts := _doubts(tried.key, ledger, today):
            raise ValueError(f"training {tried.key} of this search was {doubts}; {TAKE_STALE}")


def _doubts(key: str, ledger: Ledger, today: Today) -> str:
    """Why a training in the store is stale; empty if it is not, or if the user accepts it."""
    if today.accept_stale:
        return ""
    record = training_or_none(ledger, key)
    if record and record.provenance:
        return ", ".join(today.doubts(record.config, record.provenance.code, record.provenance.data_fingerprint))
    try:
        at = ledger.checkpoint(key)
    except ValueError:  # it cannot be read; the trial will report that
        return ""
    config = ExperimentConfig.read(ledger.folder(key) / CONFIG) if at else None
    return ", ".join(today.doubts(config, at.code, at.data)) if at and config else ""


class SearchWatch(Watch):
    """Watches a search's proposals and keeps their outcomes."""

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
        super().__init__(spec, ledger, tracker, signals, progress)
        self.results, self.today = results, today
        self.values: dict[str, dict[str, Any]] = {}
        self.configs: dict[str, ExperimentConfig | None] = {}
        self.before: dict[str, TrainingRecord | None] = {}
        self.seen: dict[str, list[Epoch]] = {}

    def key_of(self, values: dict[str, Any]) -> str:
        """The training's key for proposed values; impossible values have a key of their own."""
        try:
            config = self.results.base.with_paths(values)
        except ValueError:
            config = None
        key = config.key if config else digest(values)
        if key not in self.values:
            self.values[key], self.configs[key], self.before[key] = values, config, training_or_none(self.ledger, key)
            self.progress.planned(key, label(values), self.results.base.training.epochs)
        return key

    def trial(self, key: str) -> Trial | None:
        config = self.configs[key]
        return Trial(config, ()) if config else None

    def name(self, key: str) -> str:
        return label(self.values[key])

    def started(self, key: str) -> None:
        super().started(key)
        self._keep(Tried(values=self.values[key], key=key, accuracy=0.0, epochs=0, outcome="running"))

    def epoch(self, key: str, epoch: Epoch) -> None:
        self.seen.setdefault(key, []).append(epoch)
        super().epoch(key, epoch)

    def settle(self, key: str, failure: Failure | None) -> End:
        config, record = self.configs[key], training_or_none(self.ledger, key)
        if config and failure:
            record = note_failure(self.ledger, config, failure, self.before[key])
        outcome: Any = "impossible" if not config else "failed" if failure else record.outcome if record else "stopped"
        if outcome == "finished" and (doubts := _doubts(key, self.ledger, self.today)):
            outcome, failure = "failed", Failure(reason=f"it was there before, {doubts}; {TAKE_STALE}")
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
        stage: dict[str, Stage] = {"finished": "done", "impossible": "failed"}
        selected = record.best_validation_accuracy if record else None
        return End(stage.get(outcome, outcome), failure.reason if failure else "", selected)

    def _keep(self, tried: Tried) -> None:
        """Write a proposal's state, replacing its former one if it was open."""
        known = self.results
        others = (each for each in known.tried if each.key != tried.key or each not in known.open)
        self.results = known.with_tried([*others, tried])
        self.results.write(results_path(self.ledger, self.spec.name))
        self.ledger.keep(results_path(self.ledger, self.spec.name))


def run_search(spec: SweepSpec, ledger: Ledger, tracker: Tracker, signals: Signals, options: Options) -> bool:
    """Run the remaining trials of a search, test the best one, and print all.

    Returns whether all trials asked for were tried, none failed, and the best one is tested.
    """
    assert spec.search is not None
    results = resume(spec, ledger)
    again = list({tried.key: tried.values for tried in kept(spec, ledger).open}.values())
    left = max(0, spec.search.trials - len(results.tried))
    say(f"{spec.name}: {counted(spec.search.trials, 'trial')}, {len(results.tried)} done, {left} to run")
    best = _best_trial(spec, results)
    if left or (best is not None and ledger.state(best) != "done"):
        results = _run_left(spec, results, again, left, ledger, tracker, signals, options)
        best = _best_trial(spec, results)
    say(listing(results))
    for key in dict.fromkeys(tried.key for tried in results.open):
        record = training_or_none(ledger, key)
        reason = record.failure.reason if record and record.failure else "did not end"
        say(f"failed, will be retried: {ledger.folder(key)}: {reason}")
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
    options: Options,
) -> SearchResults:
    """Run `left` proposals, those in `again` first, then test the best one."""
    from orchestrator.running.tune import ray_tune

    assert spec.search is not None
    with ray_tune(spec, ledger, signals, options) as executor:
        if left:
            with Progress(spec.name) as progress:
                today = Today(options.accept_stale)
                watch = SearchWatch(spec, kept(spec, ledger), ledger, tracker, signals, progress, today)
                point = first_point(results.base, spec.search)
                known = [*(tried.values for tried in results.tried), *again]
                first = [point, *again] if point is not None and point not in known else again
                run_proposals(executor, results, first, left, watch)
                results = watch.results
        best = _best_trial(spec, results)
        if best is not None and results.best is not None and ledger.state(best) != "done":
            tracker.expect(best)
            names = {best.key: label(results.best.values)}
            with Progress(spec.name) as progress:
                executor.run((best,), SweepWatch(spec, ledger, tracker, signals, progress, (best,), names))
    return results


def run_proposals(
    executor: RayTune, results: SearchResults, first: list[dict[str, Any]], count: int, watch: SearchWatch
) -> None:
    """Try `count` proposals, first those in `first`, then Optuna's; ASHA may stop them early. Raises Stopped."""
    # Imported here because workers and commands that only read a search do not need it.
    from optuna.samplers import TPESampler
    from ray import tune
    from ray.tune.execution.placement_groups import PlacementGroupFactory
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    from orchestrator.running.worker import VALIDATION, report_end, run_job

    search = watch.spec.search
    assert search is not None
    space = {path: _distribution(Range.from_dict(given)) for path, given in search.parameters.given().items()}
    logging.getLogger("optuna").setLevel(logging.ERROR)
    searcher = OptunaSearch(
        space,
        metric=VALIDATION,
        mode="max",
        points_to_evaluate=first[:count],
        study_name=watch.spec.name,
        sampler=TPESampler(seed=search.seed + len(results.tried)),
    )
    for tried in results.tried:
        searcher.add_evaluated_point(tried.values, tried.accuracy)
    needs = executor.needs(results.base)
    # The function below is copied to every worker with what it refers to, so it uses neither results nor executor.
    base, store, gpu = results.base.model_dump_json(), watch.ledger.name, needs.get("GPU", 0.0)
    epochs, timeout_s = results.base.training.epochs, executor.timeout_s

    def trainable(config: dict[str, Any]) -> None:
        try:
            proposed = ExperimentConfig.model_validate_json(base).with_paths(config)
        except ValueError as error:
            report_end(epochs, 0.0, Failure(reason=one_line(error)))
        else:
            run_job(Job(proposed, (), store, gpu, timeout_s))

    asha = ASHAScheduler(
        time_attr="epoch",
        metric=VALIDATION,
        mode="max",
        max_t=epochs + 1,
        grace_period=min(search.grace_epochs, epochs),
        reduction_factor=search.reduction,
    )
    tune_config = tune.TuneConfig(
        search_alg=searcher,
        scheduler=asha,
        num_samples=count,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    resources = tune.with_resources(trainable, PlacementGroupFactory([needs]))
    executor.fit(resources, tune_config, [needs], watch, watch.key_of)


def _distribution(range_: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if range_.choice:
        choices: Sequence[Any] = range_.choice  # values of one parameter, none of them a list
        return CategoricalDistribution(choices)
    if range_.integer:
        return IntDistribution(*range_.integer)
    low, high = range_.ends
    return FloatDistribution(low, high, log=range_.loguniform is not None)


def _told_test(ledger: Ledger, best: Trial) -> bool:
    for evaluation in best.evaluations:
        try:
            test = ledger.evaluation(best.key, evaluation.key)
        except Damaged as error:
            say(f"damaged: {' '.join(str(error).split())}")
            return False
        if test is None:
            return False
        way, shot = evaluation.way, evaluation.shot
        say(f"test, {way}-way {shot}-shot: {100 * test.accuracy:.2f} ± {100 * test.ci95:.2f} %")
    return True
