"""Whether a sweep of many trainings costs no more per training than one of few: 1,000 trivial trainings and 100.

`python -m orchestrator.sweep` runs as users start it, two trainings at a time, in the order few, many, few. The wall
time per training of the large sweep is compared with the mean of the two small ones, so that a machine that slows down
meanwhile makes no difference. The driver's own costs are read from the system while it runs: its peak memory, and its
processor time, which does not depend on other work on the machine.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import AVX512, Report, cores, main
from benchmarks.sweep import AT_A_TIME, SPEC, listen, sweep_command
from dmf.data.sets import open_for
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan

FEW, MANY = 100, 1_000
SHORT_FEW, SHORT_MANY = 50, 200
AT_MOST = 1.2
MEMORY = 2**30
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Moment:
    """The moment at which a training has ended."""

    seconds: float
    """Seconds since the command's start."""
    driver_seconds: float
    """Processor time of the driver until then, over all threads."""
    driver_peak: int
    """Peak resident memory of the driver until then, in bytes."""


@dataclass(frozen=True)
class Course:
    """The course of a sweep from its start to its end."""

    trainings: tuple[Moment, ...]
    seconds: float
    """Seconds until the end of the command, including tables and MLflow."""
    driver_peak: int

    @property
    def per_training(self) -> float:
        """Wall time per training, without the first ones that run at a time, in which workers import what they need."""
        return (self.seconds - self.trainings[AT_A_TIME - 1].seconds) / (len(self.trainings) - AT_A_TIME)

    def driver_per_training(self, part: slice) -> float:
        """Processor time of the driver per training, over `part` of the trainings."""
        those = self.trainings[part]
        return (those[-1].driver_seconds - those[0].driver_seconds) / (len(those) - 1)


def run(report: Report) -> None:
    """Memory and time of a sweep's driver, for 1,000 trivial trainings and for 100."""
    few, many = (SHORT_FEW, SHORT_MANY) if report.settings.short else (FEW, MANY)
    with TemporaryDirectory(prefix="bench-") as place:
        courses = [of_sweep(Path(place) / str(number), count) for number, count in enumerate((few, many, few))]
    tell(report, courses)


def tell(report: Report, courses: list[Course]) -> None:
    """Report the claims, and where the driver's time goes."""
    rows = [
        {
            "trainings": len(course.trainings),
            "command s": course.seconds,
            "per training ms": 1e3 * course.per_training,
            "driver's processor ms per training, first half": 1e3 * course.driver_per_training(first_half(course)),
            "second half": 1e3 * course.driver_per_training(second_half(course)),
            "after the last s": course.seconds - course.trainings[-1].seconds,
            "driver's peak MiB": course.driver_peak / 2**20,
        }
        for course in courses
    ]
    report.table("sweeps in the order in which they ran", rows)
    before, many, after = courses
    count = len(many.trainings)
    report.claim(
        f"wall time per training of {count:,} trainings over that of {len(before.trainings)}",
        2 * many.per_training / (before.per_training + after.per_training),
        at_most=AT_MOST,
        unit="x",
        note=f"{AT_A_TIME} at a time, to the command's end, without the start-up",
        seen=AVX512,
    )
    report.claim(
        f"driver's peak memory with {count:,} trainings",
        many.driver_peak / 2**20,
        at_most=MEMORY / 2**20,
        unit=" MiB",
        note="resident, all of its threads; Ray's own processes are not in it",
    )


def first_half(course: Course) -> slice:
    """The first half of the trainings, without those that wait for workers."""
    return slice(AT_A_TIME, len(course.trainings) // 2)


def second_half(course: Course) -> slice:
    """The second half of the trainings."""
    return slice(len(course.trainings) // 2, None)


def of_sweep(folder: Path, count: int) -> Course:
    """Run a sweep of `count` trivial trainings in its own folder."""
    folder.mkdir()
    spec = folder / "trivial.yaml"
    spec.write_text(SPEC.format(cpu=cores() / AT_A_TIME, seeds=list(range(count))))
    open_for(plan(read_spec(spec, ())).trials()[0].config)  # draws the images once
    return followed(sweep_command(spec, folder), folder, count)


def followed(command: list[str], folder: Path, count: int) -> Course:
    """Run a sweep of `count` trainings, and measure its driver whenever one ends."""
    started = time.perf_counter()
    moments: list[Moment] = []
    peak = 0

    def heard(line: str, driver: int) -> None:
        nonlocal peak
        peak = max(peak, peak_of(driver))
        if ": done," in line:
            moments.append(Moment(time.perf_counter() - started, processor_time_of(driver), peak))

    listen(command, folder, heard, expected=lambda: len(moments) == count)
    return Course(tuple(moments), time.perf_counter() - started, peak)


def peak_of(process: int) -> int:
    """Peak resident memory of a process in bytes; 0 once it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def processor_time_of(process: int) -> float:
    """Processor seconds of a process, in user and kernel mode."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


if __name__ == "__main__":
    sys.exit(main("scale", run))
