"""Faults of files: each is told with the file, the setting behind it and the remedy; "the same command" if it helps."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.machine.files import locked, replacing
from dmf.machine.trouble import PASSING, REMEDIES, sentence
from tests.sites import ROOT, Site
from tests.test_full_disk import in_a_namespace
from tests.tiny import tiny_sweep

SPEC = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1)
AGAIN = "continue with the same command"


def run(site: Site, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the site's folder."""
    return subprocess.run(
        command,
        cwd=site.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


SWEEP = (sys.executable, "-m", "orchestrator.sweep", "tiny.yaml", "--executor", "local")


def test_every_remedy_names_file_and_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"--store": tmp_path / "runs", "--results": tmp_path / "runs" / "tables"}
    for number in (errno.EACCES, errno.EPERM, *REMEDIES):
        told = sentence(OSError(number, os.strerror(number), str(tmp_path / "runs" / "x")), places, AGAIN)
        assert told.startswith(f"{tmp_path}/runs/x: {os.strerror(number)} (in --store); ")
        assert told.endswith(", or give another --store") and AGAIN not in told
    for number in PASSING:
        told = sentence(OSError(number, os.strerror(number), str(tmp_path / "runs" / "x")), places, AGAIN)
        assert told == f"{tmp_path}/runs/x: {os.strerror(number)} (in --store); {AGAIN}"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "runs" / "tables" / "x"))
    assert "(in --results); make room on its disk, or give another --results; then continue" in sentence(
        full, places, AGAIN
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path / "t"))
    assert "(in TMPDIR)" in sentence(OSError(errno.EACCES, "no", str(tmp_path / "t" / "x")), places)
    assert "(in" not in sentence(OSError(errno.EACCES, "no", "/elsewhere/x"), places)
    assert sentence(OSError("the object store does not answer"), places, AGAIN).endswith(f"answer; {AGAIN}")
    assert sentence(OSError(errno.EIO, "Input/output error", 3), places) == "Input/output error", "an open file"
    assert sentence(ValueError("a sentence"), places, AGAIN) == "a sentence"
    socket = sentence(OSError("AF_UNIX path length cannot exceed 107 bytes: /x"), places, AGAIN)
    assert "set TMPDIR to a short path" in socket and AGAIN not in socket


def test_writing_and_locking_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as full, replacing(path):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    assert full.value.errno == errno.ENOSPC and full.value.filename == str(path)
    with locked(path), pytest.raises(BlockingIOError) as held, locked(path):
        pass
    assert held.value.filename == str(path)


def test_a_store_of_another_user(tmp_path: Path) -> None:
    """Permissions do not hold root back, so root runs the command without the capability to pass them."""
    site = Site(tmp_path, SPEC)
    inside = site.ledger.store / "sweeps"
    inside.mkdir(mode=0o555)
    held: tuple[str, ...] = ()
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("there is no command setpriv (package util-linux) to give up a capability with")
        held = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    done = run(site, *held, *SWEEP, HOME=str(tmp_path), DMF_CACHE=str(tmp_path / "cache"))
    told = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"{inside}/" in told and "Permission denied (in --store); let this user (number " in told, done.stderr
    assert told.endswith(", or give another --store") and AGAIN not in done.stderr and "Traceback" not in done.stderr
    assert done.returncode == 1


def test_a_file_system_without_locks(tmp_path: Path) -> None:
    if not shutil.which("strace"):
        pytest.skip("there is no strace to refuse locks with")
    site = Site(tmp_path, SPEC)
    refuse = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=flock", "-e", "inject=flock:error=ENOLCK")
    for command in (SWEEP, (sys.executable, "-m", "orchestrator.prune")):
        done = run(site, *refuse, *command)
        assert done.returncode in (1, 2), done.stderr
        assert (
            f"error: {site.ledger.store}/driver.lock: No locks available (in --store); its file system has no locks: "
            "mount it with locks (NFS without nolock, Lustre with flock), or give another --store\n"
        ) in done.stderr
        assert AGAIN not in done.stderr and "Traceback" not in done.stderr


def test_tables_that_cannot_be_written(tmp_path: Path) -> None:
    isolated, site = in_a_namespace(tmp_path), Site(tmp_path, SPEC)
    (tmp_path / "results").mkdir()
    small = 'mount -t tmpfs -o size=16k tmpfs results && exec "$@"'
    done = run(site, *isolated, "sh", "-c", small, "sh", *SWEEP)
    told = next(line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert f"{tmp_path}/results/tiny/" in told or "results/tiny/" in told
    assert "No space left on device (in --results); make room on its disk, or give another --results; then " in told
    assert AGAIN in told and done.returncode == 1, "it helps after the remedy"
