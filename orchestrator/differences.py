"""Compares the sweeps of two stores, prints what changed in their tables, and writes it to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from dmf.machine.files import write_text
from dmf.values import shown
from orchestrator.spec.plan import SweepPlan
from orchestrator.text import plain
from reports.diff.compare import Asked, diff
from reports.diff.formats import to_csv, to_json, to_markdown, to_terminal
from reports.diff.values import DiffTable
from reports.owners import Owner, check_owner, note_files
from reports.tables import Records

FORMATS_OF_DIFF: dict[str, tuple[str, Callable[[DiffTable], str]]] = {
    "markdown": ("md", to_markdown),
    "csv": ("csv", to_csv),
    "json": ("json", to_json),
}
"""Name -> (suffix, function that writes a table)."""


class Source(NamedTuple):
    """Something that holds sweeps: a store, or whatever else has their plans and records."""

    name: str
    plans: Mapping[str, SweepPlan]
    records: Records
    owner: Owner


def report_diff(
    a: Source,
    b: Source,
    output: Path,
    sweeps: Sequence[str] = (),
    tables: Sequence[str] | None = None,
    formats: Sequence[str] = tuple(FORMATS_OF_DIFF),
    console: Console | None = None,
) -> list[Path]:
    """Compare the sweeps of one name in A and B, by default all; write to `output`/diff/<sweep>; return the paths.

    Raises ValueError if there is nothing to compare, or if a folder has the comparison of other stores.
    """
    console = console or Console()
    names = _common(a, b, sweeps)
    asked = [each for name in names for each in _asked(name, a.plans[name], b.plans[name], tables)]
    if not asked:
        which = f"table {' or '.join(tables)}" if tables else "a table (searches fill none)"
        raise ValueError(f"neither A nor B has cells for {which} in {', '.join(names)}")
    for letter, source in (("A", a), ("B", b)):
        console.print(plain(f"{letter}: {source.name}"), soft_wrap=True)
    owner, folders = a.owner.against(b.owner), {each.sweep: output / "diff" / each.sweep for each in asked}
    for folder in folders.values():
        check_owner(folder, owner)
    found = diff(asked, a.records, b.records)
    written = [FORMATS_OF_DIFF[name] for name in formats]
    texts = {
        folders[table.sweep] / f"table_{table.name}.{suffix}": write(table)
        for table in found
        for suffix, write in written
    }
    for name, folder in folders.items():
        files = [path.name for path in texts if path.parent == folder]
        note_files(folder, owner, files, _possible(a.plans[name], b.plans[name]))
    for path, text in texts.items():
        write_text(path, text)
    paths = list(texts)
    for table in found:
        console.print(to_terminal(table, console.width))
    for letter, source, other in (("A", a, b), ("B", b, a)):
        if alone := sorted(source.plans.keys() - other.plans.keys()) if not sweeps else ():
            console.print(plain(f"sweeps only in {letter}: {', '.join(alone)}"))
    for path in paths:
        console.print(plain(str(path)), soft_wrap=True)
    return paths


def _possible(a: SweepPlan, b: SweepPlan) -> set[str]:
    """Names of all files that comparisons of two plans write."""
    tables = {layout.name for layout in (*a.layouts, *b.layouts)}
    return {f"table_{table}.{suffix}" for table in tables for suffix, _ in FORMATS_OF_DIFF.values()}


def _common(a: Source, b: Source, sweeps: Sequence[str]) -> list[str]:
    """The names of the sweeps to compare."""
    for letter, source in (("A", a), ("B", b)):
        there = ", ".join(sorted(source.plans)) or "none"
        if missing := [name for name in sweeps if name not in source.plans]:
            raise ValueError(
                f"no sweep {', '.join(map(shown, missing))} in {letter} ({source.name}); there are: {there}"
            )
    common = list(sweeps) or sorted(a.plans.keys() & b.plans.keys())
    if not common:
        raise ValueError(
            "no sweep has the same name in both, so there is nothing to compare; in A there are: "
            f"{', '.join(sorted(a.plans)) or 'none'}; in B: {', '.join(sorted(b.plans)) or 'none'}"
        )
    return common


def _asked(name: str, a: SweepPlan, b: SweepPlan, tables: Sequence[str] | None) -> list[Asked]:
    """The tables of a sweep; where both describe one, as B does."""
    layouts = {layout.name: layout for layout in (*a.layouts, *b.layouts)}
    return [
        Asked(name, layout, a.cells, b.cells) for layout in layouts.values() if tables is None or layout.name in tables
    ]
