"""A store's results as pandas data frames, for analyses that the tables do not make.

>>> from orchestrator import results
>>> results.frame("runs").groupby("row")["accuracy"].mean()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmf.records.facts import Ended, Tested
from dmf.values import Damaged
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.archive import Archive
from orchestrator.store.ledger import Ledger
from reports.collect import may_be_tested
from reports.layouts import TableLayout
from reports.tables import Column, PlannedCell

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "sweep",
    "table",
    "row",
    "method",
    "backbone",
    "dataset",
    "way",
    "shot",
    "split",
    "seed",
    "state",
    "accuracy",
    "ci95",
    "episodes",
    "parameters",
    "training_seconds",
    "training_key",
    "evaluation_key",
    "bank",
)
"""One row per cell and seed. Accuracies are fractions; `ci95` is the half-width over episodes; `bank` names the test
episodes and their images: rows of one bank can be compared episode by episode."""


def frame(store: str = "runs", sweeps: Sequence[str] | None = None, settings: bool = False) -> pd.DataFrame:
    """One row per cell and seed that the store's sweeps plan, done or not, with the columns COLUMNS.

    Args:
        store: a folder, `s3://` or `gs://`, or an archive.
        sweeps: their names; None: all.
        settings: add a column for each parameter (`model.groups`, ...).

    Raises:
        ValueError: there is no such store or sweep.
    """
    import pandas as pd

    ledger, plans = _opened(store, sweeps)
    found = [row for plan in plans for row in _rows(plan, ledger, settings)]
    return pd.DataFrame(found, columns=None if settings and found else list(COLUMNS))


def episodes(store: str = "runs", sweeps: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per test episode of each training: `training_key`, `evaluation_key`, `episode`, `accuracy`.

    A training that several cells share is there once, and a damaged test not at all. Join it with `frame` on both keys.
    """
    import pandas as pd

    ledger, plans = _opened(store, sweeps)
    keys = dict.fromkeys(
        (key, cell.evaluation.key) for plan in plans for cell in plan.cells for key in cell.training_keys
    )
    parts = []
    for training_key, evaluation_key in keys:
        try:
            tested = _tested(ledger, ledger.how_ended(training_key), training_key, evaluation_key)
        except Damaged:  # `frame` says so
            continue
        if tested:
            part = pd.DataFrame({"episode": range(len(tested.accuracies)), "accuracy": tested.accuracies})
            parts.append(part.assign(training_key=training_key, evaluation_key=evaluation_key))
    columns = ["training_key", "evaluation_key", "episode", "accuracy"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _opened(store: str, sweeps: Sequence[str] | None) -> tuple[Ledger | Archive, list[SweepPlan]]:
    ledger = Archive(store) if Path(store).is_file() else Ledger.existing(store)
    plans = ledger.plans()
    if unknown := [name for name in sweeps or () if name not in plans]:
        raise ValueError(f"no sweep {', '.join(map(repr, unknown))} in {store}; there are {', '.join(sorted(plans))}")
    return ledger, [plans[name] for name in sweeps or sorted(plans)]


def _tested(ledger: Ledger | Archive, ended: Ended | None, training_key: str, evaluation_key: str) -> Tested | None:
    """The test of a training, which counts unless the training failed or diverged, as in tables."""
    return ledger.how_tested(training_key, evaluation_key) if may_be_tested(ended) else None


def _rows(plan: SweepPlan, ledger: Ledger | Archive, settings: bool) -> Iterator[dict[str, Any]]:
    layouts = {layout.name: layout for layout in plan.layouts}
    for cell in plan.cells:
        for seed, key in zip(cell.seeds, cell.training_keys, strict=True):
            row = _row(plan.name, layouts[cell.table], cell, seed, key, ledger)
            yield row | cell.of_seed(seed).flat() if settings else row


def _row(
    sweep: str, layout: TableLayout, cell: PlannedCell, seed: int, key: str, ledger: Ledger | Archive
) -> dict[str, Any]:
    column = Column.of(cell)
    try:
        ended = ledger.how_ended(key)
        tested = _tested(ledger, ended, key, cell.evaluation.key)
        state: str = "done" if tested else ended.outcome if ended else "running" if ledger.running(key) else "missing"
    except Damaged:
        ended, tested, state = None, None, "damaged"
    values = (
        sweep,
        cell.table,
        layout.label(cell.config),
        cell.config.model.method,
        cell.config.model.backbone_name,
        column.dataset,
        column.way,
        column.shot,
        column.split,
        seed,
        "not evaluated" if state == "finished" else state,
        tested.accuracy if tested else None,
        tested.ci95 if tested else None,
        len(tested.accuracies) if tested else None,
        ended.parameters if ended else None,
        ended.seconds if ended else None,
        key,
        cell.evaluation.key,
        f"{tested.bank} of {tested.data_fingerprint[:16]}" if tested else None,
    )
    return dict(zip(COLUMNS, values, strict=True))
