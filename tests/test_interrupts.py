"""Early ends of a sweep: signals to this process, other reasons to stop, and a whole sweep that is stopped."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.running.interrupts import Interrupted, Signals, Stopped
from tests.sites import ROOT, START_SECONDS, Site, descendants, workers
from tests.tiny import tiny_sweep

LONG = tiny_sweep("tiny", "one training that takes a while", "  - table: 2c\n", epochs=150)
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
each_signal = pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)


def handlers() -> dict[signal.Signals, object]:
    return {number: signal.getsignal(number) for number in NUMBERS}


def unheard(number: int, frame: object) -> None:
    """The previous handler: a signal that arrives here would have ended the process."""
    raise AssertionError(f"nobody took {signal.Signals(number).name}")


@pytest.fixture(autouse=True)
def _unheard() -> Iterator[None]:
    """Ignore no signal, here or in child processes, even if the tests were started with some ignored (nohup, `&`)."""
    before = handlers()
    try:
        for number in NUMBERS:
            signal.signal(number, unheard)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill(number: int) -> None:
    """Send this process a signal; its handler has run when this returns."""
    os.kill(os.getpid(), number)


@each_signal
def test_a_signal_is_raised_at_once_and_handlers_are_given_back(number: int) -> None:
    signals = Signals()
    with pytest.raises(Interrupted, match=f"^{signal.Signals(number).name}$") as raised, signals.caught():
        kill(number)
    assert raised.value.number == number and isinstance(raised.value, Stopped)
    assert handlers() == dict.fromkeys(NUMBERS, unheard)


@each_signal
def test_a_deferred_signal_is_raised_by_every_check_that_follows(number: int) -> None:
    signals = Signals()
    signals.deferred = True
    with signals.caught():
        signals.check()
        kill(number)
        for _ in range(2):
            with pytest.raises(Interrupted) as raised:
                signals.check()
            assert raised.value.number == number


@each_signal
def test_a_second_signal_does_not_wait_for_a_check(number: int) -> None:
    signals = Signals()
    signals.deferred = True
    with signals.caught():
        kill(signal.SIGTERM)
        signals.since = -math.inf
        with pytest.raises(Interrupted) as raised:
            kill(number)
    assert raised.value.number == number


@each_signal
def test_signals_of_one_event_are_one(number: int) -> None:
    signals = Signals()
    with signals.caught():
        with pytest.raises(Interrupted):
            kill(signal.SIGHUP)
        signals.since = time.monotonic()
        kill(number)
        with pytest.raises(Interrupted, match="^SIGHUP$"):
            signals.check()


@each_signal
def test_a_signal_that_was_ignored_stays_ignored(number: int) -> None:
    signal.signal(number, signal.SIG_IGN)
    signals = Signals()
    with signals.caught():
        signals.listen()
        kill(number)
        signals.check()
        for other in set(NUMBERS) - {number}:
            signals.since = -math.inf
            with pytest.raises(Interrupted):
                kill(other)
    assert handlers() == dict.fromkeys(NUMBERS, unheard) | {number: signal.SIG_IGN}


@each_signal
def test_signals_are_taken_back_from_a_library_that_took_them(number: int) -> None:
    signals, taken = Signals(), []
    with signals.caught():
        signal.signal(number, lambda *_: taken.append(number))
        kill(number)
        signals.listen()
        with pytest.raises(Interrupted):
            kill(number)
    assert taken == [number]


def test_the_first_reason_ends_the_sweep_at_the_next_check() -> None:
    signals = Signals()
    signals.check()
    signals.stop("no room on a disk")
    signals.stop("what follows from it")
    with pytest.raises(Stopped, match="^no room on a disk$") as raised:
        signals.check()
    assert not isinstance(raised.value, Interrupted)


def test_a_signal_is_told_before_a_reason() -> None:
    signals = Signals()
    signals.deferred = True
    signals.stop("no room on a disk")
    with signals.caught():
        kill(signal.SIGTERM)
    with pytest.raises(Interrupted):
        signals.check()


def test_at_the_end_of_its_budget_a_sweep_stops() -> None:
    signals = Signals()
    signals.check()
    signals.deadline = time.monotonic() - 1
    with pytest.raises(Stopped, match="the time budget is used up"):
        signals.check()


def terminal() -> None:
    """Called in a new session: make standard input its terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_a_sweep_whose_terminal_is_closed_is_stopped_and_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path, LONG)
    (trial,) = site.trials()
    ours, its = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator.sweep", "tiny.yaml"],
        stdin=its,
        stdout=its,
        stderr=its,
        cwd=tmp_path,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=terminal,
    )
    os.close(its)
    site.output.touch()
    try:
        site.until_epoch(process, 1)
        until_mlflow_shows(site, process, trial.key)
        below = descendants(process)
        assert workers(process)
        os.close(ours)
        assert process.wait(timeout=START_SECONDS) == 128 + signal.SIGHUP
    finally:
        process.kill()
        process.wait()
    assert not [pid for pid in below if Path(f"/proc/{pid}/exe").exists()]
    assert site.states() == ["started"]
    assert site.statuses() == {"tiny": "KILLED", trial.key: "KILLED"}
    before = site.history(trial.key)
    assert site.run() == 0, site.said
    site.assert_went_on(trial.key, before)


def until_below(site: Site, process: subprocess.Popen[bytes], name: str) -> None:
    """Wait until a program runs below a process."""
    deadline = time.monotonic() + START_SECONDS
    while not any(name in command_of(pid) for pid in descendants(process)):
        assert process.poll() is None and time.monotonic() < deadline, site.said
        time.sleep(0.01)


def command_of(pid: int) -> str:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@pytest.mark.parametrize(
    ("number", "program", "later_s"),
    [
        (signal.SIGTERM, "raylet/raylet", 1.0),
        pytest.param(signal.SIGTERM, "gcs/gcs_server", 0.0, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, "raylet/raylet", 0.0, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, "raylet/raylet", 0.5, marks=pytest.mark.full),
        pytest.param(signal.SIGTERM, "raylet/raylet", 2.0, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, "raylet/raylet", 1.0, marks=pytest.mark.full),
        pytest.param(signal.SIGHUP, "raylet/raylet", 0.5, marks=pytest.mark.full),
    ],
)
def test_a_signal_while_ray_starts_stops_the_sweep(number: int, program: str, later_s: float, tmp_path: Path) -> None:
    site = Site(tmp_path, LONG)
    process = site.start()
    try:
        until_below(site, process, program)
        time.sleep(later_s)
        below = descendants(process)
        os.killpg(process.pid, number)  # as a terminal or Slurm does
        os.killpg(process.pid, number)
        assert process.wait(timeout=START_SECONDS) == 128 + number, site.said
    finally:
        process.kill()
        process.wait()
    name = signal.Signals(number).name
    assert f"stopped by {name}; continue with the same command" in site.said and "Traceback" not in site.said
    assert not [pid for pid in below if Path(f"/proc/{pid}/exe").exists()]
    assert set(site.statuses().values()) == {"KILLED"}


def until_mlflow_shows(site: Site, process: subprocess.Popen[bytes], key: str) -> None:
    """Wait until a training's run exists: a sweep stopped earlier makes none."""
    deadline = time.monotonic() + START_SECONDS
    while key not in site.statuses():
        assert process.poll() is None and time.monotonic() < deadline, site.said
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.full),
        pytest.param(signal.SIGINT, marks=pytest.mark.full),
    ],
    ids=lambda number: number.name,
)
def test_a_sweep_under_ray_that_gets_a_signal_says_how_to_go_on_and_goes_on(number: int, tmp_path: Path) -> None:
    site = Site(tmp_path, LONG)
    (trial,) = site.trials()
    process = site.start()
    try:
        site.until_epoch(process, 1)
        until_mlflow_shows(site, process, trial.key)
        process.send_signal(number)
        assert process.wait(timeout=START_SECONDS) == 128 + number, site.said
        assert workers(process) == []
    finally:
        process.kill()
        process.wait()
    name = signal.Signals(number).name
    assert f"stopped by {name}; continue with the same command: python -m orchestrator.sweep tiny.yaml" in site.said
    assert site.states() == ["started"]
    assert site.statuses() == {"tiny": "KILLED", trial.key: "KILLED"}
    before = site.history(trial.key)
    assert site.run() == 0, site.said
    site.assert_went_on(trial.key, before)
    assert site.states() == ["done"]
    assert site.statuses() == {"tiny": "FINISHED", trial.key: "FINISHED"}
    site.assert_mlflow_has(trial)
