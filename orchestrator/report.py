"""Print the tables of sweeps, and write them to files: `python -m orchestrator.report [SWEEP ...]`."""

from __future__ import annotations

import argparse
import gc
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from rich.console import Console

from dmf.machine.files import write_text
from dmf.records.staleness import Today
from dmf.values import printable, shown
from orchestrator.spec.model import SWEEP_NAME
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.beside import runs_beside
from reports.cells import Table
from reports.fill import fill
from reports.render.data import to_csv, to_json
from reports.render.latex import to_latex, to_latex_column
from reports.render.markdown import to_markdown
from reports.render.page import Page
from reports.render.summary import Claim
from reports.render.terminal import to_terminal
from reports.tables import TABLES, Records, layout_of

FORMATS: dict[str, tuple[str, Callable[[Table], str]]] = {
    "markdown": ("md", to_markdown),
    "latex": ("tex", to_latex),
    "latex-column": ("column.tex", to_latex_column),
    "csv": ("csv", to_csv),
    "json": ("json", to_json),
}
"""Name -> (suffix, function that writes a table)."""
HTML = "html"
"""The format that also has a page of all tables, whose figures are drawn once."""

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
    formats: Sequence[str] = (*FORMATS, HTML),
    console: Console | None = None,
    today: Today | None = None,
    runs: Mapping[str, str] | None = None,
    claims: Sequence[Claim] = (),
) -> list[Path]:
    """Print a sweep's tables, write them to `output`/<sweep>, and return the paths.

    `tables` are names in `TABLES`, by default all that the plan has cells for. With `html` among `formats`, an
    index.html holds all of them, with `claims` and the MLflow runs of trainings (`runs`, by key). Stale records count
    only if `today` accepts them (None: all count).

    Raises:
        ValueError: for an unknown table, one without cells in the plan, or a record that contradicts itself.
    """
    if not re.fullmatch(SWEEP_NAME, plan.name):  # from an untrusted database; the name becomes a path
        raise ValueError(f"a plan is named {shown(plan.name)}; expected lower-case letters, digits, - and _")
    console = console or Console()
    about = "\n".join(map(printable, plan.about.splitlines()))
    filled = [fill(layout_of(name), plan.cells, records, today) for name in tables or planned_tables(plan)]
    plain = console.color_system is None or console.no_color
    for table in filled:
        console.print(to_terminal(table, console.width, plain))
    texts = {
        f"table_{table.name}.{suffix}": write(table)
        for table in filled
        for suffix, write in (FORMATS[name] for name in formats if name in FORMATS)
    }
    if HTML in formats and filled:
        page = Page(filled, records.curves, runs)
        texts |= {f"table_{table.name}.html": page.of(number) for number, table in enumerate(filled)}
        texts["index.html"] = page.of_all(plan.name, about, claims)
    paths = [output / plan.name / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    for path in paths:
        console.print(str(path), highlight=False, markup=False, soft_wrap=True)
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
        print(f"report: {error}", file=sys.stderr)
        return NOTHING_FOUND


def _main(options: argparse.Namespace) -> int:
    records, runs = _records(options)
    plans = records.plans()
    if not plans:
        where = options.tracking_uri or f"{options.store}/sweeps/*/plan.json"
        raise ValueError(
            f"found no sweep ({where}); run one first (python -m orchestrator.sweep sweeps/demo.yaml), "
            "or give another --store"
        )
    today = Today(options.accept_stale)
    for plan in choose(plans, options.sweeps, options.table):
        tables = [name for name in planned_tables(plan) if name in (options.table or TABLES)]
        report(plan, records, options.output, tables, options.formats, today=today, runs=runs)
    return 0


def _records(options: argparse.Namespace) -> tuple[StoredRecords, dict[str, str]]:
    """The records, and the MLflow run of each training's key as far as they are known."""
    if options.tracking_uri is None:
        ledger = Ledger.at(options.store)
        return ledger, runs_beside(ledger)
    from orchestrator.tracking.reader import MLflowRecords, store_beside  # opening URLs takes longer than a small table

    if store := store_beside(options.tracking_uri):
        ledger = Ledger.at(str(store))
        return ledger, runs_beside(ledger)
    records = MLflowRecords(options.tracking_uri)
    return records, records.runs()


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
    parser.add_argument("--formats", nargs="+", choices=(*FORMATS, HTML), default=[*FORMATS, HTML], help="default: all")
    parser.add_argument(
        "--accept-stale",
        action="store_true",
        help="use records made by other code or from other images than today's; the tables' notes name them",
    )
    return parser


if __name__ == "__main__":
    gc.disable()  # with thousands of records it takes a tenth of the time, and the process ends soon
    sys.exit(main())
