from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmf.config import DataConfig, ExperimentConfig
from dmf.data import cache as image_cache
from dmf.data.checks import DamagedImages
from dmf.data.sets import DataSet, _opened, images_of, open_data

IMAGES = {"train": 100, "val": 50, "test": 50}
"""Images per class; there are two classes per split."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for split, count in IMAGES.items():
        for name in "ab":
            folder = tmp_path / "root" / split / f"{split}_{name}"
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return tmp_path / "root"


def opened(root: Path, cache: Path, full_size: bool = False, image_size: int = 8) -> DataSet:
    return open_data(DataConfig(name="mine", root=str(root), image_size=image_size), full_size, cache)


def cache_folder(cache: Path) -> Path:
    (folder,) = (path for path in cache.iterdir() if path.is_dir())
    return folder


OPENING_THAT_WAITS = """
    import logging, sys, time
    from pathlib import Path
    from dmf.data.layouts import files as file_layouts
    from dmf.data.layouts import raw as raw_images
    from dmf.config import DataConfig
    from dmf.data.sets import open_data

    count = 0
    def waiting_decode(read):
        global count
        count += 1
        if count == 200:
            print("halfway", flush=True)
        while count >= 200 and not Path(sys.argv[3]).exists():
            time.sleep(0.01)
        return raw_images.decode(read)

    logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")
    file_layouts.decode = waiting_decode
    data = open_data(DataConfig(name="mine", root=sys.argv[1], image_size=8), cache_dir=Path(sys.argv[2]))
    print(count, data.fingerprint, flush=True)
"""


def start_opening(root: Path, cache: Path, go: Path) -> subprocess.Popen[str]:
    """A process that opens the data set, says "halfway" there, and goes on when the file `go` exists."""
    command = [sys.executable, "-c", textwrap.dedent(OPENING_THAT_WAITS), str(root), str(cache), str(go)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """The first line from `process` that contains `words`."""
    return next(line for line in process.stdout if words in line)


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_killed_writer_leaves_nothing_that_counts(
    root: Path, tmp_path: Path, processes: list[subprocess.Popen[str]], caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    processes.append(start_opening(root, cache, tmp_path / "never"))
    read_until(processes[0], "halfway")
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    assert cache_folder(cache).name.endswith(".partial")
    data = opened(root, cache)  # would wait forever if the lock outlived its process
    assert "is incomplete" in caplog.text and not cache_folder(cache).name.endswith(".partial")
    assert data.fingerprint == opened(root, tmp_path / "other cache").fingerprint


def test_two_processes_at_once_decode_once(root: Path, tmp_path: Path, processes: list[subprocess.Popen[str]]) -> None:
    cache, go = tmp_path / "cache", tmp_path / "go"
    processes.append(start_opening(root, cache, go))
    read_until(processes[0], "halfway")
    processes.append(start_opening(root, cache, go))
    read_until(processes[1], "waiting for another process")
    go.touch()
    counts, fingerprints = zip(*(process.stdout.read().splitlines()[-1].split() for process in processes), strict=True)
    assert [process.wait() for process in processes] == [0, 0]
    assert counts == (str(2 * sum(IMAGES.values())), "0"), "the second one decoded nothing"
    assert fingerprints[0] == fingerprints[1]


@pytest.mark.parametrize("file", ["train.npy", "val_labels.npy", "info.json"])
def test_a_cache_that_lost_a_file_is_written_anew(
    file: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    before = opened(root, cache)
    (cache_folder(cache) / file).unlink()
    assert opened(root, cache).fingerprint == before.fingerprint and "is incomplete" in caplog.text
    os.truncate(cache_folder(cache) / "test.npy", 1000)
    after = opened(root, cache)
    np.testing.assert_array_equal(after.test.pixels(np.arange(100)), before.test.pixels(np.arange(100)))


def test_a_full_disk_is_told_beforehand(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: usage._replace(free=400 * 8 * 8 * 3 - 1))
    with pytest.raises(ValueError, match="need 0.00 GB.*set DMF_CACHE"):
        opened(root, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*/"))
    monkeypatch.setattr(image_cache.shutil, "disk_usage", lambda _: usage._replace(free=400 * 8 * 8 * 3))
    opened(root, tmp_path / "cache")


def test_a_cache_folder_that_cannot_be_made_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write the cache folder .*DMF_CACHE"):
        opened(root, tmp_path / "file" / "cache")


def test_sizes_have_caches_of_their_own(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    small, large, whole = opened(root, cache), opened(root, cache, image_size=16), opened(root, cache, full_size=True)
    assert len(list(cache.glob("*/info.json"))) == 3
    assert small.train.pixels(np.arange(2)).shape == (2, 8, 8, 3)
    assert large.train.pixels(np.arange(2)).shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(whole.train.full(5), small.train.pixels(np.array([5]))[0])
    assert len({data.train.fingerprint for data in (small, large, whole)}) == 3
    assert whole.val.fingerprint == small.val.fingerprint


def test_pixels_are_mapped_not_loaded(root: Path, tmp_path: Path) -> None:
    data = opened(root, tmp_path / "cache")
    array = data.train._stored.array
    assert type(array) is np.ndarray and isinstance(array.base, np.memmap) and not array.flags.writeable


def flip(path: Path, at: int) -> None:
    """Flip one bit of the byte `at`, counted from the end if negative; size and times stay."""
    before = path.stat()
    with open(path, "r+b") as file:
        file.seek(at, os.SEEK_END if at < 0 else os.SEEK_SET)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 4]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("full_size", [False, True])
def test_a_flipped_bit_is_found_when_its_image_is_read_and_the_images_are_decoded_again(
    full_size: bool, root: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    data = opened(root, cache, full_size)
    right = data.train.pixels(np.arange(200))
    flip(cache_folder(cache) / "train.npy", -1)
    again = opened(root, cache, full_size)
    np.testing.assert_array_equal(again.train.pixels(np.arange(199)), right[:199])
    with pytest.raises(DamagedImages, match="train.npy is damaged: image 199 .*; the next start decodes"):
        again.train.pixels(np.arange(150, 200))
    assert again.train.damaged and not again.val.damaged
    mended = opened(root, cache, full_size)
    np.testing.assert_array_equal(mended.train.pixels(np.arange(200)), right)
    assert mended.fingerprint == data.fingerprint


@pytest.mark.parametrize("file", ["val_labels.npy", "train_digests.npy", "train_sizes.npy", "info.json"])
def test_a_flipped_bit_beside_the_pixels_is_found_when_the_cache_is_opened(
    file: str, root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    before = opened(root, cache, full_size=True)
    at = (cache_folder(cache) / file).read_bytes().index(b"train_a") + 6 if file == "info.json" else -8
    flip(cache_folder(cache) / file, at)
    after = opened(root, cache, full_size=True)
    assert "is damaged" in caplog.text and after.train.classes == before.train.classes
    np.testing.assert_array_equal(after.val.labels, before.val.labels)
    np.testing.assert_array_equal(after.train.pixels(np.arange(200)), before.train.pixels(np.arange(200)))


def test_trainings_in_one_process_get_the_images_that_were_decoded_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMF_CACHE", str(tmp_path / "cache"))
    config = ExperimentConfig().replace(data__name="mine", data__root=str(root), data__image_size=8)
    right = images_of(config).train.pixels(np.arange(200))
    _opened.cache_clear()
    flip(cache_folder(tmp_path / "cache") / "train.npy", -1)
    with pytest.raises(DamagedImages):
        images_of(config).train.pixels(np.arange(200))
    np.testing.assert_array_equal(images_of(config).train.pixels(np.arange(200)), right)
