"""What each column prints for a cell. Fractions become percent with two decimals."""

from __future__ import annotations

from reports.cells import Cell
from reports.published import BACKBONES, parts_of
from reports.words import explained, holds, interval, p_value, percent
from reports.words import over_classes as interval_over

NOTHING = "–"
"""Printed if a column has no value for a cell."""
LONGEST_REASON = 24
"""Longest reason that a table prints, in characters; longer ones go to its notes."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def number(value: float, ci95: float | None) -> str:
    """`67.76 ± 0.46`, or `67.76` without an interval."""
    return percent(value) if ci95 is None else f"{percent(value)} ± {percent(ci95)}"


def label(cell: Cell) -> str:
    """The row's label and what else tells it from rows of that label."""
    return ", ".join((cell.label, *cell.variant))


def component(place: int, cell: Cell) -> str:
    """The mark of one of a row's components; the first column also has the name of a row that has none."""
    if cell.marks:
        return ", ".join((cell.marks[place], *(cell.variant if place == 0 else ())))
    return label(cell) if place == 0 else ""


def backbone(cell: Cell) -> str:
    """The paper's name for the backbone."""
    return BACKBONES.get(cell.backbone, cell.backbone) or "-"


def protocol(cell: Cell) -> str:
    """Whose protocol a training follows, where its method has a choice."""
    return cell.protocol or NOTHING


def published(cell: Cell) -> str:
    """The paper's number."""
    return number(cell.published.accuracy, cell.published.ci95) if cell.published else NOTHING


def library(cell: Cell) -> str:
    """The distinct numbers on LibFewShot's pages."""
    return " / ".join(dict.fromkeys(percent(each.accuracy) for each in cell.library)) or NOTHING


def ours(cell: Cell) -> str:
    """Our accuracy over episodes, or why there is none."""
    if cell.accuracy is not None:
        return number(cell.accuracy, cell.ci95)
    text = "; ".join(cell.reasons)
    return text if len(text) <= LONGEST_REASON else f"{cell.state} (see notes)"


def seed_sd(cell: Cell) -> str:
    """The standard deviation over seeds, with their number."""
    return NOTHING if cell.seed_sd is None else f"{percent(cell.seed_sd)} (n={len(cell.seeds_done)})"


def total(cell: Cell) -> str:
    """The half-width over episodes and seeds."""
    return NOTHING if cell.total_ci95 is None else f"± {percent(cell.total_ci95)}"


def over_classes(cell: Cell) -> str:
    """The half-width over test classes and episodes."""
    return NOTHING if cell.classes_ci95 is None else f"± {percent(cell.classes_ci95)}"


def other_classes(cell: Cell) -> str:
    """The interval of a difference over test classes, and whether it supports the verdict."""
    comparison = cell.to_baseline
    text = f"{interval_over(comparison.other_classes)} {holds(comparison)}".strip() if comparison else ""
    return text or NOTHING


def episodes(cell: Cell) -> str:
    """The number of test episodes."""
    return NOTHING if cell.episodes is None else f"{cell.episodes:,}"


def seeds(cell: Cell) -> str:
    """How many of the planned seeds are done."""
    return f"{len(cell.seeds_done)} of {len(cell.seeds_planned)}" if cell.seeds_planned else NOTHING


def to_published(cell: Cell) -> str:
    """Ours minus the paper's, with the verdict or why there is none."""
    comparison = cell.to_published
    if comparison is None:
        return NOTHING
    if comparison.difference is None:
        return comparison.words
    return f"{percent(comparison.difference, signed=True)} ± {percent(comparison.ci95 or 0)} {comparison.words}"


def to_baseline(cell: Cell) -> str:
    """The difference of two methods, with its interval; that of two models is in the verdict."""
    comparison = cell.to_baseline
    if comparison is None or comparison.is_of_models:
        return NOTHING
    if comparison.low is None or comparison.difference is None or comparison.high is None:
        return NOTHING
    return f"{percent(comparison.difference, signed=True)} {interval(comparison.low, comparison.high)}"


def in_paper(cell: Cell) -> str:
    """The same difference in the paper."""
    comparison = cell.to_baseline
    if comparison is None or comparison.published_difference is None:
        return NOTHING
    return percent(comparison.published_difference, signed=True)


def p_holm(cell: Cell) -> str:
    """The adjusted p of no difference."""
    comparison = cell.to_baseline
    if comparison is None or comparison.p_holm is None:
        return NOTHING
    return p_value(comparison.p_holm)


def verdict(cell: Cell) -> str:
    """The verdict on the method, with what it rests on."""
    if cell.is_baseline:
        return "baseline"
    return explained(cell.to_baseline) if cell.to_baseline else NOTHING


def parameters(cell: Cell) -> str:
    """The number of learnt parameters."""
    return NOTHING if cell.parameters is None else f"{cell.parameters:,}"


def image_gflops(cell: Cell) -> str:
    """Billions of floating-point operations of one image through the backbone, such as `0.35`."""
    return NOTHING if cell.image_flops is None else f"{cell.image_flops / 1e9:.3g}"


def training(cell: Cell) -> str:
    """Core- or GPU-minutes of one training, without its pre-training."""
    return NOTHING if cell.training_minutes is None else _minutes(cell.training_minutes, cell)


def minutes_of(cell: Cell) -> str:
    """Of what a training's minutes are."""
    return "GPU" if cell.on_gpu else "core"


def _minutes(minutes: float, cell: Cell) -> str:
    """Such as `0.6 core-min` or `1,240 GPU-min`."""
    return f"{f'{minutes:.1f}' if minutes < 10 else f'{minutes:,.0f}'} {minutes_of(cell)}-min"


def pre_training(cell: Cell) -> str:
    """Whether a row has a pre-training and, if it is known, what that took."""
    if not cell.pre_trained:
        return NOTHING
    return "yes" if cell.stage_minutes is None else _minutes(cell.stage_minutes, cell)


def episode_time(cell: Cell) -> str:
    """Milliseconds per test episode, to three digits: `2.93`, `18,600`."""
    milliseconds = episode_milliseconds(cell)
    return NOTHING if milliseconds is None else f"{float(milliseconds):,.10g}"


def episode_milliseconds(cell: Cell) -> str | None:
    """The same for other programs: `18600`."""
    if cell.episode_seconds is None:
        return None
    return f"{float(f'{1000 * cell.episode_seconds:.3g}'):.10g}"


def departures(cell: Cell) -> str:
    """What of a row's training differs from the published one: its recipe, its selection, or nothing."""
    if cell.departures is None:
        return NOTHING
    return ", ".join(parts_of(cell.departures)) or "as published"


def memory(cell: Cell) -> str:
    """Peak memory of the largest training, such as `1.4 GiB`."""
    if cell.peak_bytes is None:
        return NOTHING
    value, unit = float(cell.peak_bytes), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.3g} {UNITS[unit]}" if value < 999.5 else f"{value:.0f} {UNITS[unit]}"
