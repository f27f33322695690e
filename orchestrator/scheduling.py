"""Ray Tune as the scheduler of trials. Only this module imports ray, and only when something is to be run.

Ray decides when and where a trial runs, and starts one again whose process died. What is done, and where a trial goes
on, is the ledger's matter: every launch is a fresh experiment over what is missing.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import logging
import math
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"  # Tune's snapshots are for Tuner.restore, which is not used

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner  # noqa: E402
from ray.tune.execution.placement_groups import PlacementGroupFactory  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from dmf.config import EvaluationConfig, ExperimentConfig  # noqa: E402
from dmf.records import Epoch, Failure, TrainingRecord  # noqa: E402
from orchestrator.faults import failure_of, kind_of, one_line  # noqa: E402
from orchestrator.interrupts import Signals  # noqa: E402
from orchestrator.ledger import Ledger  # noqa: E402
from orchestrator.plan import Trial  # noqa: E402
from orchestrator.search import SearchResults, SearchWatch  # noqa: E402
from orchestrator.spec import Range, Resources, SweepSpec  # noqa: E402

log = logging.getLogger("dmf.scheduling")

OBJECT_STORE_BYTES = 128 * 2**20
"""Trials exchange nothing but numbers."""
VALIDATION = "validation_accuracy"
SECONDS_BETWEEN_LOOKS = 5.0
"""At the nodes that there are."""
PENDING = 200
"""Trials that Tune has ready beside those that run: as many as it would have of a grid search."""
SHORT_PATIENCE = 10.0
"""With our own Ray, whose one node does not come back."""


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


@contextlib.contextmanager
def cluster(address: str | None, signals: Signals, code: Path, shared: bool = True) -> Iterator[list[dict[str, float]]]:
    """A Ray of our own on this machine, or the one at `address`; yields what each of its nodes has: CPU, GPU.

    Workers import the project from the folder `code`, which all nodes see if it is `shared`; else Ray brings it to
    them. Ray puts the driver's folder before their own paths, hence the change of folder.
    """
    with contextlib.chdir(code):
        _start(address, code, shared)
    signals.listen()
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watcher tells what trials do
    try:
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        with _no_collection():
            ray.shutdown()


def _start(address: str | None, code: Path, shared: bool) -> None:
    path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        try:
            ray.init(
                address,
                runtime_env={"env_vars": {"PYTHONPATH": path}} if shared else {"working_dir": str(code)},
                **quiet,
            )
        except (ConnectionError, RuntimeError) as error:
            raise ValueError(
                f"no Ray answers us at --address {address} ({str(error).strip().splitlines()[-1][:200]}); start it "
                "with `ray start --head`, and where it asks for a token set RAY_AUTH_MODE=token and have the cluster's"
            ) from None
    else:
        with _environment("PYTHONPATH", path):
            ray.init(
                "local",
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, in any thread.

    While Ray shuts down, an object reference of it that is collected, such as by the thread that writes to MLflow,
    ends the process: "The core worker has already been shutdown".
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def node_watch(signals: Signals, needs: Iterable[dict[str, float]], address: str | None, timeout_s: float) -> NodeWatch:
    """For trials with these needs, on our own Ray or on a cluster."""
    kinds = {tuple(sorted(need.items())) for need in needs}
    return NodeWatch(signals, [dict(kind) for kind in kinds], timeout_s if address else SHORT_PATIENCE)


def request(config: ExperimentConfig, resources: Resources, nodes: list[dict[str, float]]) -> dict[str, float]:
    """What one trial takes: {"CPU": ..., "GPU": ...}. ValueError when no single one of the `nodes` has it."""
    gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    cpu = float(resources.cpu or config.training.threads)
    gpu = resources.gpu if resources.gpu is not None else float(gpus >= 1 and config.training.device != "cpu")
    if config.training.device == "cuda" and gpu == 0:
        raise ValueError(f"training.device='cuda', but a trial gets no GPU: Ray sees {gpus:g}, resources.gpu={gpu:g}")
    needs = {"CPU": cpu, "GPU": gpu} if gpu else {"CPU": cpu}
    if not any(fits(needs, node) for node in nodes):
        kinds = dict.fromkeys(f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes)
        raise ValueError(
            f"a trial asks for {cpu:g} CPUs and {gpu:g} GPUs of one node, "
            f"and Ray's nodes have {' or '.join(kinds) or 'none'}; "
            "make resources.cpu (or training.threads) or resources.gpu smaller"
        )
    return needs


@dataclass(frozen=True)
class Job:
    """What crosses to a worker, as JSON: one trial, and the part of the GPU that is its own."""

    config: ExperimentConfig
    evaluations: tuple[EvaluationConfig, ...]
    store: str
    """A folder that all nodes see, or an object store."""
    gpu: float
    timeout_s: float
    """Without a sign of life its process is ended."""
    keep_weights: bool = True
    """Once it is trained and tested."""

    def dumps(self) -> str:
        """As text. Defaults stay out: Tune keeps several copies of it for every trial, and workers have our code."""
        return json.dumps(
            {
                "config": self.config.model_dump(mode="json", exclude_defaults=True),
                "evaluations": [test.model_dump(mode="json", exclude_defaults=True) for test in self.evaluations],
                "store": self.store,
                "gpu": self.gpu,
                "timeout_s": self.timeout_s,
                "keep_weights": self.keep_weights,
            }
        )

    @classmethod
    def loads(cls, text: str) -> Job:
        """From text."""
        data = json.loads(text)
        evaluations = tuple(EvaluationConfig.from_dict(evaluation) for evaluation in data["evaluations"])
        rest = (data[name] for name in ("store", "gpu", "timeout_s", "keep_weights"))
        return cls(ExperimentConfig.from_dict(data["config"]), evaluations, *rest)


@functools.cache
def _spare_imports() -> None:
    """Once in a worker: keep the collector from going over what stays, which takes longer than a short training."""
    gc.freeze()


def work(job: Job) -> None:
    """In a worker: run a trial and report its epochs, and at its end how it went.

    What went wrong is in the ledger; it is reported, not raised, unless a machine was at fault: then Ray starts the
    trial again, in a process of its own and from its checkpoint, as it does when a process is lost. The last epoch is
    reported with the end, when the record is written: a scheduler may end a trial at any report.
    """
    import torch

    if torch.cuda.is_available() and 0 < job.gpu < 1:
        torch.cuda.set_per_process_memory_fraction(job.gpu)
    epochs = job.config.training.epochs
    accuracy, last = 0.0, None

    def on_epoch(epoch: Epoch) -> None:
        nonlocal accuracy, last
        accuracy = accuracy if epoch.validation_accuracy is None else epoch.validation_accuracy
        if epoch.epoch < epochs:
            tune.report({"epoch": epoch.epoch, VALIDATION: accuracy, "of_epoch": epoch.model_dump_json()})
        else:
            last = epoch

    failure, best = None, 0.0
    try:
        record = _with_memory_for_two(job, on_epoch)
        best = record.best_validation_accuracy or 0.0 if record.outcome == "finished" else 0.0
    except Exception as error:
        failure = failure_of(error)
        if failure.kind == "machine":
            raise
    finally:
        gc.collect()
        torch.cuda.empty_cache()
    _spare_imports()
    _report_end(epochs, best if math.isfinite(best) else 0.0, failure, last)


def _with_memory_for_two(job: Job, on_epoch: Callable[[Epoch], None]) -> TrainingRecord:
    """Run a trial; when memory does not suffice, once more from its checkpoint: another process may have had it."""
    import torch

    from orchestrator.trial import run_trial

    try:
        return run_trial(job.config, job.evaluations, job.store, on_epoch, job.timeout_s, job.keep_weights)
    except Exception as error:
        if kind_of(error) != "memory":
            raise
    gc.collect()
    torch.cuda.empty_cache()
    return run_trial(job.config, job.evaluations, job.store, on_epoch, job.timeout_s, job.keep_weights)


def _report_end(epochs: int, accuracy: float, failure: Failure | None, last: Epoch | None = None) -> None:
    """Report a trial's end as one epoch after its last; nothing that follows runs."""
    told = failure and failure.replace(traceback="").model_dump_json()  # it is in the record
    end = {"epoch": epochs + 1, VALIDATION: accuracy, "failure": told, "of_epoch": last and last.model_dump_json()}
    tune.report({**end, "done": True})


def _heard(hook: Callable[..., None]) -> Callable[..., None]:
    """An exception in a callback would end Tune's experiment; it is logged instead."""

    @functools.wraps(hook)
    def safe(*arguments: Any, **named: Any) -> None:
        try:
            hook(*arguments, **named)
        except Exception:
            log.exception("%s", hook.__name__)

    return safe


@dataclass
class NodeWatch:
    """Stops the sweep when no node is left that could run its trials: Tune would wait for one for ever."""

    signals: Signals
    needs: list[dict[str, float]]
    """What trials ask for, each kind once."""
    patience_s: float
    """How long nodes may be away: a cluster may get new ones, our own Ray does not."""
    looked: float = 0.0
    missed_since: float | None = None

    def check(self) -> None:
        """Look whether there is one, now and then."""
        now = time.monotonic()
        if now - self.looked < SECONDS_BETWEEN_LOOKS:
            return
        self.looked = now
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if any(fits(need, node) for need in self.needs for node in nodes):
            self.missed_since = None
            return
        self.missed_since = self.missed_since or now
        if now - self.missed_since >= self.patience_s:
            self.signals.stop("Ray has lost every node that a trial would fit on")


def fits(need: dict[str, float], node: dict[str, float]) -> bool:
    """Whether a node has what a trial asks for, in use or not."""
    return all(amount <= node.get(name, 0.0) for name, amount in need.items())


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
    with _environment("TUNE_MAX_PENDING_TRIALS_PG", str(PENDING)):
        fit(name, tune.with_resources(_train, _needs_of), {}, tune_config, ledger.store, max_failures, listener)


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


def _train(parameters: dict[str, Any]) -> None:
    work(Job.loads(parameters["job"]))


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
            _report_end(epochs, 0.0, Failure(reason=one_line(error)))
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
