"""Containers and odd machines: no home, no name, a temporary folder that is too long for sockets."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dmf.machine.paths import default_cache_dir
from orchestrator.running import cluster
from orchestrator.store.home import settle
from tests.sites import ROOT, START_SECONDS, Site
from tests.tiny import tiny_sweep

ONE = tiny_sweep("tiny", "one training", "  - table: 2c\n", epochs=1)
NAMELESS = ("unshare", "--user", "--map-user=12345", "--map-group=12345")
"""Runs a command as a user without an entry in passwd."""
VARIABLES = ("DMF_CACHE", "XDG_CACHE_HOME", "MPLCONFIGDIR", "LOGNAME", "USER", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without settings of these kinds, which is put back."""
    for name in ("HOME", "RAY_TMPDIR", "TMPDIR", *VARIABLES):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


def nameless() -> bool:
    """Whether a process can be a user without a name here."""
    if shutil.which("unshare") is None or 12345 in (entry.pw_uid for entry in pwd.getpwall()):
        return False
    return subprocess.run([*NAMELESS, "true"], capture_output=True, check=False).returncode == 0


def test_without_home_and_name_and_with_a_long_temporary_folder_a_sweep_under_ray_works(tmp_path: Path) -> None:
    site = Site(tmp_path, ONE)
    long = tmp_path / ("long" * 25)
    long.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", *VARIABLES)}
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(long)}
    prefix = NAMELESS if nameless() else ()
    if not prefix:
        environment["HOME"] = "/dev/null"
    for command, status in (("sweep tiny.yaml", 0), ("status", 0), ("report", 0), ("sync", 0)):
        whole = [*prefix, sys.executable, "-m", *f"orchestrator.{command}".split()]
        run = {"cwd": tmp_path, "env": environment, "text": True, "capture_output": True, "timeout": START_SECONDS}
        done = subprocess.run(whole, check=False, **run)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert site.states() == ["done"]
    assert set(site.statuses().values()) == {"FINISHED"}
    home = site.ledger.store / "home"
    assert (home / ".ray" / "auth_token").is_file()
    assert list((home / ".cache" / "dmf").glob("glyphs-*"))


@pytest.mark.parametrize("home", ["/dev/null", "/nowhere/at/all"])
def test_a_home_that_is_not_there_is_in_the_store(home: str, bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("HOME", home)
    settle(str(tmp_path))
    assert os.environ["HOME"] == str(tmp_path / "home")
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "dmf"


@pytest.mark.skipif(not os.access("/proc/self/environ", os.R_OK), reason="needs /proc, which takes no files")
def test_a_home_that_takes_no_files_stays_and_the_cache_is_in_the_store(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setenv("HOME", "/proc/self")
    settle(str(tmp_path))
    assert os.environ["HOME"] == "/proc/self"
    assert default_cache_dir() == tmp_path / "home" / ".cache" / "dmf"


def test_a_home_and_settings_of_the_user_stay(bare: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare.setenv("HOME", str(tmp_path))
    settle(str(tmp_path / "store"))
    assert default_cache_dir() == tmp_path / ".cache" / "dmf"
    bare.setenv("HOME", "/proc/self")
    bare.setenv("DMF_CACHE", str(tmp_path / "mine"))
    settle(str(tmp_path / "store"))
    assert default_cache_dir() == tmp_path / "mine"


def test_a_cache_that_cannot_be_made_is_one_sentence_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, ONE)
    monkeypatch.setenv("DMF_CACHE", "/dev/null/cache")
    assert site.run() == 2
    (error,) = (line for line in site.said.splitlines() if line.startswith("error: "))
    assert "/dev/null/cache, where decoded images are kept" in error and "set DMF_CACHE" in error
    assert site.states() == ["missing"]
    monkeypatch.delenv("DMF_CACHE")
    assert site.run() == 0, site.said
    monkeypatch.setenv("DMF_CACHE", "/dev/null/cache")
    assert site.run() == 0, site.said  # nothing is left that needs images


def test_rays_sockets_are_in_the_temporary_folder_if_it_is_short_and_takes_files(
    bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cluster._room_for_sockets() == "/tmp/ray"
    bare.setenv("TMPDIR", "/var/tmp")
    assert cluster._room_for_sockets() == "/var/tmp/ray"
    for wrong in ("/dev/null", str(tmp_path / ("long" * 25))):
        bare.setenv("TMPDIR", wrong)
        assert cluster._room_for_sockets() == "/tmp/ray"
    bare.setattr(cluster, "SHORT_ROOM", "/dev/null/ray")
    with pytest.raises(ValueError, match="is too long for Ray's sockets, which allow 40 .* set TMPDIR to a short path"):
        cluster._room_for_sockets()
