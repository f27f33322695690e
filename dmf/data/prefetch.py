"""Reads the next batch while the present one is in use."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(read: Callable[[int], T], steps: range) -> Iterator[T]:
    """Yield `read(step)` for each of `steps`; another thread reads each one while the one before is in use.

    An exception in `read` is raised here, at its step.
    """
    if not steps:
        return
    with ThreadPoolExecutor(1, "dmf-prefetch") as thread:
        present = thread.submit(read, steps[0])
        for step in steps[1:]:
            following = thread.submit(read, step)
            yield present.result()
            present = following
        yield present.result()
