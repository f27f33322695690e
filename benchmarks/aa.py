"""An A/A test on really trained models: does a table call two rows of one configuration better or worse?

`sweeps/aa.yaml` trains two configurations with six seeds each. Each configuration is then read as two rows of three
seeds, in all ten ways to split the six, through the same code as any table. Whatever it says of these rows but "same"
and "undecided" is false.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.harness import Report, main
from dmf.config import ExperimentConfig
from dmf.records.facts import Ended, Tested
from orchestrator import sweep
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import plan
from orchestrator.store.ledger import Ledger
from reports.fill import fill
from reports.layouts import TableLayout
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell

FILE = Path(__file__).resolve().parents[1] / "sweeps" / "aa.yaml"
ROWS = TableLayout(name="aa", title="Two rows that are one", rows="training.warmup_epochs", baseline=1)
"""The rows' names; both have the records of trainings with one warm-up epoch."""
FALSE = (Verdict.BETTER, Verdict.WORSE)
SHORT = ["training.epochs=1", "training.warmup_epochs=0", "training.episodes_per_epoch=8", "evaluation.episodes=50"]


@dataclass
class Renamed:
    """Implements `Records`: a training's record is another's, under the name that is asked for."""

    ledger: Ledger
    of: dict[str, str]
    """Asked key -> key in the store."""

    def how_ended(self, key: str) -> Ended | None:
        return self.ledger.how_ended(self.of[key])

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        tested = self.ledger.how_tested(self.of[training_key], evaluation_key)
        return tested and dataclasses.replace(tested, name=f"{training_key}/{evaluation_key}")

    def running(self, key: str) -> bool:
        return False


def splits(seeds: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to split an even number of seeds into two halves."""
    first, *others = seeds
    for some in itertools.combinations(others, len(seeds) // 2 - 1):
        half = (first, *some)
        yield half, tuple(seed for seed in seeds if seed not in half)


def as_two_rows(cell: PlannedCell, halves: tuple[tuple[int, ...], ...], ledger: Ledger) -> dict[str, object]:
    """What a table says of the two halves of a cell's seeds."""
    places = tuple(range(len(halves[0])))
    rows = [_row(cell.config, warmup) for warmup in (1, 2)]
    of = {
        asked: cell.of_seed(seed).key
        for row, half in zip(rows, halves, strict=True)
        for asked, seed in zip(row.keys(places), half, strict=True)
    }
    cells = [PlannedCell(table="aa", config=row, evaluation=cell.evaluation, seeds=places) for row in rows]
    (section,) = fill(ROWS, cells, Renamed(ledger, of)).sections
    (found,) = [each.to_baseline for each in section.cells if each.to_baseline]
    assert found.difference is not None and found.low is not None and found.high is not None
    return {
        "alignment": cell.config.at("model.alignment"),
        "row 1": " ".join(map(str, halves[0])),
        "row 2": " ".join(map(str, halves[1])),
        "difference": 100 * found.difference,
        "low": 100 * found.low,
        "high": 100 * found.high,
        "verdict": str(found.verdict),
    }


def _row(config: ExperimentConfig, warmup: int) -> ExperimentConfig:
    return config.replace(training__warmup_epochs=warmup, training__epochs=max(config.training.epochs, 3))


def run(report: Report) -> None:
    """Verdicts on two rows that are one configuration, really trained with six seeds."""
    overrides = SHORT if report.settings.short else []
    planned = plan(read_spec(FILE, overrides))
    with TemporaryDirectory(prefix="bench-") as place:
        store = f"{place}/store"
        status = sweep.main([str(FILE), *overrides, "--store", store, "--results", f"{place}/results"])
        if status:
            raise RuntimeError(f"{FILE.name} ended with status {status}")
        ledger = Ledger.at(store)
        rows = [as_two_rows(cell, halves, ledger) for cell in planned.cells for halves in splits(cell.seeds)]
    report.table("one configuration as two rows of three seeds", rows)
    told = 100 * sum(row["verdict"] in FALSE for row in rows) / len(rows)
    report.claim("false verdicts in an A/A test", told, at_most=5, unit=" %", note=f"of {len(rows)} tables")


if __name__ == "__main__":
    sys.exit(main("aa", run))
