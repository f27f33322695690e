"""Commands whose output goes away: their work and their files do not depend on it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sites import ROOT, Site
from tests.tiny import tiny_sweep

ONE = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1)
TWO = tiny_sweep("tiny", "two trainings", "  - table: 2c\n    grid: {model.groups: [1, 8]}\n", epochs=1)
PRINT = "from dmf.machine.output import run, go_on; import sys\ndef main():\n {}\n return 0\nsys.exit(run(main))"


def shell(folder: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash; `python` stands for this one."""
    line = command.replace("python", sys.executable)
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=env, text=True, capture_output=True, check=False)


def printing(body: str, after: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that does `body`, with the redirections `after`; the last line is its exit status."""
    code = PRINT.format(body)
    return shell(ROOT, f"python -c '{code}' {after}", **environment)


def test_a_reader_that_quits_ends_nothing_and_is_told_only_where_work_goes_on() -> None:
    many = "for n in range(100000): print(n)"
    short = printing(many, "| head -1; echo ${PIPESTATUS[0]}")
    assert (short.stdout, short.stderr) == ("0\n0\n", "")
    long = printing(f'go_on("work goes on"); exec("{many}")', "| head -1; echo ${PIPESTATUS[0]}")
    assert long.stdout == "0\n0\n"
    assert long.stderr == "warning: standard output is no longer read; work goes on\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_told_once_and_is_an_error_unless_work_goes_on() -> None:
    short = printing('print("a", flush=True); print("b", flush=True)', "> /dev/full; echo $?")
    assert short.stdout == "1\n"
    assert short.stderr == (
        f"warning: standard output cannot be written: {os.strerror(errno.ENOSPC)}, and what it misses is lost\n"
    )
    unflushed = printing('print("a")', "> /dev/full; echo $?")
    assert (unflushed.stdout, unflushed.stderr) == ("1\n", short.stderr)
    long = printing('go_on("work goes on"); print("a", flush=True)', "> /dev/full; echo $?")
    assert long.stdout == "0\n" and long.stderr.endswith("is lost; work goes on\n")
    assert printing('print("a", file=sys.stderr)', "2> /dev/full; echo $?").stdout == "0\n"


def test_a_closed_output_is_not_the_next_file_that_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "file"
    body = f'file = open("{path}", "w"); print("lost", flush=True); file.write("kept")'
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert printing(body, f"{closed}; echo $?").stdout.endswith("0\n")
        assert path.read_text() == "kept"


def test_an_output_that_does_not_block_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    command = [sys.executable, "-c", PRINT.format('print("x" * 1000000)')]
    with subprocess.Popen(command, cwd=ROOT, stdout=writer) as process:
        os.close(writer)
        with open(reader, "rb") as read:
            assert read.read() == b"x" * 1_000_000 + b"\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("encoding", "said"), [("ascii", "-1 +- 2 - ? ?"), ("latin-1", "-1 ± 2 - ? é"), ("utf-8", "\u22121 ± 2 ─ 猫 é")]
)
def test_what_an_output_cannot_encode_has_a_mark_in_its_place(encoding: str, said: str) -> None:
    body = r"""print("\u22121 \u00b1 2 \u2500 \u732b \u00e9")"""
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", PRINT.format(body)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.decode(encoding) == f"{said}\n"
    assert not done.stderr


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = Site(tmp_path_factory.mktemp("swept"), ONE)
    assert site.run() == 0, site.said
    return site.folder


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ("| head -1", "standard output is no longer read; the sweep goes on"),
        (">&- 2>&-", ""),
        pytest.param("> /dev/full 2> /dev/full", "", marks=pytest.mark.full),
    ],
)
def test_a_sweep_trains_and_writes_its_tables_without_an_output(after: str, told: str, tmp_path: Path) -> None:
    site = Site(tmp_path, TWO)
    done = shell(tmp_path, f"python -m orchestrator.sweep tiny.yaml --executor local {after}; test $PIPESTATUS -eq 0")
    assert done.returncode == 0 and told in done.stderr and "Traceback" not in done.stderr
    assert site.states() == ["done", "done"]
    assert set(site.statuses().values()) == {"FINISHED"}
    assert (tmp_path / "results" / "tiny" / "index.html").is_file()


def test_commands_end_well_without_an_output(swept: Path) -> None:
    for command in ("status", "report", "sweep tiny.yaml --plan"):
        for after, status in ((">&-", 0), ("> /dev/full", 1), ("| true", 0)):
            done = shell(swept, f"python -m orchestrator.{command} {after}; exit $PIPESTATUS")
            assert done.returncode == status, (command, after)
            assert done.stderr.count("\n") == status and "Traceback" not in done.stderr
    assert (swept / "results" / "tiny" / "table_2c.csv").is_file()


@pytest.mark.parametrize("command", ["status", "report --formats markdown"])
def test_tables_fit_ascii_and_narrow_terminals(command: str, swept: Path) -> None:
    for width in ("1", "3", "20"):
        done = shell(swept, f"python -m orchestrator.{command}", COLUMNS=width, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()
