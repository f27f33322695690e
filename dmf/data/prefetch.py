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
    with ThreadPoolExecutor(1, "dmf-prefetch") as thread:
        following = thread.submit(read, steps[0]) if steps else None
        for step in steps:
            present, following = following, thread.submit(read, step + steps.step) if step != steps[-1] else None
            yield present.result()
