"""Kinds of errors of a trial, and what follows from each."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from orchestrator.running.faults import failure_of, kind_of
from orchestrator.store.bucket.training import TakenOver
from tests.test_trial import CONFIG

ROOT = Path(__file__).resolve().parents[1]


def caused(error: Exception, cause: Exception) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("groups=3"), "error"),
        (OSError(errno.ENOENT, "no such file"), "error"),
        (RuntimeError("shapes can not be multiplied"), "error"),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory"),
        (MemoryError(), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk"),
        (SafetensorError("I/O error: Input/output error (os error 5)"), "machine"),
        (SafetensorError("invalid header"), "error"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), "memory"),
        (OSError(errno.ENOLCK, "No locks available"), "machine"),
        (TakenOver("by another process"), "machine"),
        (OSError(errno.EIO, "Input/output error"), "machine"),
        (OSError(errno.ESTALE, "Stale file handle"), "machine"),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), "machine"),
        (caused(ValueError("can not write"), OSError(errno.ENOSPC, "No space left on device")), "disk"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_failure_keeps_reason_and_traceback() -> None:
    failure = failure_of(caused(ValueError("two\nlines"), KeyError("why")))
    assert failure.reason == "ValueError: two lines" and failure.kind == "error"
    assert "KeyError: 'why'" in failure.traceback and "Traceback" in failure.traceback


FULL_DISK = """
import sys
from pathlib import Path
from dmf.config import ExperimentConfig
from orchestrator.running.faults import kind_of
from orchestrator.store.ledger import Ledger
from orchestrator.running.trial import run_trial
folder, config = Path(sys.argv[1]), ExperimentConfig.model_validate_json(sys.argv[2])
filler, seen = folder / "filler", []
def fill(epoch):
    if not seen:
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(file.tell() - int(sys.argv[3]))
    seen.append(epoch.epoch)
try:
    run_trial(config, (), folder / "store", fill)
except Exception as error:
    print("kind", kind_of(error))
print("after", seen, sorted(path.name for path in (folder / "store").rglob("*.safetensors")))
filler.unlink()
print(run_trial(config, (), folder / "store").outcome)
"""
IN_A_SMALL_DISK = 'mount -t tmpfs -o size=6m tmpfs "$1" && exec "$2" -c "$3" "$1" "$4" "$5"'


@pytest.mark.parametrize("left", [0, 65536], ids=["nothing", "room for a record, not for a checkpoint"])
def test_a_full_disk_leaves_nothing_half_written_and_the_training_goes_on(left: int, tmp_path: Path) -> None:
    """On a real file system of 6 MB, mounted in its own namespace."""
    (tmp_path / "disk").mkdir()
    inside = ["sh", "-c", IN_A_SMALL_DISK, "sh", str(tmp_path / "disk"), sys.executable, FULL_DISK]
    isolated = ["unshare", "--mount", *(["--user", "--map-root-user"] if os.getuid() else [])]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system in a namespace (unshare --mount)")
    done = subprocess.run(
        [*isolated, *inside, CONFIG.model_dump_json(), str(left)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "kind disk",
        "after [1] ['best.safetensors', 'last.safetensors']",
        "finished",
    ], done.stdout + done.stderr
