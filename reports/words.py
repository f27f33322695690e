"""How numbers and verdicts read in every format."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from reports.cells import AgainstBaseline, OtherClasses, Table
from reports.statistics.pairs import LEVEL, PairedTest
from reports.statistics.verdicts import Verdict

KNOWN_FROM = 10
"""Degrees of freedom from which on a standard deviation is not said to be known poorly."""


def percent(fraction: float, signed: bool = False) -> str:
    """0.6776 -> 67.76, signed +67.76; halves are rounded away from zero, as on paper."""
    value = (Decimal(repr(fraction)) * 100).quantize(Decimal("0.01"), ROUND_HALF_UP)
    text = f"{abs(value)}" if value == 0 else f"{value}"
    if signed and value > 0:
        text = f"+{text}"
    return text.replace("-", "−")


def points(margin: float) -> str:
    """A margin: 0.005 -> 0.5."""
    return f"{100 * margin:g}"


def counted(count: int, what: str) -> str:
    """`1 look`, `1,200 looks`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def p_value(p: float) -> str:
    """`<0.001`, `0.032`; one below the level of verdicts does not read as the level, but `<0.05`."""
    if p < 0.001:
        return "<0.001"
    text = f"{p:.3f}"
    return f"<{LEVEL}" if p < LEVEL <= float(text) else text


def p_field(p: float) -> str:
    """The same for programs: three digits, or all where three would make it the level."""
    text = f"{p:.3g}"
    return repr(p) if p < LEVEL <= float(text) else text


def interval(low: float, high: float) -> str:
    """A difference's: [+0.80, +1.30]."""
    return f"[{percent(low, signed=True)}, {percent(high, signed=True)}]"


def freedom(degrees: float) -> str:
    """`1 degree of freedom`, `36 degrees of freedom`, `43.1 degrees of freedom`."""
    number = f"{degrees:.1f}".removesuffix(".0")
    return f"{number} degree{'' if number == '1' else 's'} of freedom"


def verdict(comparison: AgainstBaseline) -> str:
    """The verdict on the method in a word or two, or why there is none."""
    if comparison.verdict is Verdict.SAME:
        return f"same within {points(comparison.margin)}"
    return comparison.verdict or comparison.obstacle


def explained(comparison: AgainstBaseline) -> str:
    """The verdict with what it rests on, and what an undecided one would take."""
    text = verdict(comparison)
    if comparison.is_of_models:
        text = _of_models(comparison)
    elif comparison.verdict is Verdict.SAME and comparison.is_detected and comparison.difference is not None:
        text += f" ({percent(comparison.difference, signed=True)})"
    if comparison.verdict is Verdict.UNDECIDED:
        text += ", goes on" if comparison.goes_on else _needed(comparison)
    if comparison.test is PairedTest.OWN:
        text += ", own variance"
    if comparison.accuracy is not None and comparison.baseline_accuracy is not None:
        which = ", ".join(map(str, comparison.seeds))
        seeds = "seed" if len(comparison.seeds) == 1 else "seeds"
        text += f"; {seeds} {which}: {percent(comparison.accuracy)} − {percent(comparison.baseline_accuracy)}"
    return text


def intervals(table: Table) -> str:
    """What a table's differences have: its 95 % interval, or that of a row's last look, which is wider."""
    shown = [c.to_baseline for s in table.sections for c in s.cells if c.to_baseline and c.to_baseline.low is not None]
    looked = [each for each in shown if each.look_level is not None]
    if not looked:
        return "its 95 % interval"
    others = "" if len(looked) == len(shown) else ", or its 95 % interval where no look decides"
    return f"the interval of its last look{others}"


def margins(table: Table) -> str:
    """The margin of a table's differences: `0.5 points`, `0.5 points (0.12 and more near 100 %)`."""
    found = [c.to_baseline.margin for s in table.sections for c in s.cells if c.to_baseline and c.to_baseline.test]
    least = min(found, default=table.margin)
    near = f" ({points(least)} and more near 100 %)" if least < table.margin else ""
    return f"{points(table.margin)} points{near}"


def over_classes(over: OtherClasses | None) -> str:
    """The interval over test classes; empty if it is not known."""
    return interval(over.low, over.high) if over and over.low is not None and over.high is not None else ""


def holds(comparison: AgainstBaseline) -> str:
    """Whether the interval over test classes supports the verdict; empty if nothing is decided or it is not known."""
    found = comparison.holds_for_other_classes
    return "" if found is None else "yes" if found else "not shown"


def _of_models(comparison: AgainstBaseline) -> str:
    difference, low, high = comparison.difference, comparison.low, comparison.high
    method_low, method_high, sd = comparison.method_low, comparison.method_high, comparison.sd_used
    assert difference is not None and low is not None and high is not None
    assert method_low is not None and method_high is not None and sd is not None
    seeds = "a single training" if comparison.single else "1 seed"
    known = f"if the seeds' sd is {percent(sd)}"
    if comparison.sd_freedom is not None:
        poorly = ", known poorly" if comparison.sd_freedom < KNOWN_FROM else ""
        known = f"by a seeds' sd of {percent(sd)}{poorly} ({freedom(comparison.sd_freedom)})"
    return (
        f"these two models: {percent(difference, signed=True)} {interval(low, high)}; "
        f"method: {Verdict.UNDECIDED} ({seeds}), {interval(method_low, method_high)} {known}"
    )


def _needed(comparison: AgainstBaseline) -> str:
    if comparison.more_seeds is not None:
        return f", about {comparison.more_seeds} more seed{'s' if comparison.more_seeds > 1 else ''}"
    if comparison.episodes_needed is not None:
        return f", about {comparison.episodes_needed:,} episodes"
    return ""
