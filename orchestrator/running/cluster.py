"""A Ray of our own on this machine, or a cluster's: its nodes, what a trial asks of them, and their loss."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray  # noqa: E402

from dmf.config import AnyTraining  # noqa: E402
from orchestrator.running.interrupts import Signals  # noqa: E402
from orchestrator.spec.model import Resources  # noqa: E402

OBJECT_STORE_BYTES = 128 * 2**20
"""Trials exchange nothing but numbers."""
SECONDS_BETWEEN_LOOKS = 5.0
"""At the nodes that there are."""
SHORT_PATIENCE = 10.0
"""With our own Ray, whose one node does not come back."""


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
        with environment("PYTHONPATH", path):
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
def environment(name: str, value: str) -> Iterator[None]:
    """With a variable of the environment at `value`."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def request(config: AnyTraining, resources: Resources, nodes: list[dict[str, float]]) -> dict[str, float]:
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


def node_watch(signals: Signals, needs: Iterable[dict[str, float]], address: str | None, timeout_s: float) -> NodeWatch:
    """For trials with these needs, on our own Ray or on a cluster."""
    kinds = {tuple(sorted(need.items())) for need in needs}
    return NodeWatch(signals, [dict(kind) for kind in kinds], timeout_s if address else SHORT_PATIENCE)
