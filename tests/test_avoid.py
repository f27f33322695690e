"""Which nodes trials are kept away from, and for how long. That Ray heeds it is in `test_nodes.py`."""

from __future__ import annotations

import pytest

from orchestrator.running.avoid import LABEL, LONGEST_S, Avoided

THERE = {"10.0.0.1": "a1", "10.0.0.2": "b2", "10.0.0.3": "c3"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def avoided(clock: Clock) -> Avoided:
    return Avoided(lambda: THERE, clock)


def test_the_trial_itself_goes_elsewhere_and_others_after_a_second_failure(avoided: Avoided) -> None:
    assert avoided.selector() == {}
    avoided.failed("10.0.0.2")
    assert avoided.selector() == {} and avoided.selector(also="10.0.0.2") == {LABEL: "!in(b2)"}
    avoided.failed("10.0.0.2")
    assert avoided.selector() == {LABEL: "!in(b2)"}
    assert avoided.selector(also="10.0.0.1") == {LABEL: "!in(a1,b2)"}


def test_it_backs_off_and_a_success_ends_it(avoided: Avoided, clock: Clock) -> None:
    for pause_s in (60.0, 120.0, 240.0):
        for _ in range(2 if pause_s == 60.0 else 1):
            avoided.failed("10.0.0.3")
        clock.now += pause_s - 1
        assert avoided.selector() == {LABEL: "!in(c3)"}
        clock.now += 2
        assert avoided.selector() == {}
    for _ in range(20):
        avoided.failed("10.0.0.3")
    clock.now += LONGEST_S + 1
    assert avoided.selector() == {}, "for ever"
    avoided.succeeded("10.0.0.3")
    avoided.failed("10.0.0.3")
    assert avoided.selector() == {}


def test_some_node_is_left(avoided: Avoided) -> None:
    for address in THERE:
        avoided.failed(address)
        avoided.failed(address)
    assert avoided.selector() == {}
    alone = Avoided(lambda: {"10.0.0.1": "a1"})
    assert alone.selector(also="10.0.0.1") == {}


def test_a_node_that_is_gone_or_unknown_is_not_asked_for(avoided: Avoided) -> None:
    for address in ("10.0.0.9", ""):
        avoided.failed(address)
        avoided.failed(address)
        assert avoided.selector(also=address) == {}
