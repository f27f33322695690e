"""A table's text: its verdict in one line, and notes that prevent its numbers from being misread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.cells import Cell, Section
from reports.collect import State
from reports.published import BACKBONES, DATASETS, LIBRARY
from reports.statistics import MARGIN, PairedTest
from reports.tables import PlannedCell, TableLayout

PLAIN = frozenset({State.NOT_PLANNED, State.MISSING, State.RUNNING, State.NOT_EVALUATED})
"""States that need no note if they hold for all seeds of a cell."""


def verdict(sections: Sequence[Section], baseline: str) -> str:
    """One line: the number of cells done, and the verdicts against the baseline and against the paper."""
    planned = [cell for section in sections for cell in section.cells if cell.seeds_planned]
    states = Counter(cell.state for cell in planned)
    parts = [f"{states[State.DONE]} of {len(planned)} cells {State.DONE}"]
    parts += [f"{count} {state}" for state, count in sorted(states.items()) if state != State.DONE]
    sentences = [", ".join(parts)]
    against = Counter(
        "not comparable" if c.to_baseline.also_differs else c.to_baseline.words
        for c in planned
        if c.to_baseline and (c.to_baseline.also_differs or c.to_baseline.verdict)
    )
    if against:
        sentences.append(f"against {baseline}: {_counted(against)}")
    papers = Counter(c.to_published.words for c in planned if c.to_published)
    if papers:
        sentences.append(f"against the paper: {_counted(papers)}")
    return "; ".join(sentences) + "."


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def notes(layout: TableLayout, sections: Sequence[Section], planned: Sequence[PlannedCell]) -> tuple[str, ...]:
    """The table's notes; those about the whole table come first."""
    cells = [(section, cell) for section in sections for cell in section.cells]
    said = [
        _protocol(planned),
        _intervals(cells),
        _comparisons(cells),
        _best(cells),
        _published(layout, cells),
        *_departures(cells),
        *_library(cells),
        *_accepted(cells),
        *_absences(cells),
    ]
    return tuple(note for note in said if note)


def _protocol(planned: Sequence[PlannedCell]) -> str:
    datasets = sorted({DATASETS.get(cell.config.data.name, cell.config.data.name) for cell in planned})
    used = {cell.config.model.backbone_name for cell in planned} - {""}
    backbones = sorted(BACKBONES.get(name, name) for name in used)
    queries = sorted({cell.evaluation.queries for cell in planned})
    return (
        f"Ours: {', '.join(datasets)}, {', '.join(backbones)}; accuracy in %, {_either(queries)} queries per class; "
        "the weights tested are those of the epoch with the highest validation accuracy."
    )


def _either(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))


def _intervals(cells: Sequence[tuple[Section, Cell]]) -> str:
    counts = sorted({len(cell.seeds_done) for _, cell in cells if cell.accuracy is not None})
    if not counts:
        return ""
    text = "± is 1.96 std / sqrt(episodes) over the test episodes, given the trained models and the test classes."
    if counts == [1]:
        return f"{text} 1 seed; the interval covers episodes only."
    text += (
        f" {_either(counts)} seeds, whose accuracies are averaged for each episode; sd is the standard deviation of "
        "the seeds' means."
    )
    return f"{text} With 1 seed, the interval covers episodes only." if 1 in counts else text


def _comparisons(cells: Sequence[tuple[Section, Cell]]) -> str:
    made = [cell.to_baseline for _, cell in cells if cell.to_baseline and cell.to_baseline.test]
    if not made:
        return ""
    kinds = sorted({m.test for m in made if m.test})
    tests = " or ".join(f"{kind} ({_seeds({len(m.seeds) for m in made if m.test is kind})})" for kind in kinds)
    margin = f"{100 * MARGIN:g}"
    uncovered = any(m.test is PairedTest.OVER_EPISODES for m in made)
    return (
        f"Differences from {made[0].baseline} on the same episodes: {tests}, with 95 % intervals in brackets; p values "
        f"are adjusted by Holm's method for the {len(made)} comparisons in this table. "
        + ("A test over episodes covers the episodes only, not the training seeds. " if uncovered else "")
        + f"Same within {margin}: the whole interval lies within ±{margin} points; better and worse: adjusted p below "
        "0.05; undecided: neither."
    )


def _seeds(counts: set[int]) -> str:
    return f"{_either(sorted(counts))} {'seed' if counts == {1} else 'seeds'}"


def _best(cells: Sequence[tuple[Section, Cell]]) -> str:
    if sum(cell.accuracy is not None for _, cell in cells) < 2:
        return ""
    return "Bold: our best in the section, and those that a paired test at 5 % (unadjusted) cannot distinguish from it."


def _published(layout: TableLayout, cells: Sequence[tuple[Section, Cell]]) -> str:
    sources = sorted({cell.published.source for _, cell in cells if cell.published})
    if not sources:
        return ""
    text = f"Paper: {'; '.join(sources)}."
    compared = [cell for _, cell in cells if cell.to_published and cell.to_published.difference is not None]
    if compared:
        text += (
            " Ours minus paper is unpaired; ± combines both intervals"
            + (" and our seeds' spread (Student's t)" if any(cell.seed_sd is not None for cell in compared) else "")
            + ", and consistent means that the interval contains 0."
        )
    if any(cell.published.ci95 is None for cell in compared if cell.published):
        text += " Table 2 gives no intervals, so those of Table 1's DMF row are assumed."
    return text


def _departures(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    found: dict[tuple[str, ...], list[str]] = {}
    for section, cell in cells:
        if cell.to_published and cell.to_published.departures:
            found.setdefault(cell.to_published.departures, []).append(f"{_name(cell)} ({section.label})")
    return [
        f"Departures from the protocols of the paper and the released code: {', '.join(names)}: {', '.join(paths)}."
        for paths, names in found.items()
    ]


def _library(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    """The sources of LibFewShot's numbers, in the order in which a row lists them."""
    found: dict[str, list[str]] = {}
    for section, cell in cells:
        pages: dict[float, list[str]] = {}
        for number in cell.library:
            pages.setdefault(number.accuracy, []).append(number.source.removeprefix(f"{LIBRARY} "))
        if pages:
            text = " / ".join(" and ".join(sources) for sources in pages.values())
            found.setdefault(text, []).append(f"{_name(cell)} ({section.label})")
    return [f"{LIBRARY}, {', '.join(names)}: {pages}." for pages, names in found.items()]


def _accepted(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    return [
        f"{_name(cell)}, {section.label}: its records are stale but were accepted: {'; '.join(cell.doubts)}."
        for section, cell in cells
        if cell.doubts
    ]


def _absences(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    return [
        f"{_name(cell)}, {section.label}: {'; '.join(cell.reasons)}."
        for section, cell in cells
        if cell.reasons and not (cell.state in PLAIN and len(cell.reasons) == 1)
    ]


def _name(cell: Cell) -> str:
    return ", ".join((cell.name, *cell.variant))
