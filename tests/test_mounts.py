"""Mounts whose locks other machines do not see."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmf.machine import mounts
from dmf.machine.mounts import mount_of, without_locks
from orchestrator.store.ledger import Ledger

LINES = r"""
overlay / overlay rw,relatime 0 0
server:/a /data nfs rw,vers=3,nolock,local_lock=all,addr=10.0.0.1 0 0
server:/b /data/locked nfs4 rw,local_lock=none 0 0
server:/c /data/with\040space nfs rw,local_lock=posix 0 0
server:/d /data/für\040alle\134s nfs rw,local_lock=posix 0 0
lustre /scratch lustre rw,flock 0 0
lustre /fast lustre rw,localflock 0 0
//host/share /share cifs rw,nobrl 0 0
tmpfs /fast/ram tmpfs rw 0 0
"""


@pytest.fixture(autouse=True)
def _mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text(f"{LINES.strip()}\ntmpfs {tmp_path}/store nfs rw,nolock 0 0\n", "utf-8")
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "mounts")


@pytest.mark.parametrize(
    ("path", "folder", "told"),
    [
        ("/data/runs", "/data", "/data (nfs) is mounted with local_lock=all, nolock"),
        ("/data/locked/runs", "/data/locked", ""),
        ("/data/with space/runs", "/data/with space", ""),
        ("/data/für alle\\s/runs", "/data/für alle\\s", ""),
        ("/scratch/runs", "/scratch", ""),
        ("/fast/runs", "/fast", "/fast (lustre) is mounted with localflock"),
        ("/fast/ram/runs", "/fast/ram", ""),
        ("/share/runs", "/share", "/share (cifs) is mounted with nobrl"),
        ("/home/runs", "/", ""),
    ],
)
def test_locks_are_told_from_the_mount_s_options(path: str, folder: str, told: str) -> None:
    mount = mount_of(Path(path))
    assert mount is not None and mount.folder == folder
    assert without_locks(Path(path)) == told


def test_a_driver_warns_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Ledger(tmp_path / "store").driving():
        pass
    assert "store (nfs) is mounted with nolock: drivers on other machines do not see" in caplog.text
    caplog.clear()
    with Ledger(tmp_path / "elsewhere").driving():
        pass
    assert caplog.text == ""


def test_without_a_list_of_mounts_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "none")
    assert without_locks(Path("/data/runs")) == ""
