"""File calls per training of commands on a finished sweep, and what they cost where each takes a millisecond.

On a network file system, every call that names a file waits for the server. `strace` counts a command's calls about the
files of trainings, and then delays those calls, and no others, to see what they cost. Needs strace and Linux.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Report, main
from benchmarks.report import ROOT, write_files
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger

SEEDS = 5
"""Of sweeps/table2.yaml, whose every seed is 22 trainings."""
CALLS = "%file"
"""What names a file or opens a folder to list it. A call about a file that is open (an empty name) is not counted."""
DELAY_MS = 10
"""Long enough to be seen beside other work; what a call costs is a tenth of it at 1 ms."""
AT_MOST = 3
"""Calls per training."""
READS_THE_FILE = ["orchestrator.sweep", "table2.yaml", "data.root=/images", f"seeds={list(range(SEEDS))}"]
COMMANDS = {
    "report": ["orchestrator.report", "--store", "runs", "--output", "out"],
    "status": ["orchestrator.status", "--store", "runs"],
    "--plan": [*READS_THE_FILE, "--store", "runs", "--plan"],
    "sync": ["orchestrator.sync", "--store", "runs"],
    "the sweep again": [*READS_THE_FILE, "--store", "runs"],
}
SHORT = ("report", "status", "--plan")


def run(report: Report) -> None:
    """Calls and milliseconds per training, for each command."""
    if not shutil.which("strace"):
        raise SystemExit("file_calls needs strace; install the package of that name")
    chosen = {name: command for name, command in COMMANDS.items() if not report.settings.short or name in SHORT}
    with TemporaryDirectory(prefix="bench-") as place:
        room = Path(place).resolve()
        trainings = make(room, list(chosen.values()))
        for name, command in chosen.items():
            calls = calls_about_trainings(room, command)
            report.claim(f"{name}: file calls per training", len(calls) / trainings, at_most=AT_MOST)
            paths = sorted(set(calls))
            quick, slow = (wall(room, command, paths, delay) for delay in (0, DELAY_MS))
            report.state(
                f"{name}: a training at 1 ms a call",
                1000 * (slow - quick) / DELAY_MS / trainings,
                " ms",
                f"{trainings} trainings: {quick:.1f} s, and {slow:.1f} s at {DELAY_MS} ms a call",
            )


def make(room: Path, commands: list[list[str]]) -> int:
    """A store with a finished sweep, on which every command has run before; returns the number of trainings."""
    shutil.copy(ROOT / "sweeps" / "table2.yaml", room)
    planned = plan(read_spec(room / "table2.yaml", READS_THE_FILE[2:]))
    ledger = Ledger(room / "runs")
    ledger.write_plan(planned)
    for trial in planned.trials():
        write_files(trial, ledger.folder(trial.key))
    old = time.time() - 100
    for path in ledger.store.rglob("*"):
        os.utime(path, (old, old))
    for command in commands:
        _run(room, [], command)
    return len(planned.trials())


def calls_about_trainings(room: Path, command: list[str]) -> list[str]:
    """The path of every call of a command that names a file or a folder of a training."""
    log = room / "calls.txt"
    _run(room, ["strace", "-f", "-qq", "-s", "4096", "-o", str(log), "-e", f"trace={CALLS}"], command)
    under = re.escape(f"{room}/runs/trainings/")
    named = re.compile(rf'"({under}[^"]+)"')
    found = (named.search(line) for line in log.read_text(errors="replace").splitlines())
    return [match[1] for match in found if match]


def wall(room: Path, command: list[str], paths: list[str], delay_ms: int) -> float:
    """Seconds that a command takes if every call about one of `paths` takes so much longer."""
    about = [f"--trace-path={path}" for path in paths]
    late = ["-e", f"inject={CALLS}:delay_enter={1000 * delay_ms}"] if delay_ms else []
    begun = time.perf_counter()
    _run(room, ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}", *late, *about], command)
    return time.perf_counter() - begun


def _run(room: Path, before: list[str], command: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    line = [*before, sys.executable, "-m", *command]
    subprocess.run(line, cwd=room, env=environment, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main("file_calls", run))
