"""Reading batches ahead."""

from __future__ import annotations

import threading

import pytest

from dmf.data.prefetch import prefetched


def test_every_step_in_order_each_once() -> None:
    asked: list[int] = []

    def read(step: int) -> int:
        asked.append(step)
        return 10 * step

    assert list(prefetched(read, range(3, 9, 2))) == [30, 50, 70]
    assert asked == [3, 5, 7]
    assert list(prefetched(read, range(0))) == []


def test_the_next_step_is_read_while_the_present_one_is_in_use() -> None:
    started = [threading.Event() for _ in range(3)]

    def read(step: int) -> int:
        started[step].set()
        return step

    for step in prefetched(read, range(3)):
        if step < 2:
            assert started[step + 1].wait(timeout=10)


def test_an_error_comes_at_its_step() -> None:
    def read(step: int) -> int:
        if step == 2:
            raise OSError("the disk is gone")
        return step

    done = []
    with pytest.raises(OSError, match="the disk is gone"):
        for step in prefetched(read, range(5)):
            done.append(step)
    assert done == [0, 1]
