"""How long it takes to plan a sweep of 10,000 trainings: `python -m orchestrator.sweep SPEC --plan`.

The whole command is timed, in a fresh process each time, on an empty store: one sweep of 80 configurations and 125
seeds or more, and one of 10,000 different learning rates, each its own configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from benchmarks.harness import AVX512, Report, alternate, main, median

TRAININGS, SHORT_TRAININGS = 10_000, 1_000
AT_MOST = 5.0
ROOT = Path(__file__).resolve().parents[1]
GROUPS, ALIGNMENTS = [1, 64, 160, 320], [0, 1, 2, 3, "ode"]


def run(report: Report) -> None:
    """Seconds of `python -m orchestrator.sweep --plan` for 10,000 trainings."""
    count = SHORT_TRAININGS if report.settings.short else TRAININGS
    with TemporaryDirectory(prefix="bench-") as place:
        room = Path(place)
        files = {name: write(room, spec) for name, spec in specs(count).items()}
        times = alternate({name: command(file, count) for name, file in files.items()}, report.settings.repeats)
        report.times(f"plan of {count:,} trainings", times)
        for name, seconds in times.items():
            report.claim(
                f"plan of {count:,} trainings, {name}", median(seconds), at_most=AT_MOST, unit=" s", seen=AVX512
            )
        rows = [{"sweep": name, **stages(file)} for name, file in files.items()]
    report.table("where the time goes, s (another run of each, in stages)", rows)


def specs(count: int) -> dict[str, dict]:
    """Two sweeps of `count` trainings."""
    grid = {
        "model.groups": GROUPS,
        "model.alignment": ALIGNMENTS,
        "episodes.shot": [1, 5],
        "model.last_pooling": [False, True],
    }
    # Without alignment, the number of groups has no effect, so 80 combinations make 64 + 4 trainings.
    distinct = 4 * 4 * 4 + 4
    rates = [round(0.01 + 0.99 * number / count, 6) for number in range(count)]
    return {
        "seeds": sweep({"table": "2c", "grid": grid}, seeds=list(range(-(-count // distinct)))),
        "learning rates": sweep({"table": "2c", "grid": {"training.learning_rate": rates}}, seeds=[0]),
    }


def sweep(part: dict, seeds: list[int]) -> dict:
    return {"name": "many", "seeds": seeds, "set": {"data.root": "/images"}, "parts": [part]}


def write(room: Path, spec: dict) -> Path:
    file = room / f"sweep{len(list(room.iterdir()))}.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def command(file: Path, count: int) -> Callable[[], None]:
    """A function that runs the command as users do, and checks that the plan has all trainings."""

    def call() -> None:
        line = [sys.executable, "-m", "orchestrator.sweep", str(file), "--plan"]
        done = subprocess.run(line, cwd=file.parent, env=environment(), stdout=subprocess.PIPE, check=True, text=True)
        planned = int(done.stdout.split(" distinct (")[0].split()[-1])
        if planned < count:
            raise RuntimeError(f"{file} plans {planned} trainings, expected at least {count}")

    return call


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


STAGES = """
import json, sys, time
marks = [("", time.perf_counter())]
def mark(name): marks.append((name, time.perf_counter()))
from pathlib import Path
from orchestrator import sweep
from orchestrator.costs.describe import describe
from orchestrator.costs.preview import preview
from dmf.records.staleness import Today
mark("imports")
spec = sweep.read_spec(sys.argv[1])
mark("file, validated")
planned = sweep.plan(spec)
planned.trials()
mark("plan")
ledger = sweep.Ledger(Path("runs"))
preview(spec, planned, ledger)
mark("estimates and doubts")
describe(spec, planned, ledger, Today())
mark("the same, states and text")
print(json.dumps({name: end - start for (_, start), (name, end) in zip(marks, marks[1:])}))
"""


def stages(file: Path) -> dict[str, float]:
    """Seconds that each stage of planning takes."""
    line = [sys.executable, "-c", STAGES, str(file)]
    done = subprocess.run(line, cwd=file.parent, env=environment(), stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main("plan", run))
