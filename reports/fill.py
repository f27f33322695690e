"""Fills a table from records: each planned cell gets a value, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dmf.records.staleness import Today
from reports import notes, published
from reports.cells import AgainstBaseline, Asked, Cell, Comparison, Section, Table
from reports.classes import cell_over_classes
from reports.comparisons import Question, against_baseline, among_best, answers, asked
from reports.layouts import TableLayout
from reports.look_notes import look_notes
from reports.looks import Looks
from reports.origins import Origin, origins
from reports.places import Place, places_of
from reports.published import ABLATED, BACKBONES, DATASETS, Published
from reports.spreads import SeedSpread, spread_of, trained_elsewhere
from reports.statistics.cells import mean_ci95, seed_sd
from reports.statistics.paper import against_published, total_half
from reports.tables import Column, PlannedCell, Records


def fill(
    layout: TableLayout,
    cells: Iterable[PlannedCell],
    records: Records,
    today: Today | None = None,
    looks: Looks | None = None,
    earlier: Looks | None = None,
) -> Table:
    """Fill a table's planned cells from `records`; if `today` is given, stale records count only if it accepts them.

    The verdicts of rows that `looks` decide are theirs, and a table printed is no look. `earlier` looks are those of a
    sweep that has a fixed number of seeds by now; the table says what they cost.

    Raises:
        ValueError: no cell is planned for the table.
    """
    return tabulate(gather(layout, cells, records, today, looks, earlier))


@dataclass(frozen=True)
class Gathered:
    """What the records hold for a table: its places by section, and how much seeds matter."""

    layout: TableLayout
    sections: tuple[tuple[Place, ...], ...]
    spread: SeedSpread
    records: Records
    looks: Looks | None = None
    earlier: Looks | None = None


def gather(
    layout: TableLayout,
    cells: Iterable[PlannedCell],
    records: Records,
    today: Today | None = None,
    looks: Looks | None = None,
    earlier: Looks | None = None,
) -> Gathered:
    """Read a table's records; see `fill`."""
    cells = tuple(cells)
    sections = tuple(map(tuple, places_of(layout, cells, records, today)))
    if not sections:
        raise ValueError(f"no cell is planned for table {layout.name}; plan cells for it, or leave it out")
    spread = spread_of(layout, sections, lambda: trained_elsewhere(layout, cells, records, today))
    return Gathered(layout, sections, spread, records, looks, earlier)


def tabulate(gathered: Gathered) -> Table:
    """The table of what was gathered for it."""
    layout, spread = gathered.layout, gathered.spread
    datasets = {places[0].column.dataset_label for places in gathered.sections}
    theirs = {place: published_number(layout, place) for places in gathered.sections for place in places}
    questions = [(against_baseline(layout, places), asked(layout, places)) for places in gathered.sections]
    both = [[*ours, *further] for ours, further in questions]
    found = answers(layout, gathered.sections, both, spread, theirs, gathered.looks)
    sections = []
    for places, (ours, further) in zip(gathered.sections, questions, strict=True):
        best, to_baseline = among_best(places, spread), {question.place: found[question] for question in ours}
        cells = [
            _cell(
                layout,
                place,
                theirs[place],
                to_baseline.get(place),
                place in best,
                spread,
                origins(place.planned, place.found, gathered.records),
            )
            for place in places
        ]
        column = places[0].column
        sections.append(
            Section(
                label=_section_label(column, datasets),
                dataset=column.dataset,
                way=column.way,
                shot=column.shot,
                settings=column.values,
                cells=tuple(cells),
                asked=tuple(_asked(question, found[question]) for question in further),
            )
        )
    baseline = _baseline_name(gathered)
    return Table(
        name=layout.name,
        title=layout.title if len(datasets) > 1 else f"{layout.title}, {datasets.pop()}",
        row_header=layout.row_header,
        of_methods=not layout.components,
        components=layout.component_names,
        columns=layout.column_names,
        baseline=baseline,
        published_header=_published_header(sections),
        margin=layout.margin,
        sections=tuple(sections),
        verdict=notes.verdict(sections, baseline),
        notes=notes.notes(sections, [p.planned for places in gathered.sections for p in places if p.planned], spread)
        + look_notes(layout.name, gathered.looks, gathered.earlier),
    )


def _asked(question: Question, answer: AgainstBaseline) -> Asked:
    row = question.place.row
    return Asked(name=row.name, backbone=row.backbone, variant=row.variant, against=answer)


def _cell(
    layout: TableLayout,
    place: Place,
    theirs: Published | None,
    to_baseline: AgainstBaseline | None,
    best: bool,
    spread: SeedSpread,
    made: tuple[Origin, ...],
) -> Cell:
    row, found = place.row, place.found
    numbers: dict[str, Any] = {}
    if found.accuracies is not None:
        of_episodes = found.accuracies.mean(axis=0)
        accuracy, ci95 = mean_ci95(of_episodes)
        seeds, episodes = found.accuracies.shape
        numbers = {"accuracy": accuracy, "ci95": ci95, "episodes": episodes}
        numbers["classes_ci95"] = cell_over_classes(place, of_episodes)
        if place.planned and place.planned.config.seeded:
            variance, freedom = spread.of_cell(place)
            numbers["seed_sd"] = seed_sd(found.accuracies)
            numbers["total_ci95"] = total_half(ci95, variance, freedom, seeds) if freedom > 0 else None
        if theirs is not None:
            numbers["to_published"] = _to_published(layout, place, theirs, accuracy, ci95, spread)
    return Cell(
        label=row.label,
        name=row.name,
        backbone=row.backbone,
        variant=row.variant,
        value=None if row.reference else row.value,
        state=found.state,
        reasons=found.reasons,
        seeds_done=found.seeds,
        seeds_planned=place.planned.seeds if place.planned else (),
        best=best,
        bank=found.bank,
        records=found.records,
        origins=made,
        doubts=found.doubts,
        data_doubts=found.data_doubts,
        counts=found.counts,
        parameters=found.parameters,
        image_flops=found.image_flops,
        training_seconds=found.training_seconds,
        pre_trained=place.planned is not None and place.planned.config.stage is not None,
        stage_minutes=found.stage_minutes,
        training_minutes=found.training_minutes,
        on_gpu=found.on_gpu,
        episode_seconds=found.test_seconds / place.planned.evaluation.tested
        if place.planned is not None and found.test_seconds is not None
        else None,
        departures=_departures(layout, place, theirs),
        peak_bytes=max((each.peak_bytes for each in made if each.counts and each.peak_bytes), default=None),
        published=theirs,
        library=_library(layout, place),
        to_baseline=to_baseline,
        is_baseline=row.is_baseline,
        marks=() if row.reference else layout.marks_of(row.value),
        protocol=getattr(place.planned.config.model, "protocol", "") if place.planned else "",
        **numbers,
    )


def _departures(layout: TableLayout, place: Place, theirs: Published | None) -> tuple[str, ...] | None:
    """In a table of methods, in what a row's training differs from the published one."""
    if layout.components or place.planned is None or theirs is None:
        return None
    return published.departures(place.planned.config, layout.row_paths)


def published_number(layout: TableLayout, place: Place) -> Published | None:
    """The paper's number for a row. Table 2 has numbers for miniImageNet and ResNet-12 only, whatever the runs use."""
    row, column = place.row, place.column
    if row.published is None or column.trained_on:
        return None
    dataset, backbone = ABLATED if layout.components else (column.dataset, published.backbone_in_paper(row.backbone))
    return published.in_paper(row.published, backbone, dataset, column.way, column.shot)


def _library(layout: TableLayout, place: Place) -> tuple[Published, ...]:
    """LibFewShot's numbers for a row. For DMF, it has only the full model, which is one row in each part of Table 2."""
    row, column = place.row, place.column
    method = row.published
    if layout.components and row.published is not None:
        groups = published.FULL_GROUPS.get((column.dataset, column.shot))
        full = published.FULL_MODEL | {"model.groups": groups}
        method = "DMF" if layout.row_paths[0] in full and row.value == full[layout.row_paths[0]] else None
    if method is None or column.trained_on:
        return ()
    return published.in_library(method, row.backbone, column.dataset, column.way, column.shot)


def _to_published(
    layout: TableLayout, place: Place, theirs: Published, accuracy: float, ci95: float, spread: SeedSpread
) -> Comparison:
    assert place.planned is not None
    config, column = place.planned.config, place.column
    same = {
        "data set": column.dataset == theirs.dataset,
        "backbone": published.backbone_in_paper(config.model.backbone_name) == theirs.backbone,
        "image size": column.dataset != theirs.dataset or config.data.image_size == published.IMAGE_SIZE,
        **{
            f"images found at {sizes}": column.dataset != theirs.dataset
            or not published.found_otherwise(column.dataset, sizes)
            for sizes in place.found.image_sizes
        },
        "shots in training": column.trained_shot == column.shot,
        "classes": column.split == "test",
        "queries per class": place.planned.evaluation.queries == published.QUERIES,
    }
    their_ci95 = published.assumed_ci95(theirs)
    obstacles = tuple(what for what, equal in same.items() if not equal)
    departures = () if obstacles else published.departures(config, layout.row_paths)
    obstacles += published.parts_of(departures)
    if obstacles or their_ci95 is None:
        return Comparison(obstacles=obstacles or ("no interval published",), departures=departures)
    difference = accuracy - theirs.accuracy
    half, verdict = against_published(difference, ci95, their_ci95, *spread.of_cell(place), place.independent_seeds)
    return Comparison(difference=difference, ci95=half, their_ci95=their_ci95, verdict=verdict)


def _baseline_name(gathered: Gathered) -> str:
    """The name of the baseline's row, which in the table of groups depends on the backbone."""
    rows = [place.row for places in gathered.sections for place in places if place.row.is_baseline]
    return rows[0].name if rows else gathered.layout.baseline_name


def _section_label(column: Column, datasets: set[str]) -> str:
    """The task, preceded by the data set if the table has several (otherwise the title names it)."""
    return f"{column.dataset_label}, {column.task}" if len(datasets) > 1 else column.task


def _published_header(sections: Sequence[Section]) -> str:
    foreign = any(
        (cell.published.dataset, cell.published.backbone)
        != (section.dataset, published.backbone_in_paper(cell.backbone))
        for section in sections
        for cell in section.cells
        if cell.published is not None
    )
    return f"paper ({DATASETS[ABLATED[0]]}, {BACKBONES[ABLATED[1]]})" if foreign else "paper"
