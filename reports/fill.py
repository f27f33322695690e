"""Fills a table from records: each planned cell gets a value, or the reason why it has none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dmf.records.staleness import Today
from reports import notes, published, statistics
from reports.cells import AgainstBaseline, Cell, Comparison, Section, Table
from reports.collect import Collected, State, collect
from reports.published import ABLATED, BACKBONES, DATASETS, Published
from reports.tables import Column, PlannedCell, Records, Row, TableLayout, arrange

NOT_PLANNED = Collected(State.NOT_PLANNED, (State.NOT_PLANNED.value,))


@dataclass(frozen=True, eq=False)
class Place:
    """A row in a column, with its planned cell and the results that the cell's records hold."""

    column: Column
    row: Row
    planned: PlannedCell | None
    found: Collected


def fill(layout: TableLayout, cells: Iterable[PlannedCell], records: Records, today: Today | None = None) -> Table:
    """Fill a table's planned cells from `records`; if `today` is given, stale records count only if it accepts them.

    Raises:
        ValueError: no cell is planned for the table, or a record, which the message names, contradicts itself.
    """
    grid = arrange(layout, cells)
    if not grid:
        raise ValueError(f"no cell is planned for table {layout.name}; plan cells for it, or leave it out")
    columns = [
        [Place(column, row, cell, collect(cell, records, today) if cell else NOT_PLANNED) for row, cell in rows.items()]
        for column, rows in grid.items()
    ]
    datasets = {column.dataset_label for column in grid}
    compared = _compare_with_baselines(layout, columns)
    sections = tuple(
        Section(
            label=_section_label(places[0].column, datasets),
            dataset=places[0].column.dataset,
            way=places[0].column.way,
            shot=places[0].column.shot,
            cells=tuple(_cell(layout, place, compared.get(place), _among_best(place, places)) for place in places),
        )
        for places in columns
    )
    return Table(
        name=layout.name,
        title=layout.title if len(datasets) > 1 else f"{layout.title}, {datasets.pop()}",
        row_header=layout.row_header,
        baseline=_baseline_name(layout, columns),
        published_header=_published_header(sections),
        sections=sections,
        verdict=notes.verdict(sections, _baseline_name(layout, columns)),
        notes=notes.notes(layout, sections, [p.planned for places in columns for p in places if p.planned]),
    )


def _cell(layout: TableLayout, place: Place, to_baseline: AgainstBaseline | None, best: bool) -> Cell:
    row, found, theirs = place.row, place.found, _published(layout, place)
    numbers: dict[str, Any] = {}
    if found.accuracies is not None:
        accuracy, ci95 = statistics.mean_ci95(found.accuracies.mean(axis=0))
        sd = statistics.seed_sd(found.accuracies)
        numbers = {"accuracy": accuracy, "ci95": ci95, "seed_sd": sd, "episodes": found.accuracies.shape[1]}
        if theirs is not None:
            numbers["to_published"] = _to_published(layout, place, theirs, accuracy, ci95, sd)
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
        is_baseline=_is_baseline(layout, row),
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
    layout: TableLayout, place: Place, theirs: Published, accuracy: float, ci95: float, sd: float | None
) -> Comparison:
    assert place.planned is not None
    config, column = place.planned.config, place.column
    same = {
        "data set": column.dataset == theirs.dataset,
        "backbone": config.model.backbone_name == theirs.backbone,
        "image size": column.dataset != theirs.dataset or config.data.image_size == published.IMAGE_SIZE,
        "shots in training": column.trained_shot == column.shot,
        "classes": column.split == "test",
        # Published numbers of other methods come from training protocols that none of our recipes follows.
        "training protocol": config.model.method == "dmf",
    }
    their_ci95 = published.assumed_ci95(theirs)
    obstacles = tuple(what for what, equal in same.items() if not equal)
    if obstacles or their_ci95 is None:
        return Comparison(obstacles=obstacles or ("no interval published",))
    seeds = len(place.found.seeds)
    difference, half, verdict = statistics.against_published(accuracy, ci95, sd, seeds, theirs.accuracy, their_ci95)
    return Comparison(
        difference=difference,
        ci95=half,
        their_ci95=their_ci95,
        verdict=verdict,
        departures=published.departures(config, layout.row_path),
    )


def _is_baseline(layout: TableLayout, row: Row) -> bool:
    return not row.reference and row.value == layout.baseline


def _baseline(layout: TableLayout, place: Place, section: Sequence[Place]) -> Place | None:
    """The baseline's row with the same backbone; if there are several, the one with the most similar settings."""
    assert place.planned is not None
    ours = place.planned

    def distance(theirs: PlannedCell) -> tuple[int, bool]:
        return len(layout.also_differs(ours.config, theirs.config)), theirs.evaluation != ours.evaluation

    rows = [
        (distance(p.planned), p)
        for p in section
        if p.planned and _is_baseline(layout, p.row) and p.row.backbone == place.row.backbone
    ]
    return min(rows, key=lambda row: row[0])[1] if rows else None


def _compare_with_baselines(layout: TableLayout, columns: Sequence[Sequence[Place]]) -> dict[Place, AgainstBaseline]:
    """Compare each planned row with its baseline; p values are adjusted over the whole table."""
    answers: dict[Place, AgainstBaseline] = {}
    tested: dict[Place, tuple[AgainstBaseline, statistics.Difference]] = {}
    for section in columns:
        for place in section:
            if place.planned is None or place.row.reference or _is_baseline(layout, place.row):
                continue
            base = _baseline(layout, place, section)
            answer = _unpaired_answer(layout, place, base)
            if base is None or answer.obstacle:
                answers[place] = answer
            else:
                tested[place] = answer, _difference(place.found, base.found)
    adjusted = statistics.holm([difference.p for _, difference in tested.values()])
    for (place, (answer, difference)), p_holm in zip(tested.items(), adjusted, strict=True):
        answers[place] = answer.replace(
            difference=difference.mean,
            low=difference.low,
            high=difference.high,
            p=difference.p,
            p_holm=p_holm,
            test=difference.test,
            verdict=statistics.verdict(difference, p_holm),
        )
    return answers


def _unpaired_answer(layout: TableLayout, place: Place, base: Place | None) -> AgainstBaseline:
    """The comparison without a test's results, and with the obstacle to a test if there is one."""
    if base is None:
        name = layout.row_name.format(layout.labels[layout.baseline])
        return AgainstBaseline(baseline=name, obstacle=f"baseline {State.NOT_PLANNED}")
    assert place.planned is not None and base.planned is not None
    theirs, their_base = _published(layout, place), _published(layout, base)
    seeds = _common_seeds(place.found, base.found)
    also_differs = layout.also_differs(place.planned.config, base.planned.config)
    obstacle = ""
    if also_differs:
        obstacle = f"not comparable (also differs: {', '.join(also_differs)})"
    elif place.found.accuracies is None:
        obstacle = place.found.state.value
    elif base.found.accuracies is None:
        obstacle = f"baseline {base.found.state}"
    elif base.found.bank != place.found.bank:
        obstacle = "not paired: the baseline has other episodes or images"
    elif not seeds:
        obstacle = "not paired: the baseline has other seeds"
    return AgainstBaseline(
        baseline=base.row.name,
        seeds=() if obstacle else seeds,
        published_difference=theirs.accuracy - their_base.accuracy if theirs and their_base else None,
        also_differs=also_differs,
        obstacle=obstacle,
    )


def _common_seeds(ours: Collected, base: Collected) -> tuple[int, ...]:
    theirs = set(base.seeds)
    return tuple(seed for seed in ours.seeds if seed in theirs)


def _difference(ours: Collected, base: Collected) -> statistics.Difference:
    seeds = _common_seeds(ours, base)
    return statistics.paired_difference(ours.of_seeds(seeds), base.of_seeds(seeds))


def _among_best(place: Place, section: Sequence[Place]) -> bool:
    """Whether a place has the highest accuracy of its section, or a paired test cannot distinguish it from that."""
    rivals = [p.found for p in section if p.found.accuracies is not None]
    if place.found.accuracies is None or len(rivals) < 2:
        return False
    best = max(rivals, key=_accuracy)
    if place.found is best:
        return True
    if place.found.bank != best.bank or not _common_seeds(place.found, best):
        return False
    return _difference(place.found, best).p >= statistics.LEVEL


def _accuracy(found: Collected) -> float:
    assert found.accuracies is not None
    return float(found.accuracies.mean())


def _baseline_name(layout: TableLayout, columns: Sequence[Sequence[Place]]) -> str:
    """The name of the baseline's row, which in the table of groups depends on the backbone."""
    rows = [place.row for places in columns for place in places if _is_baseline(layout, place.row)]
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
