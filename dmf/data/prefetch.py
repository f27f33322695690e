"""Reading ahead: the next batch while the present one is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def prefetched(read: Callable[[int], T], steps: range) -> Iterator[T]:
    """`read(step)` for each of `steps`, in order, each read in another thread while the one before is in use.

    What `read` raises is raised here, at its step.
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
