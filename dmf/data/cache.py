"""Images decoded once, as uint8 arrays that are mapped into memory: `<folder>/<split>.npy` and what belongs to it.

A cache folder is written aside under a lock, which the system takes from a process that dies, and renamed when it is
whole: who finds it finds all of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dmf.data.layouts.raw import RawImage, RawSplit
from dmf.data.store import Form, FullSizes, Squares, starts_of
from dmf.machine.files import taken, wait_for
from dmf.machine.watchdog import alive
from dmf.values import Value

LOG = logging.getLogger("dmf.data")
VERSION = 1
"""Raised when the same files would give other arrays; part of a cache's key."""
CHUNK = 64
"""Images that a thread decodes at a time."""
SAME_IMAGES = 0.05
"""Fraction of a split's images that may also be in another one: real sets have a few, copied splits have all."""


class CachedSplit(Value):
    """What is known of a split without its arrays."""

    classes: tuple[str, ...]
    fingerprint: str
    """SHA-256 over classes, labels and pixels, wherever they came from."""


class CacheInfo(Value):
    """`info.json` of a cache folder."""

    layout: str
    image_sizes: str
    """Width x height of the images as found, the smallest and the largest by area."""
    splits: dict[str, CachedSplit]
    file_bytes: dict[str, int]
    """By file name: a file that was cut or cleaned away shows."""


def open_cache(
    folder: Path, read: Callable[[], dict[str, RawSplit]], layout: str, form: Form, full_size: frozenset[str]
) -> CacheInfo:
    """What is in the cache `folder`, which is written first unless it is there, whole.

    `read` gives the splits, those named in `full_size` are stored as they are. Asked for by several processes at once,
    one writes and the others wait for it.
    """
    info = whole(folder)
    if info is not None:
        return info
    with _locked(folder.with_name(folder.name + ".lock")):
        info = whole(folder)
        if info is None:
            aside = folder.with_name(folder.name + ".partial")
            for leftover in (folder, aside):
                if leftover.exists():
                    LOG.warning("%s is not whole (a killed run, or files cleaned away); it is written anew", leftover)
                    shutil.rmtree(leftover)
            splits = read()
            aside.mkdir()
            try:
                info = _write(aside, splits, layout, form, full_size)
                os.replace(aside, folder)
            except BaseException:  # it may be large
                shutil.rmtree(aside)
                raise
    return info


def open_arrays(folder: Path, split: str, form: Form) -> tuple[np.ndarray, Squares | FullSizes]:
    """Labels [M] and images of a split in a whole cache folder."""
    labels = np.load(folder / f"{split}_labels.npy")
    pixels = np.load(folder / f"{split}.npy", mmap_mode="r").view(np.ndarray)
    if pixels.ndim > 1:
        return labels, Squares(pixels)
    sizes = np.load(folder / f"{split}_sizes.npy")
    return labels, FullSizes(pixels, sizes, starts_of(sizes, form.channels)[:-1], form)


def whole(folder: Path) -> CacheInfo | None:
    """The information on `folder` if it and all its files are there."""
    if not (folder / "info.json").is_file():
        return None
    try:
        info = CacheInfo.read(folder / "info.json")
    except ValueError as error:
        LOG.warning("%s", error)
        return None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return info if all(sizes.get(name) == size for name, size in info.file_bytes.items()) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, alone among processes and threads; it is never deleted, only let go."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ValueError(f"cannot write the cache folder {path.parent} ({error.strerror}); set DMF_CACHE") from error
    with file:
        if not taken(file):
            LOG.info("waiting for another process that writes %s", path.with_suffix(""))
            wait_for(file)
        yield


# Writing -------------------------------------------------------------------------------------------------------------


def _write(folder: Path, splits: dict[str, RawSplit], layout: str, form: Form, full_size: frozenset[str]) -> CacheInfo:
    """Write the arrays of all `splits` and `info.json`, which comes last."""
    plans = {name: _plan(split, form, name in full_size) for name, split in splits.items()}
    _check_space(folder, sum(plan.total_bytes for plan in plans.values()))
    sizes_found: set[tuple[int, int]] = set()
    cached, digests = {}, {}
    for name, plan in plans.items():
        digests[name] = _write_pixels(folder / f"{name}.npy", splits[name], plan, form, sizes_found)
        np.save(folder / f"{name}_labels.npy", plan.labels)
        if plan.sizes is not None:
            np.save(folder / f"{name}_sizes.npy", plan.sizes)
        cached[name] = CachedSplit(classes=plan.classes, fingerprint=_fingerprint(plan, digests[name]))
    _check_same_images(digests)
    for path in folder.iterdir():
        with open(path, "rb") as written:
            os.fsync(written.fileno())
    file_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    info = CacheInfo(layout=layout, image_sizes=_sizes_text(sizes_found), splits=cached, file_bytes=file_bytes)
    info.write(folder / "info.json")
    return info


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where every image of a split goes: image i of the source becomes image `positions[i]`; classes are in order."""

    classes: tuple[str, ...]
    labels: np.ndarray
    positions: np.ndarray
    shape: tuple[int, ...]
    """Of the array in the file."""
    starts: np.ndarray
    """Byte at which each stored image starts; the last entry is the end."""
    sizes: np.ndarray | None
    """[M, 2] heights and widths of images stored at full size, else None."""

    @property
    def total_bytes(self) -> int:
        return int(self.starts[-1])


def _plan(split: RawSplit, form: Form, full_size: bool) -> _Plan:
    classes, labels = np.unique(np.array(split.class_ids, dtype=str), return_inverse=True)
    order = np.argsort(labels, kind="stable")
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    if full_size:
        sizes = np.empty((len(order), 2), np.int64)
        for position, raw in zip(positions, split.images(), strict=True):
            with _told(raw):
                sizes[position] = raw.open().size[::-1]
        starts = starts_of(sizes, form.channels)
        shape: tuple[int, ...] = (int(starts[-1]),)
    else:
        sizes, shape = None, (len(order), form.size, form.size, form.channels)
        starts = np.arange(len(order) + 1) * (form.size * form.size * form.channels)
    names = tuple(str(name) for name in classes)
    return _Plan(names, labels[order].astype(np.int64), positions, shape, starts, sizes)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    LOG.info("writing %.2f GB of decoded images to %s (%.2f GB are free)", needed / 1e9, folder.parent, free / 1e9)
    if needed > free:
        raise ValueError(
            f"the decoded images need {needed / 1e9:.2f} GB, {folder.parent} has {free / 1e9:.2f} GB free; "
            "make room or set DMF_CACHE to a folder on a larger disk"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _write_pixels(
    path: Path, split: RawSplit, plan: _Plan, form: Form, sizes_found: set[tuple[int, int]]
) -> list[bytes]:
    """Decode all images of `split` into the npy file `path`; add their (width, height); return their SHA-256s."""
    digests = [b""] * len(plan.labels)
    with open(path, "w+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": plan.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        first_byte = file.tell()
        os.truncate(path, first_byte + plan.total_bytes)

        def store(chunk: list[tuple[int, RawImage]]) -> None:
            for position, raw in chunk:
                with _told(raw):
                    pixels = form.pixels(raw.open())
                sizes_found.add((pixels.shape[1], pixels.shape[0]))
                data = (pixels if plan.sizes is not None else form.square(pixels)).tobytes()
                assert len(data) == plan.starts[position + 1] - plan.starts[position]
                written = os.pwrite(file.fileno(), data, first_byte + int(plan.starts[position]))
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                digests[position] = hashlib.sha256(data).digest()
            alive()

        _in_threads(store, _chunks(zip(plan.positions.tolist(), split.images(), strict=True)))
    return digests


def _in_threads(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """`work(item)` for all items, a few of them waiting at a time; PIL decodes outside of Python's lock."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pending: deque[Future[None]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > 2 * threads:
                pending.popleft().result()
        for future in pending:
            future.result()


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, CHUNK)):
        yield chunk


@contextlib.contextmanager
def _told(raw: RawImage) -> Iterator[None]:
    """Whatever goes wrong with an image becomes a ValueError that names it."""
    try:
        yield
    except Exception as error:  # decoders raise errors of every kind on damaged files
        raise ValueError(f"{raw.where}: cannot be decoded ({error}); expected a jpg, png or bmp image") from error


def _fingerprint(plan: _Plan, digests: list[bytes]) -> str:
    parts = hashlib.sha256(json.dumps(plan.classes).encode())
    parts.update(plan.labels.astype("<i8").tobytes())
    parts.update(json.dumps(plan.shape).encode() if plan.sizes is None else plan.sizes.astype("<i8").tobytes())
    for digest in digests:
        parts.update(digest)
    return parts.hexdigest()


def _check_same_images(digests: dict[str, list[bytes]]) -> None:
    """Refuse splits that share many images under different class names; a few are mentioned."""
    for one, other in itertools.combinations(digests, 2):
        shared = len(set(digests[one]) & set(digests[other]))
        smaller = min(len(set(digests[one])), len(set(digests[other])))
        if shared > SAME_IMAGES * smaller:
            raise ValueError(
                f"{shared} images of {one!r} are also in {other!r}, under other class names; "
                "expected splits without common images"
            )
        if shared:
            LOG.warning("%d images of %r are also in %r, pixel by pixel", shared, one, other)


def _sizes_text(sizes: set[tuple[int, int]]) -> str:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    ends = [f"{width}x{height}" for width, height in (ordered[0], ordered[-1])]
    return ends[0] if len(ordered) == 1 else "..".join(ends)
