"""Print the tables of sweeps, and write them to files: `python -m orchestrator.report [SWEEP ...]`."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from dmf.machine.files import write_text
from dmf.records.staleness import Today
from dmf.values import printable, shown
from orchestrator.spec.model import SWEEP_NAME
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from orchestrator.text import complain, plain
from reports import render
from reports.cells import Table
from reports.fill import fill
from reports.tables import TABLES, Records, layout_of

FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "markdown": ("md", render.to_markdown),
    "latex": ("tex", render.to_latex),
    "csv": ("csv", render.to_csv),
    "html": ("html", lambda table: render.to_html([table], render.title(table))),
    "json": ("json", render.to_json),
}
"""Name -> (suffix, function that writes a table)."""

NOTHING_FOUND = 2
"""Exit status if there is no record, or for a mistake in the command."""


class StoredRecords(Records, Protocol):
    """Records that also know the sweeps they were made for."""

    def plans(self) -> dict[str, SweepPlan]:
        """Every sweep's plan, by name."""


def report(
    plan: SweepPlan,
    records: Records,
    output: Path,
    tables: Sequence[str] | None = None,
    formats: Sequence[str] = tuple(FORMATS),
    console: Console | None = None,
    today: Today | None = None,
) -> list[Path]:
    """Print a sweep's tables, write them to `output`/<sweep>, and return the paths.

    `tables` are names in `TABLES`, by default all that the plan has cells for. With `html` among `formats`, an
    index.html holds all of them. Stale records count only if `today` accepts them (None: all count).

    Raises:
        ValueError: for an unknown table, or one without cells in the plan.
    """
    if not re.fullmatch(SWEEP_NAME, plan.name):  # from an untrusted database; the name becomes a path
        raise ValueError(f"a plan is named {shown(plan.name)}; expected lower-case letters, digits, - and _")
    console = console or Console()
    about = printable(plan.about, lines=True)
    filled = [fill(layout_of(name), plan.cells, records, today) for name in tables or planned_tables(plan)]
    paths = []
    for table in filled:
        console.print(render.to_terminal(table, console.width))
        for suffix, write in (FORMATS[name] for name in formats):
            paths.append(output / plan.name / f"table_{table.name}.{suffix}")
            write_text(paths[-1], write(table))
    if "html" in formats and filled:
        paths.append(output / plan.name / "index.html")
        write_text(paths[-1], render.to_html(filled, plan.name, about))
    for path in paths:
        console.print(plain(str(path)), soft_wrap=True)
    return paths


def planned_tables(plan: SweepPlan) -> list[str]:
    """The tables that a plan has cells for, in the paper's order."""
    planned = {cell.table for cell in plan.cells}
    return [name for name in TABLES if name in planned]


def choose(plans: dict[str, SweepPlan], names: Sequence[str], tables: Sequence[str] | None) -> list[SweepPlan]:
    """The named sweeps, or all, that have a table (one of `tables`, if given)."""
    unknown = [name for name in names if name not in plans]
    if unknown:
        raise ValueError(f"no sweep {', '.join(map(repr, unknown))}; there are {', '.join(sorted(plans))}")
    for name in tables or ():
        layout_of(name)
    asked = [plans[name] for name in names or sorted(plans)]
    found = [plan for plan in asked if any(cell.table in (tables or TABLES) for cell in plan.cells)]
    if not found:
        which = f"table {' or '.join(tables)}" if tables else "a table (searches fill none)"
        raise ValueError(f"none of {', '.join(plan.name for plan in asked)} has cells for {which}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _main(options)
    except (ValueError, OSError) as error:
        complain(f"report: {error}")
        return NOTHING_FOUND


def _main(options: argparse.Namespace) -> int:
    records = _records(options)
    plans = records.plans()
    if not plans:
        where = options.tracking_uri or f"{options.store}/sweeps/*/plan.json"
        raise ValueError(
            f"found no sweep ({where}); run one first (python -m orchestrator.sweep sweeps/demo.yaml), "
            "or give another --store"
        )
    today = Today(options.accept_stale)
    if isinstance(records, Ledger):
        records.index.look_once()
    for plan in choose(plans, options.sweeps, options.table):
        tables = [name for name in planned_tables(plan) if name in (options.table or TABLES)]
        report(plan, records, options.output, tables, options.formats, today=today)
    return 0


def _records(options: argparse.Namespace) -> StoredRecords:
    if options.tracking_uri is None:
        return Ledger.at(options.store)
    from orchestrator.tracking.reader import MLflowRecords, store_beside  # opening URLs takes longer than a small table

    store = store_beside(options.tracking_uri)
    return Ledger.at(str(store)) if store else MLflowRecords(options.tracking_uri)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.report", description=__doc__)
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="names of sweeps; default: all in the store")
    parser.add_argument("--store", default="runs", help="where sweeps keep records (%(default)s)")
    parser.add_argument(
        "--tracking-uri",
        help="read plans and records from this MLflow server or database, or the store beside it",
    )
    parser.add_argument("--output", type=Path, default=Path("results"), help="folder to write to (%(default)s)")
    parser.add_argument("--table", nargs="+", metavar="TABLE", help=f"only these tables, of {', '.join(TABLES)}")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS), help="default: all")
    parser.add_argument(
        "--accept-stale",
        action="store_true",
        help="use records made by other code or from other images than today's; the tables' notes name them",
    )
    return parser


if __name__ == "__main__":
    gc.disable()  # with thousands of records it takes a tenth of the time, and the process ends soon
    sys.exit(main())
