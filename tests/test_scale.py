"""The driver figures that `benchmarks.scale` computes, and the stages of `benchmarks.plan`. No test asserts a time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import Report, Settings
from benchmarks.plan import ROOT, stages
from benchmarks.scale import Course, Moment, first_half, peak_of, processor_time_of, second_half, tell

MIB = 2**20


def course(count: int, seconds_each: float, peak: int = 100 * MIB) -> Course:
    """Trainings that end every `seconds_each`, half of which the driver computes, after a start-up of 10 s."""
    moments = [Moment(10 + n * seconds_each, 5 + n * seconds_each / 2, peak) for n in range(count)]
    return Course(tuple(moments), moments[-1].seconds + 1, peak)


def test_a_training_costs_what_follows_the_start_up() -> None:
    ten = course(10, 2.0)
    assert ten.per_training == pytest.approx((8 * 2.0 + 1) / 8)
    assert ten.driver_per_training(first_half(ten)) == ten.driver_per_training(second_half(ten)) == pytest.approx(1.0)


@pytest.mark.parametrize(("many_seconds", "peak", "held"), [(2.0, MIB, [True, True]), (3.0, 2**31, [False, False])])
def test_claims_hold_many_to_the_mean_of_the_few_around(many_seconds: float, peak: int, held: list[bool]) -> None:
    report = Report("scale", Settings(short=True))
    tell(report, [course(10, 1.0), course(100, many_seconds, peak), course(10, 3.0)])
    assert [claim.holds for claim in report.claims] == held
    per_training = [(98 * many_seconds + 1) / 98, (8 * 1.0 + 1) / 8, (8 * 3.0 + 1) / 8]
    assert report.claims[0].measured == pytest.approx(2 * per_training[0] / (per_training[1] + per_training[2]))


def test_memory_and_processor_time_of_another_process_are_seen() -> None:
    script = f"data = b'x' * {200 * MIB}; del data; sum(range(10**7)); print('there', flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin and child.stdout and child.stdout.readline() == "there\n"
    assert 200 * MIB < peak_of(child.pid) < 300 * MIB
    assert processor_time_of(child.pid) > 0.02
    child.communicate("\n", timeout=120)
    assert child.returncode == 0


def test_a_plan_is_timed_in_its_stages(tmp_path: Path) -> None:
    file = tmp_path / "demo.yaml"
    shutil.copyfile(ROOT / "sweeps" / "demo.yaml", file)
    found = stages(file)
    assert next(iter(found)) == "imports" and len(found) == 5 and all(seconds >= 0 for seconds in found.values())
