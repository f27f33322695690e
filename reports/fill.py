"""Fills a table from records: each planned cell gets a value, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from dmf.records.staleness import Today
from reports import notes, published
from reports.cells import AgainstBaseline, Cell, Comparison, Section, Table
from reports.collect import Collected, State, collect
from reports.comparisons import among_best, compare_with_baselines
from reports.places import Place, is_baseline
from reports.published import ABLATED, BACKBONES, DATASETS, Published
from reports.spreads import SeedSpread, spread_of
from reports.statistics.cells import mean_ci95, seed_sd
from reports.statistics.paper import against_published, total_half
from reports.tables import Column, PlannedCell, Records, TableLayout, arrange

NOT_PLANNED = Collected(State.NOT_PLANNED, (State.NOT_PLANNED.value,))


def fill(layout: TableLayout, cells: Iterable[PlannedCell], records: Records, today: Today | None = None) -> Table:
    """Fill a table's planned cells from `records`; if `today` is given, stale records count only if it accepts them.

    Raises:
        ValueError: no cell is planned for the table.
    """
    cells = tuple(cells)
    grid = arrange(layout, cells)
    if not grid:
        raise ValueError(f"no cell is planned for table {layout.name}; plan cells for it, or leave it out")
    columns = [
        [Place(column, row, cell, collect(cell, records, today) if cell else NOT_PLANNED) for row, cell in rows.items()]
        for column, rows in grid.items()
    ]
    datasets = {column.dataset_label for column in grid}
    spread = spread_of(columns, lambda: _trained_elsewhere(layout, cells, records, today))
    theirs = {place: _published(layout, place) for places in columns for place in places}
    compared = compare_with_baselines(layout, columns, spread, theirs)
    best = {place for places in columns for place in among_best(places, spread)}
    sections = tuple(
        Section(
            label=_section_label(places[0].column, datasets),
            dataset=places[0].column.dataset,
            way=places[0].column.way,
            shot=places[0].column.shot,
            cells=tuple(
                _cell(layout, place, theirs[place], compared.get(place), place in best, spread) for place in places
            ),
        )
        for places in columns
    )
    return Table(
        name=layout.name,
        title=layout.title if len(datasets) > 1 else f"{layout.title}, {datasets.pop()}",
        row_header=layout.row_header,
        baseline=_baseline_name(layout, columns),
        published_header=_published_header(sections),
        margin=layout.margin,
        sections=sections,
        verdict=notes.verdict(sections, _baseline_name(layout, columns)),
        notes=notes.notes(sections, [p.planned for places in columns for p in places if p.planned], spread),
    )


def _trained_elsewhere(
    layout: TableLayout, cells: Iterable[PlannedCell], records: Records, today: Today | None
) -> Iterator[tuple[PlannedCell, Collected]]:
    """What the sweep's other tables have of rows with several seeds."""
    for cell in cells:
        if cell.table != layout.name and len(cell.seeds) > 1:
            yield cell, collect(cell, records, today)


def _cell(
    layout: TableLayout,
    place: Place,
    theirs: Published | None,
    to_baseline: AgainstBaseline | None,
    best: bool,
    spread: SeedSpread,
) -> Cell:
    row, found = place.row, place.found
    numbers: dict[str, Any] = {}
    if found.accuracies is not None:
        accuracy, ci95 = mean_ci95(found.accuracies.mean(axis=0))
        seeds, episodes = found.accuracies.shape
        numbers = {"accuracy": accuracy, "ci95": ci95, "seed_sd": seed_sd(found.accuracies), "episodes": episodes}
        variance, freedom = spread.of_cell(place)
        if freedom > 0 and place.planned and place.planned.config.seeded:
            numbers["total_ci95"] = total_half(ci95, variance, freedom, seeds)
        if theirs is not None:
            numbers["to_published"] = _to_published(layout, place, theirs, accuracy, ci95, spread)
    return Cell(
        label=row.label,
        name=row.name,
        backbone=row.backbone,
        variant=row.variant,
        state=found.state,
        reasons=found.reasons,
        seeds_done=found.seeds,
        seeds_planned=place.planned.seeds if place.planned else (),
        best=best,
        bank=found.bank,
        records=found.records,
        doubts=found.doubts,
        parameters=found.parameters,
        training_seconds=found.training_seconds,
        published=theirs,
        library=_library(layout, place),
        to_baseline=to_baseline,
        is_baseline=is_baseline(layout, row),
        **numbers,
    )


def _published(layout: TableLayout, place: Place) -> Published | None:
    """The paper's number for a row. Table 2 has numbers for miniImageNet and ResNet-12 only, whatever the runs use."""
    row, column = place.row, place.column
    if row.published is None:
        return None
    dataset, backbone = ABLATED if layout.components else (column.dataset, row.backbone)
    return published.in_paper(row.published, backbone, dataset, column.way, column.shot)


def _library(layout: TableLayout, place: Place) -> tuple[Published, ...]:
    """LibFewShot's numbers for a row. For DMF, it has only the full model, which is one row in each part of Table 2."""
    row, column = place.row, place.column
    method = row.published
    if layout.components and row.published is not None:
        groups = published.FULL_GROUPS.get((column.dataset, column.shot))
        full = published.FULL_MODEL | {"model.groups": groups}
        method = "DMF" if row.value == full[layout.row_path] else None
    if method is None:
        return ()
    return published.in_library(method, row.backbone, column.dataset, column.way, column.shot)


def _to_published(
    layout: TableLayout, place: Place, theirs: Published, accuracy: float, ci95: float, spread: SeedSpread
) -> Comparison:
    assert place.planned is not None
    config, column = place.planned.config, place.column
    same = {
        "data set": column.dataset == theirs.dataset,
        "backbone": config.model.backbone_name == theirs.backbone,
        "image size": column.dataset != theirs.dataset or config.data.image_size == published.IMAGE_SIZE,
        **{
            f"images found at {sizes}": column.dataset != theirs.dataset
            or not published.found_otherwise(column.dataset, sizes)
            for sizes in place.found.image_sizes
        },
        "shots in training": column.trained_shot == column.shot,
        "classes": column.split == "test",
        "queries per class": place.planned.evaluation.queries == published.QUERIES,
        # Published numbers of other methods come from training protocols that none of our recipes follows.
        "training protocol": config.model.method == "dmf",
    }
    their_ci95 = published.assumed_ci95(theirs)
    obstacles = tuple(what for what, equal in same.items() if not equal)
    departures = () if obstacles else published.departures(config, layout.row_path)
    obstacles += published.parts_of(departures)
    if obstacles or their_ci95 is None:
        return Comparison(obstacles=obstacles or ("no interval published",), departures=departures)
    difference = accuracy - theirs.accuracy
    half, verdict = against_published(
        difference, ci95, their_ci95, *spread.of_cell(place), 1 if place.shares_one_training else len(place.found.seeds)
    )
    return Comparison(difference=difference, ci95=half, their_ci95=their_ci95, verdict=verdict)


def _baseline_name(layout: TableLayout, columns: Sequence[Sequence[Place]]) -> str:
    """The name of the baseline's row, which in the table of groups depends on the backbone."""
    rows = [place.row for places in columns for place in places if is_baseline(layout, place.row)]
    return rows[0].name if rows else layout.row_name.format(layout.labels[layout.baseline])


def _section_label(column: Column, datasets: set[str]) -> str:
    """The task, preceded by the data set if the table has several (otherwise the title names it)."""
    return f"{column.dataset_label}, {column.task}" if len(datasets) > 1 else column.task


def _published_header(sections: Sequence[Section]) -> str:
    foreign = any(
        (cell.published.dataset, cell.published.backbone) != (section.dataset, cell.backbone)
        for section in sections
        for cell in section.cells
        if cell.published is not None
    )
    return f"paper ({DATASETS[ABLATED[0]]}, {BACKBONES[ABLATED[1]]})" if foreign else "paper"
