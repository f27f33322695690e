"""A table's text: its verdict in one line, and notes that prevent its numbers from being misread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from dmf.values import printable
from reports.cells import AgainstBaseline, Cell, Section
from reports.collect import State
from reports.places import shared_start
from reports.published import BACKBONES, LIBRARY
from reports.spreads import SeedSpread, Source
from reports.statistics.needed import POWER
from reports.statistics.pairs import PairedTest
from reports.statistics.paper import PAPER_MARGIN
from reports.statistics.spread import ENOUGH
from reports.statistics.verdicts import Verdict
from reports.tables import Column, PlannedCell
from reports.words import counted, explained, freedom, holds, interval, over_classes, percent, points
from reports.words import verdict as word_of

COMMIT = 12
"""Digits of a commit that a note names."""
PLAIN = frozenset({State.NOT_PLANNED, State.MISSING, State.RUNNING, State.NOT_EVALUATED})
"""States that need no note if they hold for all seeds of a cell."""

COUNTED = {
    "ways_without_related_images": "classes of episodes had no base image predicted as them, so all images of their "
    "related base classes were taken"
}
"""Count of a record -> what it says of the classes of all episodes, in words."""


def verdict(sections: Sequence[Section], baseline: str) -> str:
    """One line: the number of cells done, and the verdicts against the baseline and against the paper."""
    planned = [cell for section in sections for cell in section.cells if cell.seeds_planned]
    states = Counter(cell.state for cell in planned)
    parts = [f"{states[State.DONE]} of {counted(len(planned), 'cell')} {State.DONE}"]
    parts += [f"{count} {state}" for state, count in sorted(states.items()) if state != State.DONE]
    sentences = [", ".join(parts)]
    against = Counter(
        "not comparable" if c.to_baseline.also_differs else word_of(c.to_baseline)
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


def notes(sections: Sequence[Section], planned: Sequence[PlannedCell], spread: SeedSpread) -> tuple[str, ...]:
    """The table's notes, those first that hold for all of it."""
    cells = [(section, cell) for section in sections for cell in section.cells]
    compared = _compared(sections)
    said = [
        _protocol(planned),
        _intervals(cells, spread),
        _methods(sections, spread),
        _looked_at(sections, spread),
        _models(compared, planned, spread, any(cell.seed_sd is not None for _, cell in cells)),
        _other_classes(cells),
        *_asked(sections),
        *_recipes(cells),
        *_several_baselines(cells),
        _best(cells, spread),
        _published(cells, spread),
        *_departures(cells),
        *_library(cells),
        *_fewer(cells, planned),
        *_counts(cells),
        *_images(cells),
        *_accepted(cells),
        *_versions(cells, planned),
        *_starts(cells, planned),
        *_absences(cells),
    ]
    return tuple(note for note in said if note)


def _compared(sections: Sequence[Section]) -> list[AgainstBaseline]:
    """The comparisons of a table: of its rows with their baselines, then the further pairs that the sweep asks for."""
    to_baseline = [cell.to_baseline for section in sections for cell in section.cells if cell.to_baseline]
    return [*to_baseline, *(each.against for section in sections for each in section.asked)]


def _is_adjusted(each: AgainstBaseline) -> bool:
    """Whether its p-value is adjusted together with others."""
    return each.p_holm is not None


def _is_looked_at(each: AgainstBaseline) -> bool:
    return each.look_level is not None


def _differences(sections: Sequence[Section], counts: Callable[[AgainstBaseline], bool]) -> str:
    """`Differences from ProtoNet`, from whatever the comparisons that count are with."""
    to_baseline = [cell.to_baseline for section in sections for cell in section.cells if cell.to_baseline]
    parts = [f"from {' or '.join(found)}"] if (found := _baselines(filter(counts, to_baseline))) else []
    if any(counts(each.against) for section in sections for each in section.asked):
        parts.append("of further pairs of rows")
    return f"Differences {' and '.join(parts)} on the same episodes and seeds"


def _baselines(made: Iterable[AgainstBaseline]) -> list[str]:
    return list(dict.fromkeys(each.baseline for each in made))


def _protocol(planned: Sequence[PlannedCell]) -> str:
    datasets = sorted({Column.of(cell).dataset_label for cell in planned})
    used = {cell.config.model.backbone_name for cell in planned} - {""}
    backbones = sorted(BACKBONES.get(name, name) for name in used)
    queries = sorted({cell.evaluation.queries for cell in planned})
    return (
        f"Ours: {', '.join(datasets)}, {', '.join(backbones)}; accuracy in %, {_either(queries)} queries per class; "
        "the weights tested are those of the epoch with the highest validation accuracy."
    )


def _either(values: Sequence[int]) -> str:
    return " or ".join(map(str, values))


def _intervals(cells: Sequence[tuple[Section, Cell]], spread: SeedSpread) -> str:
    counts = sorted({len(cell.seeds_done) for _, cell in cells if cell.accuracy is not None})
    if not counts:
        return ""
    text = (
        "± after an accuracy is 1.96 std / sqrt(episodes) over the test episodes, given the trained models and the "
        "test classes."
    )
    if counts == [1]:
        return f"{text} 1 seed; the interval covers episodes only."
    text += (
        f" {_either(counts)} seeds, whose accuracies are averaged for each episode; sd is the standard deviation of "
        "the n seeds' means."
    )
    pooled = spread.together
    if pooled.cell_freedom > 0:
        text += (
            f" Total covers episodes and seeds, with a cell's sd over seeds of {percent(pooled.cell_variance**0.5)}, "
            f"pooled over cells ({freedom(pooled.cell_freedom)}, Student's t)."
        )
    return text


def _methods(sections: Sequence[Section], spread: SeedSpread) -> str:
    compared = _compared(sections)
    made = list(filter(_is_adjusted, compared))
    if not made:
        return ""
    margin = _margins(made)
    adjusted = (
        "the one comparison of methods in this table and its two hypotheses"
        if len(made) == 1
        else f"the {len(made)} comparisons of methods in this table and the two hypotheses of each"
    )
    text = f"{_differences(sections, _is_adjusted)}, with 95 % intervals in brackets. "
    text += _blocks(spread)
    text += (
        f"p is for no difference, adjusted by Holm's method for {adjusted}. Better and worse: p below 0.05. Same "
        f"within {margin}: two one-sided tests at the same level show a difference of less than {margin} points, which "
        "is given if it also differs from 0. Undecided: neither."
    )
    return text + _own_variance(made) + _needed(compared)


def _blocks(spread: SeedSpread) -> str:
    if spread.source is Source.ASSUMED:
        return ""
    return (
        f"Seeds are blocks: beyond the effects of its row and of its seed, a training's accuracy has an sd of "
        f"{percent(spread.sd)} ({freedom(spread.residual.freedom)}, from {spread.source}; a section with "
        f"{ENOUGH} of its own uses its own). "
    )


def _own_variance(made: Sequence[AgainstBaseline]) -> str:
    if all(each.test is not PairedTest.OWN for each in made):
        return ""
    return (
        " Own variance: tested with the pair's own variance over seeds, because one of the two varies more than "
        "the other rows, has no seed, or is counted in another section."
    )


def _looked_at(sections: Sequence[Section], spread: SeedSpread) -> str:
    """What the intervals of looks rest on; `look_notes` says by what rule they decide."""
    compared = _compared(sections)
    made = list(filter(_is_looked_at, compared))
    if not made:
        return ""
    text = f"{_differences(sections, _is_looked_at)}, as looks found them. "
    return text + _blocks(spread).rstrip() + _own_variance(made) + _needed(compared)


def _models(
    compared: Sequence[AgainstBaseline], planned: Sequence[PlannedCell], spread: SeedSpread, several_seeds: bool
) -> str:
    against = [each for each in compared if each.is_of_models]
    if not against:
        return ""
    margin = _margins(against)
    text = (
        "One seed decides nothing about methods. The interval for two models is that of a paired t-test over episodes; "
        f"the one for the method takes a seeds' sd of {' or '.join(_sds(against, spread, several_seeds))}. The margin "
        f"of a verdict is {margin} points."
    )
    if any(each.single for each in against):
        text += f" A single training: {_why_single(planned)}, so that further seeds would add nothing to it."
    return text if any(map(_is_adjusted, compared)) else text + _needed(against)


def _sds(against: Sequence[AgainstBaseline], spread: SeedSpread, several_seeds: bool) -> Iterator[str]:
    """The seeds' sds that comparisons of one seed take, and where they are from."""
    known = [each for each in against if each.sd_freedom is not None]
    assumed = [each for each in against if each.sd_freedom is None]
    if known:
        degrees = sorted({each.sd_freedom or 0.0 for each in known})
        least = f"{degrees[0]:.3g} to " if len(degrees) > 1 else ""
        source = Source.TABLE if spread.source is Source.ASSUMED else spread.source
        sds = _range([each.sd_used or 0.0 for each in known], percent)
        yield f"{sds}, as found in {source} ({least}{freedom(degrees[-1])})"
    if assumed:
        why = "no two rows of a section are trained" if several_seeds else "no row here is trained"
        sds = _range([each.sd_used or 0.0 for each in assumed], percent)
        yield f"{sds}, which is assumed, because {why} with {'two common' if several_seeds else 'several'} seeds"


def _why_single(planned: Sequence[PlannedCell]) -> str:
    """Why seeds make no difference to rows that are one training, or start from one."""
    configs = [cell.config for cell in planned if not cell.config.seeded]
    reasons = []
    if any(config.stage is not None for config in configs):
        reasons.append("its pre-training has a fixed seed and nothing is trained after it")
    if any(any(config.weights) for config in configs):
        reasons.append("its weights are those of a file and nothing is trained after them")
    if any(shared_start(cell.config) for cell in planned if cell.config.seeded):
        reasons.append("all its seeds start from one pre-training or file, from which the other row does not start")
    return ", or ".join(reasons)


def _versions(cells: Sequence[tuple[Section, Cell]], planned: Sequence[PlannedCell]) -> Iterator[str]:
    """Whose trainings were made by several versions of their code, or on other devices than the rest."""
    configs = {key: cell.config for cell in planned for key in cell.training_keys}
    origins = {each.training_key: each for _, cell in cells for each in cell.origins if each.counts and each.code}
    made: dict[tuple[Any, ...], dict[str, str]] = {}
    for key, origin in origins.items():
        config = configs[key]
        # Code that a training runs differs with these, and so does its hash.
        alike = config.model.method, config.model.backbone_name, len(config.stages), any(config.weights)
        commit = origin.commit[:COMMIT] if origin.commit else "an unknown commit"
        made.setdefault((*alike, origin.device_type), {}).setdefault(origin.code, commit)
    versions = [f"{method} ({', '.join(each.values())})" for (method, *_), each in made.items() if len(each) > 1]
    if versions:
        yield f"Several versions of its code, whose numbers may differ for that, trained {'; '.join(versions)}."
    devices = Counter(origin.device_type for origin in origins.values())
    if len(devices) > 1:
        yield f"CPUs made {counted(devices['cpu'], 'training')} and GPUs {counted(devices['cuda'], 'training')}."


def _starts(cells: Sequence[tuple[Section, Cell]], planned: Sequence[PlannedCell]) -> Iterator[str]:
    """Which rows start from a pre-training of the same key, but not from the same weights."""
    started = [config for cell in planned if cell.config.stage is not None for config in cell.trainings]
    stages = {config.key: config.stage.key for config in started if config.stage is not None}
    rows: dict[str, dict[str, dict[str, None]]] = {}
    for _, cell in cells:
        for origin in cell.origins:
            stage = stages.get(origin.training_key)
            if origin.counts and origin.start_weights and stage is not None:
                rows.setdefault(stage, {}).setdefault(origin.start_weights, {})[cell.label] = None
    apart = [" against ".join(", ".join(labels) for labels in by.values()) for by in rows.values() if len(by) > 1]
    if apart:
        yield (
            "Some pre-trainings were made anew and came out differently, so these rows do not start from the same "
            f"weights: {'; '.join(dict.fromkeys(apart))}."
        )


def _other_classes(cells: Sequence[tuple[Section, Cell]]) -> str:
    """How it is known whether the verdicts would hold for other classes, or why it is not."""
    made = [each.other_classes for each in _decided(cells) if each.other_classes]
    counts = sorted({over.classes for over in made if over.classes is not None})
    text = ""
    if counts:
        freedom = _either([count - 1 for count in counts])
        text = (
            f"Verdicts are given the {_either(counts)} test classes. Whether one would hold for other classes drawn "
            "like these is judged by a 95 % interval over classes, episodes and seeds: a jackknife that leaves out the "
            f"episodes of one class at a time, with at most {freedom} degrees of freedom. It holds if the interval "
            "excludes 0 on the verdict's side or, for same, lies within the margin. "
        )
    obstacles = sorted({over.obstacle for over in made if over.obstacle})
    if obstacles:
        some = "some verdicts" if counts else "the verdicts"
        text += f"Whether {some} would hold for other test classes is not known: {'; '.join(obstacles)}."
    return text.strip()


def for_other_classes(sections: Sequence[Section]) -> tuple[str, ...]:
    """A line for each decided comparison: whether its verdict would hold for other classes."""
    lines = []
    for section in sections:
        for cell in section.cells:
            for each in _decided([(section, cell)]):
                if each.holds_for_other_classes is not None and each.difference is not None and each.other_classes:
                    lines.append(
                        f"{_name(cell)}, {section.label}: would it hold for other classes? "
                        f"{percent(each.difference, signed=True)} {over_classes(each.other_classes)} over "
                        f"{each.other_classes.classes} test classes: {holds(each)}."
                    )
    return tuple(lines)


def of_costs(sections: Sequence[Section]) -> tuple[str, ...]:
    """What the columns of costs mean, for the formats that have them; nothing if no cost is known."""
    cells = [cell for section in sections for cell in section.cells if cell.training_minutes is not None]
    mixed = _on_both_devices(sections)
    if not cells:
        return mixed
    parts = []
    if not all(cell.on_gpu for cell in cells):
        parts.append("core-minutes are CPU time, or wall time times threads where a record does not hold it")
    if any(cell.on_gpu for cell in cells):
        parts.append("GPU-minutes are wall time")
    if any(cell.pre_trained for cell in cells):
        parts.append("rows that start from one pre-training each name the whole of it")
    return (f"Costs are means over seeds, validation included; {'; '.join(parts)}.", *mixed)


def _on_both_devices(sections: Sequence[Section]) -> tuple[str, ...]:
    """Whose costs are left out, although their records hold them."""
    names = [
        f"{_name(cell)} ({section.label})"
        for section in sections
        for cell in section.cells
        if cell.training_minutes is None and any(o.counts and o.seconds is not None for o in cell.origins)
    ]
    if not names:
        return ()
    return (f"No costs: CPUs trained some seeds and GPUs others, whose minutes have no mean: {', '.join(names)}.",)


def _decided(cells: Sequence[tuple[Section, Cell]]) -> list[AgainstBaseline]:
    """The comparisons that have a verdict other than undecided."""
    made = [cell.to_baseline for _, cell in cells if cell.to_baseline]
    return [each for each in made if each.verdict and each.verdict is not Verdict.UNDECIDED]


def _recipes(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    """What a reader must know of methods that are trained by other recipes than their baseline."""
    found: dict[tuple[str, ...], list[str]] = {}
    for _, cell in cells:
        if cell.to_baseline and cell.to_baseline.recipe_differs:
            rows = found.setdefault(cell.to_baseline.recipe_differs, [])
            rows += [name for name in [_name(cell)] if name not in rows]
    told = "; ".join(f"{', '.join(rows)}: {', '.join(paths)}" for paths, rows in found.items())
    if not told:
        return []
    return [f"Methods are compared with the recipes that they have here, which differ from the baseline's: {told}."]


def _asked(sections: Sequence[Section]) -> list[str]:
    """A line for each further pair of rows that the sweep compares."""
    lines = []
    for section in sections:
        for each in section.asked:
            against = each.against
            numbers = ""
            if not against.is_of_models and against.low is not None and against.high is not None:
                assert against.difference is not None
                numbers = f"{percent(against.difference, signed=True)} {interval(against.low, against.high)}, "
            name = ", ".join((each.name, *each.variant))
            told = f"{name} − {against.baseline} ({section.label}): {numbers}{explained(against)}"
            lines.append(f"Also compared: {told}.")
    return lines


def _several_baselines(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    """Which baseline's row each row is compared with, if a section has several."""
    found: dict[tuple[str, ...], list[str]] = {}
    for _, cell in cells:
        if cell.to_baseline and cell.to_baseline.difference is not None:
            rows = found.setdefault((cell.to_baseline.baseline, *cell.to_baseline.baseline_variant), [])
            rows += [name for name in [_name(cell)] if name not in rows]
    baselines = Counter(section.label for section, cell in cells if cell.is_baseline)
    if len(found) < 2 and max(baselines.values(), default=0) < 2:
        return []
    return [f"Compared with {', '.join(baseline)}: {'; '.join(rows)}." for baseline, rows in found.items()]


def _margins(made: Sequence[AgainstBaseline]) -> str:
    """`0.5`, or `0.12 to 0.5` where some rows are near 100 %."""
    return _range([each.margin for each in made], points)


def _range(values: Sequence[float], text: Callable[[float], str]) -> str:
    """The least and the largest value, or the value if all read alike."""
    return " to ".join(dict.fromkeys((text(min(values)), text(max(values)))))


def _needed(compared: Sequence[AgainstBaseline]) -> str:
    if not any(each.more_seeds is not None or each.episodes_needed is not None for each in compared):
        return ""
    return (
        " More seeds, or more episodes where seeds alone would not suffice: enough for a verdict in "
        f"{100 * POWER:g} % of cases, if the true difference is the one found."
    )


def _best(cells: Sequence[tuple[Section, Cell]], spread: SeedSpread) -> str:
    if sum(cell.accuracy is not None for _, cell in cells) < 2:
        return ""
    text = (
        "Bold: our rows that are not shown to be below the section's highest (Hsu's comparison with the best, at 5 %)"
    )
    if spread.source is Source.ASSUMED:
        text += f", if the seeds' sd is {percent(spread.sd)}"
    return f"{text}."


def _published(cells: Sequence[tuple[Section, Cell]], spread: SeedSpread) -> str:
    sources = sorted({cell.published.source for _, cell in cells if cell.published})
    if not sources:
        return ""
    text = f"Paper: {'; '.join(sources)}."
    compared = [cell for _, cell in cells if cell.to_published and cell.to_published.difference is not None]
    if compared:
        sd, margin = percent(spread.together.cell_variance**0.5), points(PAPER_MARGIN)
        known = (
            f"of {sd} ({freedom(spread.together.cell_freedom)})"
            if spread.together.cell_freedom > 0
            else f"of {sd}, which is assumed, so nothing is decided"
        )
        text += (
            f" Ours minus paper is unpaired; ± combines both intervals over episodes with the variation of our seeds "
            f"and of their one training's, with an sd over seeds {known}. Reproduced: the interval lies within "
            f"{margin} point{'' if margin == '1' else 's'}; above and below: it does not, and excludes 0."
        )
    if any(cell.published.ci95 is None for cell in compared if cell.published):
        text += " Table 2 gives no intervals, so those of Table 1's DMF row are assumed."
    return text


def _departures(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    found: dict[tuple[str, ...], list[str]] = {}
    for section, cell in cells:
        departures = cell.departures or (cell.to_published.departures if cell.to_published else ())
        if departures and cell.to_published:
            found.setdefault(departures, []).append(f"{_name(cell)} ({section.label})")
    return [
        f"Departures from the published protocols: {', '.join(names)}: {'; '.join(paths)}."
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


def _images(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    """What trainings and tests noted about their images."""
    found = dict.fromkeys(printable(doubt) for _, cell in cells for doubt in cell.data_doubts)
    return [f"Images of {doubt}." for doubt in found]


def _fewer(cells: Sequence[tuple[Section, Cell]], planned: Sequence[PlannedCell]) -> list[str]:
    """Which rows are tested on the first episodes of their bank only."""
    whole = {cell.evaluation.episodes for cell in planned if cell.evaluation.tested < cell.evaluation.episodes}
    names: dict[str, list[str]] = {}
    for _, cell in cells:
        if cell.episodes and cell.episodes not in whole and any(cell.episodes < each for each in whole):
            told = f"{cell.episodes:,} of {_either(sorted(whole))}"
            names.setdefault(told, []).append(_name(cell))
    return [
        f"{', '.join(dict.fromkeys(those))}: tested on the first {told} episodes, and compared with others on these."
        for told, those in names.items()
    ]


def _counts(cells: Sequence[tuple[Section, Cell]]) -> list[str]:
    """What methods counted beside their answers."""
    return [
        f"{_name(cell)}, {section.label}: {count:,} of {section.way * cell.episodes * len(cell.seeds_done):,} "
        f"{COUNTED.get(name, name)}."
        for section, cell in cells
        for name, count in cell.counts.items()
        if count and cell.episodes
    ]


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
