"""Print the tables of sweeps, and write them to files: `python -m orchestrator.report [SWEEP ...]`.

`--diff A B` compares two stores or archives instead: what changed in every cell that both have, by how much, and
whether that is more than chance.
"""

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
from dmf.machine.output import run
from dmf.machine.paths import address_option, path_option
from dmf.machine.trouble import sentence
from dmf.records.staleness import Today
from dmf.values import Damaged, printable, shown
from orchestrator.differences import FORMATS_OF_DIFF, Source, report_diff
from orchestrator.spec.model import SWEEP_NAME
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.archive import Archive
from orchestrator.store.filled import filled
from orchestrator.store.home import settle
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.text import complain, plain
from orchestrator.tracking.beside import runs_beside
from orchestrator.tracking.uris import usable, without_password
from reports.cells import Table
from reports.judge import Judged
from reports.looks import Looks
from reports.owners import Owner, check_owner, note_files
from reports.render import claims as render_claims
from reports.render.data import to_csv, to_json
from reports.render.latex import to_latex, to_latex_column
from reports.render.markdown import to_markdown
from reports.render.page import Page
from reports.render.terminal import to_terminal
from reports.tables import Records

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

CLAIMS_IN: dict[str, tuple[str, Callable[[Sequence[Judged]], str]]] = {
    "markdown": ("md", render_claims.to_markdown),
    "csv": ("csv", render_claims.to_csv),
    "json": ("json", render_claims.to_json),
}
"""The same for claims, which an HTML page holds beside the tables."""

STORE = "runs"
"""The store that is read by default."""
NOTHING_FOUND = 2
"""Exit status if there is no record, or a sweep's looks are damaged, or for a mistake in the command."""


class StoredRecords(Records, Protocol):
    """Records that also know the sweeps they were made for."""

    def plans(self) -> dict[str, SweepPlan]:
        """Every sweep's plan, by name."""

    def looks(self, name: str) -> Looks | None:
        """The looks that a sweep has taken; None if it has taken none."""


def report(
    plan: SweepPlan,
    records: Records,
    output: Path,
    tables: Sequence[str] | None = None,
    formats: Sequence[str] = (*FORMATS, HTML),
    console: Console | None = None,
    today: Today | None = None,
    looks: Looks | None = None,
    runs: Mapping[str, str] | None = None,
    owner: Owner | None = None,
) -> list[Path]:
    """Write a sweep's tables and claims to `output`/<sweep>, print them, and return the paths.

    `tables` are names, by default all that the plan has cells for. Of the claims, those about `tables` are printed, and
    all are written. With `html` among `formats`, an index.html holds all tables, if all are asked for, with the MLflow
    runs of trainings (`runs`, by key). Stale records count only if `today` accepts them (None: all count). `looks` are
    those that the sweep has taken; this takes none. The folder is of `owner` alone, and files that its earlier reports
    wrote about tables that are no longer in the plan are deleted.

    Raises:
        ValueError: for an unknown table, or one without cells in the plan; if the folder is another owner's.
    """
    if not re.fullmatch(SWEEP_NAME, plan.name):  # from an untrusted database; the name becomes a path
        raise ValueError(f"a plan is named {shown(plan.name)}; expected lower-case letters, digits, - and _")
    console = console or Console()
    about = printable(plan.about, lines=True)
    tabulated, claims = filled(plan, records, today, looks, tables)
    whole = len(tabulated) == len(plan.layouts)
    texts = {
        f"table_{table.name}.{suffix}": write(table)
        for table in tabulated
        for suffix, write in (FORMATS[name] for name in formats if name in FORMATS)
    }
    if claims:
        chosen = [CLAIMS_IN[name] for name in formats if name in CLAIMS_IN]
        texts |= {f"claims.{suffix}": write_claims(claims) for suffix, write_claims in chosen}
    if HTML in formats and tabulated:
        page = Page(tabulated, records.curves, runs)
        texts |= {f"table_{table.name}.html": page.of(number) for number, table in enumerate(tabulated)}
        if whole:
            texts["index.html"] = page.of_all(plan.name, about, render_claims.for_page(claims))
    folder = output / plan.name
    if owner is not None:
        check_owner(folder, owner)
        note_files(folder, owner, texts, _possible(plan))
    paths = [folder / name for name in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    bare = console.color_system is None or console.no_color
    for table in tabulated:
        console.print(to_terminal(table, console.width, bare))
    if about_these := [claim for claim in claims if whole or claim.table in {table.name for table in tabulated}]:
        console.print(render_claims.to_terminal(about_these))
    for path in paths:
        console.print(plain(str(path)), soft_wrap=True)
    return paths


def _possible(plan: SweepPlan) -> set[str]:
    """Names of all files that reports of a plan write."""
    suffixes = [*(suffix for suffix, _ in FORMATS.values()), HTML]
    tables = {f"table_{layout.name}.{suffix}" for layout in plan.layouts for suffix in suffixes}
    return tables | {f"claims.{suffix}" for suffix, _ in CLAIMS_IN.values()} | {"index.html"}


def choose(plans: dict[str, SweepPlan], names: Sequence[str], tables: Sequence[str] | None) -> list[SweepPlan]:
    """The named sweeps, or all, that have a table (one of `tables`, if given)."""
    unknown = [name for name in names if name not in plans]
    if unknown:
        raise ValueError(f"no sweep {', '.join(map(repr, unknown))}; there are {', '.join(sorted(plans))}")
    asked = [plans[name] for name in names or sorted(plans)]
    found = [plan for plan in asked if any(tables is None or layout.name in tables for layout in plan.layouts)]
    if not found:
        which = f"table {' or '.join(tables)}" if tables else "a table (searches fill none)"
        there = dict.fromkeys(layout.name for plan in asked for layout in plan.layouts)
        told = f"; there are {', '.join(there)}" if there else ""
        raise ValueError(f"none of {', '.join(plan.name for plan in asked)} has cells for {which}{told}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    settle(options.store)
    try:
        return _main(options)
    except (ValueError, OSError) as error:
        places = {"--store": local_folder(options.store), "--output": options.output}
        complain(f"report: {sentence(error, places)}")
        return NOTHING_FOUND


def _main(options: argparse.Namespace) -> int:
    if options.diff:
        return _diff(options)
    records, runs, owner = _records(options)
    plans = records.plans()
    if not plans:
        where = options.tracking_uri or f"{options.store}/sweeps/*/plan.json"
        raise ValueError(
            f"found no sweep ({where}); run one first (python -m orchestrator.sweep sweeps/demo.yaml), "
            "or give another --store"
        )
    # An archive is a record of what was, by whatever code; a store is for going on with.
    today = None if isinstance(records, Archive) else Today(options.accept_stale)
    if isinstance(records, Ledger):
        records.index.look_once()
    damaged = 0
    chosen = choose(plans, options.sweeps, options.table)
    for plan in chosen:
        check_owner(options.output / plan.name, owner)
    for plan in chosen:
        asked = [layout.name for layout in plan.layouts if not options.table or layout.name in options.table]
        try:
            looks = records.looks(plan.name)
        except Damaged as error:
            complain(f"report: {plan.name}: {error}")
            damaged += 1
            continue
        formats = options.formats or (*FORMATS, HTML)
        report(plan, records, options.output, asked, formats, today=today, looks=looks, runs=runs, owner=owner)
    return NOTHING_FOUND if damaged else 0


def _diff(options: argparse.Namespace) -> int:
    ignored = {"--store": options.store != STORE, "--tracking-uri": options.tracking_uri}
    ignored |= {"--accept-stale": options.accept_stale}
    if given := ", ".join(name for name, value in ignored.items() if value):
        raise ValueError(f"{given}: --diff reads the two stores that it names, and counts stale records; leave it out")
    if other := [name for name in options.formats or () if name not in FORMATS_OF_DIFF]:
        raise ValueError(f"--formats {' '.join(other)}: --diff writes {', '.join(FORMATS_OF_DIFF)}; choose of these")
    opened = ((name, _opened(name)) for name in options.diff)
    a, b = (Source(name, records.plans(), records, _owner(records)) for name, records in opened)
    report_diff(a, b, options.output, options.sweeps, options.table, options.formats or tuple(FORMATS_OF_DIFF))
    return 0


def _opened(name: str) -> Archive | Ledger:
    """An archive, or a store that there is."""
    return Archive(name) if Path(name).is_file() else Ledger.existing(name)


def _owner(source: Archive | Ledger) -> Owner:
    return source.owner if isinstance(source, Ledger) else Owner(name=str(source.path.resolve()))


def _records(options: argparse.Namespace) -> tuple[StoredRecords, dict[str, str], Owner]:
    """The records, the MLflow run of each training's key as far as they are known, and whose the tables are."""
    if options.tracking_uri is None:
        if Path(options.store).is_file():
            archive = Archive(options.store)
            return archive, {}, _owner(archive)
        ledger = Ledger.at(options.store)
        return ledger, runs_beside(ledger), ledger.owner
    from orchestrator.tracking.reader import MLflowRecords, store_beside  # opening URLs takes longer than a small table

    uri = usable(options.tracking_uri, "--tracking-uri")
    if store := store_beside(uri):
        ledger = Ledger.at(str(store))
        return ledger, runs_beside(ledger), ledger.owner
    records = MLflowRecords(uri)
    return records, records.runs(), Owner(name=without_password(uri))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="*", metavar="SWEEP", help="names of sweeps; default: all in the store")
    parser.add_argument(
        "--store", type=address_option, default=STORE, help="where sweeps keep records, or an archive (%(default)s)"
    )
    parser.add_argument(
        "--tracking-uri",
        help="read plans and records from this MLflow server or database, or the store beside it",
    )
    parser.add_argument("--output", type=path_option, default=Path("results"), help="folder to write to (%(default)s)")
    parser.add_argument("--table", nargs="+", metavar="TABLE", help="only these tables, such as 2c")
    parser.add_argument("--formats", nargs="+", choices=(*FORMATS, HTML), help="default: all")
    parser.add_argument(
        "--accept-stale",
        action="store_true",
        help="use records made by other code or from other images than today's; the tables' notes name them",
    )
    parser.add_argument(
        "--diff",
        nargs=2,
        type=address_option,
        metavar=("A", "B"),
        help="compare two stores (folders or buckets) or archives, sweep by sweep; written as markdown, csv and json. "
        "Records keep no date, so a store is compared with an earlier state only if you kept a copy of it",
    )
    return parser


if __name__ == "__main__":
    gc.disable()  # with thousands of records it takes a tenth of the time, and the process ends soon
    sys.exit(run(main))
