"""A cache of decoded images: memory-mapped uint8 arrays in `<folder>/<split>.npy`, with labels and sizes beside them.

A cache folder is written under another name and renamed when it is complete, so a folder under its final name has all
its files. A lock, which the system releases if the process dies, keeps other processes from writing it too.

The fingerprint of a split covers its classes, labels, sizes and the SHA-256 of every image, and is checked when a
folder is opened; an image is checked the first time that it is read (`dmf.data.checks`).
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dmf.data.checks import BYTES, INFO, Checks
from dmf.data.copies import Hashed, copies
from dmf.data.layouts.pictures import USUAL, Look, Noted
from dmf.data.layouts.raw import RawImage, RawSplit
from dmf.data.store import Form, FullSizes, Squares, starts_of
from dmf.machine.files import sign, taken, wait_for
from dmf.machine.watchdog import alive
from dmf.values import Value

LOG = logging.getLogger("dmf.data")
VERSION = 3
"""Part of a cache's key; increase it if the same files would give other arrays."""
PARTIAL = ".partial"
CHUNK = 64
"""Images that a thread decodes at a time."""
OBJECT = re.compile(r" <_io\.BytesIO object at 0x[0-9a-f]+>")
"""What Pillow names in place of a file that it reads from memory: another text each time."""
DAMAGED_TOLD = 5
"""Damaged images that an error names; the others are counted."""


class CachedSplit(Value):
    """A cached split without its arrays."""

    classes: tuple[str, ...]
    fingerprint: str
    """SHA-256 over classes, labels and pixels, whatever their layout was."""


class CacheInfo(Value):
    """The content of a cache folder's `info.json`."""

    layout: str
    image_sizes: str
    """Original width x height of the smallest and the largest image, by area."""
    splits: dict[str, CachedSplit]
    doubts: tuple[str, ...]
    """What was left out, converted or found twice, one sentence each."""
    file_bytes: dict[str, int]
    """Sizes by file name, which reveal truncated and deleted files."""


def open_cache(
    folder: Path, read: Callable[[], dict[str, RawSplit]], layout: str, form: Form, full_size: frozenset[str]
) -> CacheInfo:
    """Open the cache `folder`, writing it first unless it is complete.

    `read` returns the splits to write; those named in `full_size` are stored at full size. If several processes call
    this at once, one writes and the others wait for it.
    """
    info = _sound(folder)
    if info is not None:
        return info
    with _locked(lock_of(folder)):
        info = _sound(folder)
        if info is None:
            aside = folder.with_name(folder.name + PARTIAL)
            for leftover in (folder, aside):
                if leftover.exists():
                    LOG.warning("%s is incomplete or damaged (a killed run, deleted files); writing it anew", leftover)
                    shutil.rmtree(leftover)
            splits = read()
            aside.mkdir()
            try:
                info = _write(aside, splits, layout, form, full_size)
                _share(aside, info)
                os.replace(aside, folder)
            except BaseException:  # the partial folder can be large
                shutil.rmtree(aside)
                raise
    return info


def lock_of(folder: Path) -> Path:
    """The lock file of a cache folder, complete or not."""
    return folder.with_name(folder.name.removesuffix(PARTIAL) + ".lock")


def open_arrays(folder: Path, split: str, form: Form) -> tuple[np.ndarray, Squares | FullSizes]:
    """Labels [M] and images of a split in a complete cache folder."""
    labels, digests = (np.load(folder / f"{split}_{what}.npy") for what in ("labels", "digests"))
    pixels = np.load(folder / f"{split}.npy", mmap_mode="r").view(np.ndarray)
    checks = Checks(folder / f"{split}.npy", digests)
    if pixels.ndim > 1:
        return labels, Squares(pixels, checks)
    sizes = np.load(folder / f"{split}_sizes.npy")
    return labels, FullSizes(pixels, sizes, starts_of(sizes, form.channels)[:-1], form, checks)


def _sound(folder: Path) -> CacheInfo | None:
    """As `whole`, but None also if classes, labels, sizes or digests are not those that were written."""
    info = whole(folder)
    for name, split in info.splits.items() if info else ():
        try:
            labels, digests = (np.load(folder / f"{name}_{what}.npy") for what in ("labels", "digests"))
            sizes = np.load(folder / f"{name}_sizes.npy") if (folder / f"{name}_sizes.npy").is_file() else None
            shape = np.load(folder / f"{name}.npy", mmap_mode="r").shape
        except ValueError as error:
            LOG.warning("%s, %s: %s", folder, name, error)
            return None
        if _fingerprint(split.classes, labels, shape if sizes is None else sizes, digests) != split.fingerprint:
            LOG.warning("%s is damaged: %s is not what was written", folder, name)
            return None
    return info


def whole(folder: Path) -> CacheInfo | None:
    """The information in `folder` if it exists and is complete, else None."""
    if not (folder / INFO).is_file():
        return None
    try:
        info = CacheInfo.read(folder / INFO)
    except ValueError as error:
        LOG.warning("%s", error)
        return None
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    return info if all(sizes.get(name) == size for name, size in info.file_bytes.items()) else None


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path` exclusively among processes and threads; it is released, but never deleted."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ValueError(f"cannot write the cache folder {path.parent} ({error.strerror}); set DMF_CACHE") from error
    with file:
        if not taken(file):
            LOG.info("waiting for another process that is writing %s", path.with_suffix(""))
            wait_for(file)
        sign(file)
        yield


# Writing -------------------------------------------------------------------------------------------------------------


def _write(folder: Path, splits: dict[str, RawSplit], layout: str, form: Form, full_size: frozenset[str]) -> CacheInfo:
    """Write the arrays of all `splits`, and `info.json` last."""
    look = Look(form.channels, form.background, form.orientation)
    plans = {name: _plan(split, form, look, name in full_size) for name, split in splits.items()}
    _check_space(folder, sum(plan.total_bytes for plan in plans.values()))
    seen = _Seen()
    cached, hashed = {}, []
    for name, plan in plans.items():
        digests = _write_pixels(folder / f"{name}.npy", splits[name], plan, form, look, seen)
        hashed.append(Hashed(name, digests, plan.labels, functools.partial(_where, splits[name], plan)))
        np.save(folder / f"{name}_labels.npy", plan.labels)
        joined = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, BYTES)
        np.save(folder / f"{name}_digests.npy", joined)
        if plan.sizes is not None:
            np.save(folder / f"{name}_sizes.npy", plan.sizes)
        sizes = plan.shape if plan.sizes is None else plan.sizes
        fingerprint = _fingerprint(plan.classes, plan.labels, sizes, joined)
        cached[name] = CachedSplit(classes=plan.classes, fingerprint=fingerprint)
    doubts = [doubt for split in splits.values() for doubt in split.doubts]
    doubts += [*seen.noted.sentences(look), *copies(hashed)]
    for path in folder.iterdir():
        with open(path, "rb") as written:
            os.fsync(written.fileno())
    file_bytes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    info = CacheInfo(
        layout=layout,
        image_sizes=_sizes_text(seen.sizes),
        splits=cached,
        doubts=tuple(dict.fromkeys(doubts)),
        file_bytes=file_bytes,
    )
    info.write(folder / INFO)
    return info


def _share(aside: Path, info: CacheInfo) -> None:
    """Let a new cache folder share the files of one with the same images, where a copy of them lies elsewhere.

    Files are shared as hard links once they were compared byte by byte, so each folder can be deleted on its own.
    """
    wanted = [split.fingerprint for split in info.splits.values()]
    for other in sorted(path.parent for path in aside.parent.glob(f"*/{INFO}") if path.parent != aside):
        there = whole(other)
        if there is None or [split.fingerprint for split in there.splits.values()] != wanted:
            continue
        for name in info.file_bytes:
            if (other / name).is_file() and filecmp.cmp(aside / name, other / name, shallow=False):
                try:
                    os.link(other / name, aside / f".{name}")
                except OSError as error:  # such as a file system without hard links: the copies stay
                    LOG.info("%s shares no files with %s: %s", aside, other, error.strerror)
                    return
                os.replace(aside / f".{name}", aside / name)
        LOG.info("%s shares its files with %s, which has the same images", aside.name, other.name)
        return


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where the images of a split go, sorted by class: image i of the source becomes image `positions[i]`."""

    classes: tuple[str, ...]
    labels: np.ndarray
    positions: np.ndarray
    shape: tuple[int, ...]
    """Shape of the array in the file."""
    starts: np.ndarray
    """Byte at which each stored image starts; the last entry is the end."""
    sizes: np.ndarray | None
    """[M, 2]: heights and widths of images that are stored at full size, else None."""

    @property
    def total_bytes(self) -> int:
        return int(self.starts[-1])


def _plan(split: RawSplit, form: Form, look: Look, full_size: bool) -> _Plan:
    classes, labels = np.unique(np.array(split.class_ids, dtype=str), return_inverse=True)
    order = np.argsort(labels, kind="stable")
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    if full_size:
        sizes = np.empty((len(order), 2), np.int64)
        damaged: dict[str, Exception] = {}
        for position, raw in zip(positions, split.images(), strict=True):
            with _noting(damaged, raw):
                sizes[position] = look.size(raw.open())
        _check_damaged(damaged)
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
            f"the decoded images need {needed / 1e9:.2f} GB, but {folder.parent} has {free / 1e9:.2f} GB free; "
            "make room or set DMF_CACHE to a folder on a larger disk"
        ) from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@dataclass(frozen=True)
class _Seen:
    """What was seen of the images of all splits."""

    sizes: set[tuple[int, int]] = field(default_factory=set)
    noted: Noted = field(default_factory=Noted)


def _write_pixels(path: Path, split: RawSplit, plan: _Plan, form: Form, look: Look, seen: _Seen) -> list[bytes]:
    """Decode the images of `split` into the npy file `path`; add to `seen`; return the images' SHA-256s."""
    digests = [b""] * len(plan.labels)
    damaged: dict[str, Exception] = {}
    with open(path, "w+b") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": plan.shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.flush()
        first_byte = file.tell()
        os.truncate(path, first_byte + plan.total_bytes)

        def store(chunk: list[tuple[int, RawImage]]) -> None:
            for position, raw in chunk:
                with _noting(damaged, raw):
                    pixels, told = look.pixels(raw.open())
                if raw.where in damaged:
                    continue
                seen.noted.add(told, raw.where)
                seen.sizes.add((pixels.shape[1], pixels.shape[0]))
                data = (pixels if plan.sizes is not None else form.square(pixels)).tobytes()
                assert len(data) == plan.starts[position + 1] - plan.starts[position]
                written = os.pwrite(file.fileno(), data, first_byte + int(plan.starts[position]))
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
                digests[position] = hashlib.sha256(data).digest()
            alive()
            os.utime(lock_of(path.parent))  # tells those who wait for it that this process works

        _in_threads(store, _chunks(zip(plan.positions.tolist(), split.images(), strict=True)))
    _check_damaged(damaged)
    return digests


def _where(split: RawSplit, plan: _Plan, place: int) -> str:
    """The file of the image at a place of the stored split."""
    source = int(np.flatnonzero(plan.positions == place)[0])
    return next(itertools.islice(split.images(), source, None)).where


def _in_threads(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call `work(item)` for all items in threads, with a short queue; PIL releases Python's lock while decoding."""
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
def _noting(damaged: dict[str, Exception], raw: RawImage) -> Iterator[None]:
    """Note an error in the block, so that all damaged images are told at once; a fault of the machine ends it."""
    try:
        yield
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        if isinstance(error, MemoryError) or isinstance(error.__cause__, OSError):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise ValueError(f"{raw.where}: cannot be read: {error.strerror}") from error
        damaged[raw.where] = error


def _check_damaged(damaged: dict[str, Exception]) -> None:
    """Raise ValueError if any images could not be decoded."""
    if damaged:
        names = sorted(damaged)
        texts = {where: OBJECT.sub("", str(damaged[where])) for where in names[:DAMAGED_TOLD]}
        told = "; ".join(
            t if t.startswith(where) else f"{where}: cannot be decoded ({t})" for where, t in texts.items()
        )
        more = f"; and {len(damaged) - DAMAGED_TOLD} more images" if len(damaged) > DAMAGED_TOLD else ""
        raise ValueError(f"{told}{more}; expected whole images, such as {', '.join(USUAL)}") from damaged[names[0]]


def _fingerprint(
    classes: tuple[str, ...], labels: np.ndarray, sizes: np.ndarray | tuple[int, ...], digests: np.ndarray
) -> str:
    """Of a split: `sizes` are those of its images, [M, 2], or the shape of the array if all are of one size."""
    parts = hashlib.sha256(json.dumps(classes).encode())
    parts.update(labels.astype("<i8").tobytes())
    parts.update(json.dumps(sizes).encode() if isinstance(sizes, tuple) else sizes.astype("<i8").tobytes())
    parts.update(digests.tobytes())
    return parts.hexdigest()


def _sizes_text(sizes: set[tuple[int, int]]) -> str:
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    ends = [f"{width}x{height}" for width, height in (ordered[0], ordered[-1])]
    return ends[0] if len(ordered) == 1 else "..".join(ends)
