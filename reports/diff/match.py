"""Which cell of A is which cell of B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dmf.records.facts import Tested
from dmf.values import printable
from reports import published
from reports.layouts import TableLayout
from reports.tables import Column, PlannedCell, Records, Row, arrange


class Match(NamedTuple):
    """A row with its cell in A, in B, or in both."""

    row: Row
    """As B calls it, if B has it."""
    a: PlannedCell | None
    b: PlannedCell | None


Planned = tuple[Row, PlannedCell]


def matches(
    layout: TableLayout, before: Sequence[PlannedCell], after: Sequence[PlannedCell]
) -> dict[Column, list[Match]]:
    """The cells of a table in A (`before`) and B (`after`) by section: B's rows in their order, then A's others.

    Cells of one row and backbone belong together if they have the same trainings and test, then if what tells them from
    others of the row is the same, then if there is no other choice.
    """
    grids = [arrange(layout, cells) for cells in (before, after)]
    found = {}
    for column in dict.fromkeys([*grids[1], *grids[0]]):
        ours, theirs = ([(row, cell) for row, cell in grid.get(column, {}).items() if cell] for grid in grids)
        found[column] = _matched(ours, theirs)
    return found


def _matched(before: list[Planned], after: list[Planned]) -> list[Match]:
    partners: dict[int, Planned] = {}
    left = list(before)
    for same in (_trained_alike, _told_apart_alike, None):
        for number, planned in enumerate(after):
            if number in partners:
                continue
            found = [each for each in left if _of_one_row(each, planned) and (same is None or same(each, planned))]
            rivals = [each for n, each in enumerate(after) if n not in partners and _of_one_row(each, planned)]
            if found and (same is not None or len(found) == len(rivals) == 1):
                partners[number] = found[0]
                left.remove(found[0])
    both = [
        Match(row, partners[number][1] if number in partners else None, cell)
        for number, (row, cell) in enumerate(after)
    ]
    return [*both, *(Match(row, cell, None) for row, cell in left)]


def _of_one_row(one: Planned, other: Planned) -> bool:
    return (one[0].label, one[0].backbone) == (other[0].label, other[0].backbone)


def _trained_alike(one: Planned, other: Planned) -> bool:
    cells = one[1], other[1]
    return len({(cell.config.replace(training__seed=0).key, cell.evaluation.key) for cell in cells}) == 1


def _told_apart_alike(one: Planned, other: Planned) -> bool:
    return one[0].variant == other[0].variant


def settings_that_differ(a: PlannedCell, b: PlannedCell) -> tuple[str, ...]:
    """`path: value in A -> value in B` of the settings of training and test; seeds are none."""
    flat = [published.identity(cell.config) | _flat_test(cell) for cell in (a, b)]
    return _changes(flat[0], flat[1], "not read")


def _flat_test(cell: PlannedCell) -> dict[str, Any]:
    return {f"evaluation.{name}": value for name, value in cell.evaluation.model_dump(mode="json").items()}


def origins_that_differ(
    pairs: Sequence[tuple[int, str, str]], tests: tuple[str, str], a: Records, b: Records
) -> tuple[str, ...]:
    """The same of the code, images and formats of records, with the seeds where they differ if not in all of them.

    `pairs` are a seed with its trainings' keys in A and B, `tests` the keys of their tests.
    """
    found: dict[str, list[int]] = {}
    for seed, *keys in pairs:
        sides = [_origin(records, key, test) for records, key, test in zip((a, b), keys, tests, strict=True)]
        for change in _changes(sides[0], sides[1], "unknown"):
            found.setdefault(change, []).append(seed)
    return tuple(
        change if len(seeds) == len(pairs) else f"{change} ({seeds_told(seeds)})" for change, seeds in found.items()
    )


def seeds_told(seeds: Sequence[int]) -> str:
    """`seed 0`, or `seeds 0, 1`."""
    return f"{'seeds' if len(seeds) > 1 else 'seed'} {', '.join(map(str, seeds))}"


def _origin(records: Records, key: str, test: str) -> dict[str, Any]:
    ended, tested = records.how_ended(key), records.how_tested(key, test)
    made = ended.provenance if ended else None
    return {"training's code": _short(made.code if made else ""), **_of_test(tested)}


def _of_test(tested: Tested | None) -> dict[str, Any]:
    assert tested is not None, "only records with numbers are compared"
    return {
        "test's code": _short(tested.code),
        "images": _short(tested.data_fingerprint),
        "record format": tested.format,
    }


def _short(digest: str) -> str:
    return "+".join(part[:8] for part in digest.split("+")) or "unknown"


def _changes(a: dict[str, Any], b: dict[str, Any], absent: str) -> tuple[str, ...]:
    return tuple(
        printable(f"{path}: {a.get(path, absent)} -> {b.get(path, absent)}")
        for path in dict.fromkeys([*a, *b])
        if a.get(path, absent) != b.get(path, absent)
    )
