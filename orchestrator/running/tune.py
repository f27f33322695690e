"""Runs trials with Ray Tune.

Ray decides when and where a trial runs, and restarts one whose process died. Every launch is a new experiment over what
the ledger lacks: nothing that Tune remembers is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"  # Tune's snapshots are for Tuner.restore, which is not used

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from dmf.config import AnyTraining
from dmf.records.records import Epoch, Failure
from orchestrator.running.avoid import Avoided
from orchestrator.running.cluster import NodeWatch, cluster, environment, node_watch, nodes_for, request
from orchestrator.running.interrupts import Signals
from orchestrator.running.job import Job
from orchestrator.running.options import Options
from orchestrator.running.order import Order
from orchestrator.running.silence import Silence
from orchestrator.running.watch import Watcher, logged
from orchestrator.running.worker import train_job
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.snapshot import snapshot

FROZEN = "showed no sign of life, not even to end itself, and was ended"
RAISED = re.compile(r"^[A-Za-z_][\w.]*: .+$", re.MULTILINE)
"""The line of a traceback that says what was raised."""
NODE = re.compile(r"\bip[=:] ?([\w.:]+\w)")
"""The address in Ray's text of an error."""
PENDING = 200
"""Trials that Tune prepares besides those that run: as many as in a grid search."""


class LastError(NamedTuple):
    """What Ray says of a trial's last failure."""

    raised: str | None
    """What its process raised, in a line: a fault of the machine, or anything before the trial began, such as a package
    that is missing on its node. None if the process died."""
    node: str
    """The address of the node that it ran on; empty if Ray does not say."""


def last_error(trial: Any) -> LastError:
    """The last failure of one of Tune's trials, from the file that Tune keeps of them in the driver's folder."""
    path = Path(trial.error_file) if trial.error_file else None
    if path is None or not path.is_file():
        return LastError(None, "")
    text = path.read_text(encoding="utf-8", errors="replace").rpartition("\nFailure # ")[2]
    raised = RAISED.findall(text) if "\n  File " in text else []
    node = NODE.search(text)
    return LastError(raised[-1][:300] if raised else None, node[1] if node else "")


class _Listener(Callback):
    """Passes Tune's callbacks on to a watcher, by training key."""

    def __init__(
        self,
        watcher: Watcher,
        signals: Signals,
        nodes: NodeWatch,
        silence: Silence,
        key_of: Callable[[dict[str, Any]], str],
        avoided: Avoided,
    ) -> None:
        self.watcher, self.signals, self.nodes, self.silence, self.key_of = watcher, signals, nodes, silence, key_of
        self.avoided = avoided

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()  # Tune pickles its callbacks for Tuner.restore, which is not used

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self.nodes.check()
        self.silence.check()
        self.watcher.check()
        self.signals.check()

    @logged
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = self.key_of(trial.config)
        self.silence.started(key, trial)
        self.watcher.started(key)

    @logged
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        if text := result.get("of_epoch"):
            self.watcher.epoch(self.key_of(trial.config), Epoch.model_validate_json(text))

    @logged
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = self.key_of(trial.config)
        self.watcher.recovering(key, FROZEN if key in self.silence.ended_here else last_error(trial).raised)

    @logged
    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = self.key_of(trial.config)
        self.silence.ended(key)
        told = (trial.last_result or {}).get("failure")
        self.avoided.succeeded((trial.last_result or {}).get("node_ip", ""))
        self.watcher.ended(key, Failure.model_validate_json(told) if told else None)

    @logged
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        key = self.key_of(trial.config)
        self.silence.ended(key)
        error = last_error(trial)
        told = FROZEN if key in self.silence.ended_here else error.raised or "the worker process died"
        where = f", the last time on node {error.node}" if self.nodes.several and error.node else ""
        self.watcher.ended(key, Failure(reason=f"{told} ({trial.num_failures} times{where})", kind="machine"))


@contextlib.contextmanager
def ray_tune(spec: SweepSpec, ledger: Ledger, signals: Signals, options: Options) -> Iterator[RayTune]:
    """Ray Tune on our own Ray, or on the cluster at `options.address`."""
    assert options.trial_timeout is not None
    with cluster(options.address, signals, snapshot(ledger.store), shared=ledger.shared) as nodes:
        yield RayTune(spec, ledger, signals, options.address, options.trial_timeout, nodes)


@dataclass(frozen=True)
class RayTune:
    """The executor of `--executor ray`: runs as many trials at a time as the nodes have room for."""

    spec: SweepSpec
    ledger: Ledger
    signals: Signals
    address: str | None
    timeout_s: float
    nodes: list[dict[str, float]]
    """The resources of each: CPU, GPU."""

    def needs(self, config: AnyTraining) -> dict[str, float]:
        """The resources of a trial on one node. Raises ValueError if no node has them."""
        return request(config, self.spec.resources, self.nodes)

    def run(self, trials: tuple[Trial, ...], watcher: Watcher) -> None:
        """See `Executor`."""
        needs = {trial.key: self.needs(trial.config) for trial in trials}
        order = Order(trials, self.ledger, logged(watcher.ended))
        kinds = {tuple(sorted(need.items())): need for need in needs.values()}
        avoided = Avoided(lambda: nodes_for(kinds.values()))
        tune_config = TuneConfig(
            scheduler=Elsewhere(avoided),
            search_alg=InOrder(order, lambda trial: self._launch(trial, needs[trial.key], avoided)),
            num_samples=len(trials),
            reuse_actors=True,
            trial_dirname_creator=_folder_of,
        )
        with environment(TUNE_MAX_PENDING_TRIALS_PG=str(PENDING)):
            self.fit(tune.with_resources(train_job, _needs_of), tune_config, needs.values(), watcher, _key_of, avoided)

    def _launch(self, trial: Trial, needs: dict[str, float], avoided: Avoided) -> dict[str, Any]:
        """A trial's parameters. Tune copies and pickles them, so they must not contain a closure over all trials."""
        gpu, keep = needs.get("GPU", 0.0), self.spec.keep_weights or trial.starts_others
        job = Job(trial.config, trial.evaluations, self.ledger.name, gpu, self.timeout_s, keep)
        return {"key": trial.key, "job": job.dumps(), "needs": needs, "nodes": avoided.selector()}

    def fit(
        self,
        trainable: Any,
        tune_config: TuneConfig,
        needs: Iterable[dict[str, float]],
        watcher: Watcher,
        key_of: Callable[[dict[str, Any]], str],
        avoided: Avoided | None = None,
    ) -> None:
        """Run a new Tune experiment; delete its folder unless the sweep ends early. Raises Stopped.

        Args:
            needs: the resources of each trial.
            key_of: gives the training's key for a trial's parameters.
            avoided: is told on which nodes trials end well.
        """
        nodes = node_watch(self.signals, needs, self.address, self.timeout_s)
        silence = Silence(self.ledger.name, self.timeout_s)
        launch = f"{self.spec.name}-{time.strftime('%Y%m%dT%H%M%S')}-{secrets.token_hex(3)}"
        folder = self.ledger.store.resolve() / "ray"
        tuner = Tuner(
            trainable,
            tune_config=tune_config,
            run_config=RunConfig(
                name=launch,
                storage_path=str(folder),
                callbacks=[_Listener(watcher, self.signals, nodes, silence, key_of, avoided or Avoided(dict))],
                failure_config=FailureConfig(max_failures=self.spec.max_failures),
                verbose=0,
            ),
        )
        with self.signals.deferring():
            tuner.fit()
        shutil.rmtree(folder / launch, ignore_errors=True)


class Elsewhere(FIFOScheduler):
    """Runs trials in order, and tries one that failed through its machine's fault on another node, if there is one."""

    def __init__(self, avoided: Avoided) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.avoided = avoided

    def __reduce__(self) -> tuple[type[FIFOScheduler], tuple[()]]:
        return FIFOScheduler, ()  # Tune pickles it for Tuner.restore, which is not used

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Called when a trial has failed: before it waits again, or while it still counts as running, for good."""
        node = last_error(trial).node
        self.avoided.failed(node)
        if trial.status == TuneTrial.ERROR:
            trial.update_resources(_on(trial.config["needs"], self.avoided.selector(also=node)))


class InOrder(Searcher):
    """Gives Tune the trials of a plan, one at a time.

    Tune's own grid search makes all at once and copies the whole grid for each: its time grows with the square of their
    number, to hours for 100,000.
    """

    def __init__(self, order: Order, launch: Callable[[Trial], dict[str, Any]]) -> None:
        super().__init__()
        self.order, self.launch = order, launch
        self.keys: dict[str, str] = {}
        """Keys of the running trainings, by Tune's trial id."""

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()  # Tune pickles it for Tuner.restore, which is not used

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # FINISHED is text
        """The next trial's parameters; None if every remaining trial waits for another to end."""
        trial = self.order.next()
        if trial is None:
            return None if self.order.waiting else Searcher.FINISHED
        self.keys[trial_id] = trial.key
        return self.launch(trial)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let trials that wait for this one start."""
        self.order.ended(self.keys.pop(trial_id))

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: only Tuner.restore needs it, which is not used."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, like `save`."""


def _key_of(parameters: dict[str, Any]) -> str:
    return str(parameters["key"])


def _needs_of(parameters: dict[str, Any]) -> PlacementGroupFactory:
    return _on(parameters["needs"], parameters["nodes"])


def _on(needs: dict[str, float], nodes: dict[str, str]) -> PlacementGroupFactory:
    """A trial's request, on nodes with the labels `nodes`."""
    labelled: dict[str, Any] = {"bundle_label_selector": [nodes]} if nodes else {}
    return PlacementGroupFactory([needs], **labelled)


def _folder_of(trial: Any) -> str:
    return f"{trial.config['key']}_{trial.trial_id}"
