"""Ctrl-C while a command imports what it needs: it ends without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for package in ("dmf", "reports", "orchestrator")
    for path in (ROOT / package).rglob("*.py")
    if path.name == "__main__.py" or '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)
"""Every `python -m` command."""
SLOW = """
import pathlib, time
pathlib.Path({mark!r}).touch()
time.sleep(60)
"""
LONGEST_S = 60.0
IMPORTS = {"orchestrator.running.probe": "socket"}
"""A module that a command imports, if not argparse."""


def interrupted(command: list[str], number: int, folder: Path, **environment: str) -> tuple[int, str]:
    """Exit status and output of a command that gets a signal while it imports a module, as from a slow disk."""
    mark = folder / "importing"
    (folder / f"{IMPORTS.get(command[-1], 'argparse')}.py").write_text(SLOW.format(mark=str(mark)))
    path = os.pathsep.join([str(folder), str(ROOT)])
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + LONGEST_S
        while not mark.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        said, _ = process.communicate(timeout=LONGEST_S)
    finally:
        process.kill()
    return process.returncode, said


@pytest.mark.parametrize("command", COMMANDS)
def test_ctrl_c_during_imports_ends_a_command_without_a_traceback(command: str, tmp_path: Path) -> None:
    assert len(COMMANDS) > 15
    assert interrupted(["-m", command], signal.SIGINT, tmp_path) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_so_do_other_signals(number: int, tmp_path: Path) -> None:
    assert interrupted(["-m", "orchestrator.sweep"], number, tmp_path) == (-number, "")


def test_ctrl_c_is_caught_again_once_a_command_runs(tmp_path: Path) -> None:
    begin = "import signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    program = f"{begin}; from dmf.machine.output import run; sys.exit(run(lambda: signal.raise_signal(2)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, "stopped by SIGINT\n")


@pytest.mark.parametrize("package", ["dmf", "reports", "orchestrator"])
@pytest.mark.parametrize("started", [["-c", "import own"], ["own.py"], ["-m", "own"], ["-m", "owned.command"]])
def test_a_program_that_imports_a_package_keeps_its_handler(package: str, started: list[str], tmp_path: Path) -> None:
    text = f"import signal\nimport {package}\nassert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
    (tmp_path / "own.py").write_text(text)
    (tmp_path / "owned").mkdir()
    (tmp_path / "owned" / "__init__.py").write_text(text)
    (tmp_path / "owned" / "command.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *started], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_ignored_ctrl_c_stays_ignored(tmp_path: Path) -> None:
    text = "import signal, sys\nassert signal.getsignal(signal.SIGINT) == signal.SIG_IGN\n"
    (tmp_path / "argparse.py").write_text(text + "sys.exit(3)\n")
    line = f"trap '' INT; exec {sys.executable} -m orchestrator.status --help"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(["sh", "-c", line], cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr
