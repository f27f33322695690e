"""Starts Ray on this machine, or connects to a cluster; requests resources for trials, and notices lost nodes."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import services, utils
from ray.exceptions import RayError

from dmf.config import AnyTraining
from dmf.machine.paths import takes
from orchestrator.running import probe
from orchestrator.running.interrupts import Signals
from orchestrator.spec.model import Resources

log = logging.getLogger("dmf.cluster")

OBJECT_STORE_BYTES = 128 * 2**20
"""Small, since trials exchange only numbers."""
ADDRESS = "RAY_ADDRESS"
"""Ray's variable for the address that `--address auto` means."""
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
"""Ray's variable for the file with its token."""
TOKEN = "RAY_AUTH_TOKEN"
"""Ray's variable for the token itself."""
SHORT_ROOM = "/tmp/ray"
"""Where Ray has its sockets and logs if TMPDIR is too long for them."""
LONGEST_ROOM = 40
"""In bytes: a socket's path has at most 107, and Ray adds up to 65 (/session_<time>_<process>/sockets/plasma_store)."""
ARENAS = "MALLOC_ARENA_MAX"
"""glibc's variable for the number of memory arenas that the threads of a process share.

Ray runs a trial in a thread that is not a worker's main one. Such a thread has an arena that returns large blocks to
the kernel whatever `dmf.machine.device.set_up` says, and gets them back page by page in every step. With one arena for
all threads, freed memory is kept. glibc reads the variable when a process starts, so it is set before a worker starts.
"""
ANSWER_S = 10.0
"""How long a Ray may take to answer."""
SECONDS_BETWEEN_LOOKS = 5.0
"""Interval between checks of the nodes."""
SHORT_PATIENCE = 10.0
"""Used with our own Ray, whose only node does not come back."""


@contextlib.contextmanager
def cluster(address: str | None, signals: Signals, code: Path, shared: bool = True) -> Iterator[list[dict[str, float]]]:
    """Start Ray on this machine, or connect to the one at `address`; yield the resources (CPU, GPU) of each node.

    Workers import the project from the folder `code`, which all nodes see if it is `shared`; otherwise Ray copies it
    to them. Ray puts the driver's working directory first on their path, so it is changed to `code` meanwhile.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # the watcher reports what trials do
    _check_token()
    if address:
        _probe(address)
    elif named := os.environ.get(ADDRESS):
        log.warning("%s=%s is not used: give --address auto to run on that Ray", ADDRESS, named)
    try:
        with signals.deferring(), contextlib.chdir(code), _apart():
            _start(address, code, shared)
            signals.listen()
        yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        with _no_collection():
            ray.shutdown()


def _start(address: str | None, code: Path, shared: bool) -> None:
    path = os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")]))
    variables = {ARENAS: os.environ.get(ARENAS, "1")}
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address:
        if shared:
            workers: dict[str, Any] = {"env_vars": variables | {"PYTHONPATH": path}}
        else:
            workers = {"env_vars": variables, "working_dir": str(code)}
        try:
            ray.init(address, runtime_env=workers, **quiet)
        except (ConnectionError, RuntimeError, RayError) as error:
            raise ValueError(_no_answer(address, str(error).strip().splitlines()[-1])) from None
    else:
        with environment(**variables, PYTHONPATH=path):
            _start_here(quiet)


def _room_for_sockets() -> str:
    """The folder for Ray's sockets and logs: by RAY_TMPDIR or TMPDIR if its path is short enough, else in /tmp.

    Raises ValueError if neither can be used.
    """
    given, other = Path(get_default_ray_temp_dir()), Path(SHORT_ROOM)
    short = len(os.fsencode(given)) <= LONGEST_ROOM
    if short and takes(given):
        return str(given)
    if takes(other):
        return str(other)
    why = "cannot be written to" if short else f"is too long for Ray's sockets, which allow {LONGEST_ROOM} characters"
    raise ValueError(f"{given} {why}, and {other} cannot be written to; set TMPDIR to a short path that can")


def _check_token() -> None:
    """Raise ValueError if the file that should hold Ray's token does not; Ray would abort this process."""
    path = os.environ.get(TOKEN_PATH)
    if path is None or os.environ.get(TOKEN) or os.environ.get("RAY_AUTH_MODE") == "disabled":
        return
    try:
        wrong = "" if Path(path).read_text(encoding="utf-8").strip() else "is empty"
    except (OSError, ValueError) as error:
        wrong = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    if wrong:
        raise ValueError(f"{TOKEN_PATH}: {path} {wrong}; name the file with the cluster's token, or unset {TOKEN_PATH}")


def _probe(address: str) -> None:
    """Raise ValueError unless a Ray answers at `address` within `ANSWER_S`; Ray itself tries for minutes."""
    command = [sys.executable, "-m", probe.__name__, address]
    root = Path(probe.__file__).parents[2]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, start_new_session=True, **pipes) as process:
        try:
            assert process.stdout is not None
            asked = process.stdout.readline().strip()  # Ray is imported now
            _, said = process.communicate(timeout=ANSWER_S)
            why = said.strip().rpartition("\n")[2]
        except subprocess.TimeoutExpired:
            why = f"what listens there does not answer as Ray does within {ANSWER_S:.0f} s"
        finally:
            process.kill()
    if process.returncode:
        raise ValueError(_no_answer(address, f"{asked}: {why}" if why else asked))


def _no_answer(address: str, why: str) -> str:
    named = f", which {ADDRESS} names" if address == "auto" and os.environ.get(ADDRESS) else ""
    return (
        f"no Ray answers at --address {address}{named} ({' '.join(why.split())[:300]}); start it with "
        "`ray start --head`, and if it asks for a token, set RAY_AUTH_MODE=token and use the cluster's token"
    )


def _start_here(quiet: dict[str, Any]) -> None:
    """Start Ray on this machine; once more if that fails, as it does on a machine that is busy for a moment."""
    if not {TOKEN_PATH, TOKEN} & os.environ.keys():
        room = Path.home() / ".ray"  # where Ray keeps its token
        if takes(room):
            room.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            os.environ[TOKEN] = secrets.token_hex(32)
    folder = _room_for_sockets()
    for last in (False, True):
        try:
            ray.init(
                "local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, _temp_dir=folder, **quiet
            )
            return
        except Exception as error:  # Ray raises many kinds, such as a plain Exception for a timeout
            ray.shutdown()
            told = " ".join(str(error).split())[:300]
            if last:
                raise ValueError(
                    f"Ray did not start on this machine, twice: {told}; see the newest folder in {folder} for its "
                    "logs, and if the machine is busy, start again later or run the sweep with --executor local"
                ) from error
            log.warning("Ray did not start, will try once more: %s", told)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """While Ray starts: our handlers of signals stay, and its processes have a session of their own.

    Ray's handler of SIGTERM would end this process without a word. A terminal that is closed sends SIGHUP to the
    processes of its session, and Ray's would end at once, and this one with them.
    """
    in_session = functools.partial(services.ConsolePopen, start_new_session=True)
    with _replaced(utils, "set_sigterm_handler", lambda handler: None), _replaced(services, "ConsolePopen", in_session):
        yield


@contextlib.contextmanager
def _replaced(module: ModuleType, name: str, value: object) -> Iterator[None]:
    """Give a name in a module another value inside the block."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Turn the garbage collector off, in all threads.

    If an object reference is collected while Ray shuts down, for example by the thread that writes to MLflow, the
    process ends: "The core worker has already been shutdown".
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set environment variables inside the block."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def request(config: AnyTraining, resources: Resources, nodes: list[dict[str, float]]) -> dict[str, float]:
    """The resources of one trial: {"CPU": ..., "GPU": ...}. Raises ValueError if no single node has them."""
    gpus = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
    cpu = float(resources.cpu or config.training.threads)
    gpu = resources.gpu if resources.gpu is not None else float(gpus >= 1 and config.training.device != "cpu")
    if config.training.device == "cuda" and gpu == 0:
        raise ValueError(f"training.device='cuda', but a trial gets no GPU: Ray sees {gpus:g}, resources.gpu={gpu:g}")
    needs = {"CPU": cpu, "GPU": gpu} if gpu else {"CPU": cpu}
    if not any(fits(needs, node) for node in nodes):
        kinds = dict.fromkeys(f"{node.get('CPU', 0.0):g} CPUs and {node.get('GPU', 0.0):g} GPUs" for node in nodes)
        raise ValueError(
            f"a trial asks for {cpu:g} CPUs and {gpu:g} GPUs on one node, "
            f"but Ray's nodes have {' or '.join(kinds) or 'none'}; "
            "reduce resources.cpu (or training.threads) or resources.gpu"
        )
    return needs


@dataclass
class NodeWatch:
    """Stops the sweep when no node is left that can run its trials; Tune would wait for ever."""

    signals: Signals
    needs: list[dict[str, float]]
    """The distinct requests of the trials."""
    patience_s: float
    """How long nodes may be missing: a cluster may get new ones, our own Ray does not."""
    several: bool = False
    """Whether the nodes are a cluster's, and not our own Ray's single one."""
    looked: float = 0.0
    missed_since: float | None = None

    def check(self) -> None:
        """Check at intervals that such a node exists."""
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
            self.signals.stop("Ray has lost every node that can run a trial")


def fits(need: dict[str, float], node: dict[str, float]) -> bool:
    """Whether a node has what a trial asks for, even if it is in use."""
    return all(amount <= node.get(name, 0.0) for name, amount in need.items())


def nodes_for(needs: Iterable[dict[str, float]]) -> dict[str, str]:
    """The ids of the nodes that can run one of several trials, by address."""
    wanted = list(needs)
    alive = (node for node in ray.nodes() if node["Alive"])
    return {
        node["NodeManagerAddress"]: node["NodeID"]
        for node in alive
        if any(fits(need, node["Resources"]) for need in wanted)
    }


def node_watch(signals: Signals, needs: Iterable[dict[str, float]], address: str | None, timeout_s: float) -> NodeWatch:
    """The watch for trials with these needs, on our own Ray or on a cluster."""
    kinds = {tuple(sorted(need.items())) for need in needs}
    patience_s = timeout_s if address else SHORT_PATIENCE
    return NodeWatch(signals, [dict(kind) for kind in kinds], patience_s, several=address is not None)
