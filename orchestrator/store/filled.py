"""A sweep's tables and claims, filled from its records: the same for the report, MLflow and any other reader."""

from __future__ import annotations

from collections.abc import Sequence

from dmf.records.staleness import Today
from dmf.values import shown
from orchestrator.spec.plan import SweepPlan
from reports.cells import Table
from reports.claims import CLAIMS, Claim
from reports.fill import Gathered, gather, tabulate
from reports.judge import Judged, judge
from reports.layouts import TABLES, TableLayout
from reports.looks import Looks, agreed
from reports.tables import Records


def filled(
    plan: SweepPlan,
    records: Records,
    today: Today | None = None,
    looks: Looks | None = None,
    tables: Sequence[str] | None = None,
) -> tuple[list[Table], tuple[Judged, ...]]:
    """The tables named in `tables`, by default all that the plan has cells for, and all claims about its tables.

    Claims do not depend on `tables`: their p-values are adjusted for all that the plan can test. Stale records count
    only if `today` accepts them (None: all count). `looks` are those that the sweep has taken; this takes none. Raises
    ValueError for an unknown table.
    """
    chosen = _chosen(plan, tables)
    cells = plan.asked(looks).cells
    own, earlier = (agreed(plan.rule, looks), None) if plan.rule else (None, looks)
    gathered = {layout.name: gather(layout, cells, records, today, own, earlier) for layout in plan.layouts}
    every = list(gathered.values())
    return [tabulate(gathered[layout.name]) for layout in chosen], judge(_claims(plan, every), every)


def _claims(plan: SweepPlan, tables: Sequence[Gathered]) -> list[Claim]:
    """The paper's claims, if one of its tables is among `tables`, and those of the plan about them."""
    names = {table.layout.name for table in tables}
    paper = CLAIMS if names & TABLES.keys() else ()
    return [*paper, *(claim for claim in plan.claims if claim.table in names)]


def _chosen(plan: SweepPlan, tables: Sequence[str] | None) -> list[TableLayout]:
    known = {layout.name: layout for layout in plan.layouts}
    unknown = [name for name in tables or () if name not in known]
    if unknown:
        raise ValueError(
            f"sweep {plan.name} has no cells for table {', '.join(map(shown, unknown))}; it has {', '.join(known)}"
        )
    return [known[name] for name in tables] if tables else list(plan.layouts)
