"""Ray Tune as the scheduler of trials.

Ray decides when and where a trial runs, and starts one again whose process died. What is done, and where a trial goes
on, is the ledger's matter: every launch is a fresh experiment over what is missing.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"  # Tune's snapshots are for Tuner.restore, which is not used

from ray import tune  # noqa: E402
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner  # noqa: E402
from ray.tune.execution.placement_groups import PlacementGroupFactory  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from dmf.config import ExperimentConfig  # noqa: E402
from dmf.records.records import Epoch, Failure  # noqa: E402
from orchestrator.running.cluster import NodeWatch, environment  # noqa: E402
from orchestrator.running.faults import one_line  # noqa: E402
from orchestrator.running.interrupts import Signals  # noqa: E402
from orchestrator.running.search import SearchResults, SearchWatch  # noqa: E402
from orchestrator.running.worker import VALIDATION, Job, report_end, train_job, work  # noqa: E402
from orchestrator.spec.model import Range, SweepSpec  # noqa: E402
from orchestrator.spec.plan import Trial  # noqa: E402
from orchestrator.store.ledger import Ledger  # noqa: E402

log = logging.getLogger("dmf.scheduling")

PENDING = 200
"""Trials that Tune has ready beside those that run: as many as it would have of a grid search."""


class Watcher(Protocol):
    """Who hears what trials do. All in the driver's main thread."""

    def check(self) -> None:
        """Called again and again: the moment to end the sweep."""

    def started(self, key: str) -> None:
        """A trial runs from now on."""

    def epoch(self, key: str, epoch: Epoch) -> None:
        """An epoch has ended."""

    def recovering(self, key: str) -> None:
        """A trial lost its process and will be started again."""

    def ended(self, key: str, failure: Failure | None) -> None:
        """A trial has ended; `failure` is what it, or Ray, says went wrong."""


def _heard(hook: Callable[..., None]) -> Callable[..., None]:
    """An exception in a callback would end Tune's experiment; it is logged instead."""

    @functools.wraps(hook)
    def safe(*arguments: Any, **named: Any) -> None:
        try:
            hook(*arguments, **named)
        except Exception:
            log.exception("%s", hook.__name__)

    return safe


class _Listener(Callback):
    """Tune's callbacks, told to a watcher by training key."""

    def __init__(
        self, watcher: Watcher, signals: Signals, nodes: NodeWatch, key_of: Callable[[dict[str, Any]], str]
    ) -> None:
        self.watcher, self.signals, self.nodes, self.key_of = watcher, signals, nodes, key_of

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()  # Tune pickles its callbacks for Tuner.restore, which is not used

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.nodes.check()
        self.watcher.check()
        self.signals.check()

    @_heard
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.watcher.started(self.key_of(trial.config))

    @_heard
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if text := result.get("of_epoch"):
            self.watcher.epoch(self.key_of(trial.config), Epoch.model_validate_json(text))

    @_heard
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.watcher.recovering(self.key_of(trial.config))

    @_heard
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        told = (trial.last_result or {}).get("failure")
        self.watcher.ended(self.key_of(trial.config), Failure.model_validate_json(told) if told else None)

    @_heard
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = " ".join(str(trial.get_error() or "the worker process died").split())
        reason = f"{error[:300]} ({trial.num_failures} times)"
        self.watcher.ended(self.key_of(trial.config), Failure(reason=reason, kind="machine"))


def run_trials(
    name: str,
    trials: tuple[Trial, ...],
    ledger: Ledger,
    requests: dict[str, dict[str, float]],
    max_failures: int,
    timeout_s: float,
    watcher: Watcher,
    nodes: NodeWatch,
    signals: Signals,
    keep_weights: bool = True,
) -> None:
    """Run trials in their order, as many at a time as their `requests` (by key) leave room for.

    Returns when none is left that can go on; the ledger says how they ended. Raises Stopped.
    """
    launches = []
    for trial in trials:
        needs = requests[trial.key]
        job = Job(trial.config, trial.evaluations, ledger.name, needs.get("GPU", 0.0), timeout_s, keep_weights)
        launches.append({"key": trial.key, "job": job.dumps(), "needs": needs})
    # Tune copies and pickles for every trial what it is given here: no closure over all trials may be in it.
    tune_config = TuneConfig(
        search_alg=InOrder(launches),
        num_samples=len(launches),
        reuse_actors=True,
        trial_dirname_creator=_folder_of,
    )
    listener = _Listener(watcher, signals, nodes, _key_of)
    with environment("TUNE_MAX_PENDING_TRIALS_PG", str(PENDING)):
        fit(name, tune.with_resources(train_job, _needs_of), {}, tune_config, ledger.store, max_failures, listener)


class InOrder(Searcher):
    """Gives Tune the trials of a plan, one when it asks for one.

    Its own grid search makes all at once, and copies the whole grid for each: that grows with the square of their
    number, to hours for 100,000.
    """

    def __init__(self, launches: list[dict[str, Any]]) -> None:
        super().__init__()
        self._launches = iter(launches)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The next one's parameters."""
        return next(self._launches, Searcher.FINISHED)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing that follows depends on it."""

    def save(self, checkpoint_path: str) -> None:
        """Is for Tuner.restore, which is not used."""

    def restore(self, checkpoint_path: str) -> None:
        """The same."""


def _key_of(parameters: dict[str, Any]) -> str:
    return parameters["key"]


def _needs_of(parameters: dict[str, Any]) -> PlacementGroupFactory:
    return PlacementGroupFactory([parameters["needs"]])


def _folder_of(trial: Any) -> str:
    return f"{trial.config['key']}_{trial.trial_id}"


def run_proposals(
    spec: SweepSpec,
    results: SearchResults,
    first: list[dict[str, Any]],
    count: int,
    watch: SearchWatch,
    needs: dict[str, float],
    timeout_s: float,
    nodes: NodeWatch,
    signals: Signals,
) -> None:
    """Try `count` proposals, `first` and then Optuna's, stopped early by ASHA. Raises Stopped."""
    from optuna.samplers import TPESampler  # not for workers, nor for sweeps that search nothing
    from ray.tune.search.optuna import OptunaSearch

    search = spec.search
    assert search is not None
    space = {path: _distribution(Range.from_dict(given)) for path, given in search.parameters.given().items()}
    logging.getLogger("optuna").setLevel(logging.ERROR)
    searcher = OptunaSearch(
        space,
        metric=VALIDATION,
        mode="max",
        points_to_evaluate=first[:count],
        study_name=spec.name,
        sampler=TPESampler(seed=search.seed + len(results.tried)),
    )
    for tried in results.tried:
        searcher.add_evaluated_point(tried.values, tried.accuracy)
    base, store, gpu = results.base.model_dump_json(), watch.ledger.name, needs.get("GPU", 0.0)
    epochs = results.base.training.epochs

    def trainable(config: dict[str, Any]) -> None:
        try:
            proposed = ExperimentConfig.model_validate_json(base).with_paths(config)
        except ValueError as error:
            report_end(epochs, 0.0, Failure(reason=one_line(error)))
        else:
            work(Job(proposed, (), store, gpu, timeout_s))

    asha = ASHAScheduler(
        time_attr="epoch",
        metric=VALIDATION,
        mode="max",
        max_t=epochs + 1,
        grace_period=min(search.grace_epochs, epochs),
        reduction_factor=search.reduction,
    )
    tune_config = TuneConfig(
        search_alg=searcher,
        scheduler=asha,
        num_samples=count,
        reuse_actors=True,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )
    listener = _Listener(watch, signals, nodes, watch.key_of)
    resources = tune.with_resources(trainable, PlacementGroupFactory([needs]))
    fit(spec.name, resources, {}, tune_config, watch.ledger.store, spec.max_failures, listener)


def _distribution(range_: Range) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if range_.choice:
        return CategoricalDistribution(range_.choice)
    if range_.integer:
        return IntDistribution(*range_.integer)
    return FloatDistribution(*range_.ends, log=range_.loguniform is not None)


def fit(
    name: str,
    trainable: Any,
    space: dict[str, Any],
    tune_config: TuneConfig,
    store: Path,
    max_failures: int,
    listener: _Listener,
) -> None:
    """One launch: a fresh experiment of a name of its own, whose folder goes when it has ended by itself."""
    launch = f"{name}-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
    folder = store.resolve() / "ray"
    tuner = Tuner(
        trainable,
        param_space=space,
        tune_config=tune_config,
        run_config=RunConfig(
            name=launch,
            storage_path=str(folder),
            callbacks=[listener],
            failure_config=FailureConfig(max_failures=max_failures),
            verbose=0,
        ),
    )
    listener.signals.deferred = True
    try:
        tuner.fit()
    finally:
        listener.signals.deferred = False
    listener.signals.check()
    shutil.rmtree(folder / launch, ignore_errors=True)
