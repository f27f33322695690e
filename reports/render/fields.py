"""The CSV fields of each column. Numbers are percent or percentage points with two decimals; p and levels are not."""

from __future__ import annotations

from reports.cells import Cell
from reports.words import holds, p_field, percent
from reports.words import verdict as word_of

Fields = dict[str, str | int | None]
"""CSV fields by name; None is an empty field."""


def plain(fraction: float | None) -> str | None:
    """Percent with a hyphen as minus sign, as programs read it."""
    return None if fraction is None else percent(fraction).replace("−", "-")


def published(cell: Cell) -> Fields:
    """The paper's number and its source."""
    number = cell.published
    return {
        "paper_percent": plain(number.accuracy) if number else None,
        "paper_ci95": plain(number.ci95) if number else None,
        "paper_dataset": number.dataset if number else None,
        "paper_backbone": number.backbone if number else None,
        "paper_source": number.source if number else None,
    }


def library(cell: Cell) -> Fields:
    """LibFewShot's numbers, each with its page."""
    return {
        "libfewshot_percent": " / ".join(percent(number.accuracy) for number in cell.library),
        "libfewshot_source": " / ".join(number.source for number in cell.library),
    }


def ours(cell: Cell) -> Fields:
    """Our accuracy, or the reasons why there is none."""
    return {
        "state": cell.state,
        "reason": "; ".join(cell.reasons),
        "stale": "; ".join(cell.doubts),
        "accuracy_percent": plain(cell.accuracy),
        "ci95": plain(cell.ci95),
        "best": "yes" if cell.best else "no",
    }


def to_published(cell: Cell) -> Fields:
    """Ours minus the paper's."""
    comparison = cell.to_published
    return {
        "minus_paper": plain(comparison.difference) if comparison else None,
        "minus_paper_ci95": plain(comparison.ci95) if comparison else None,
        "minus_paper_verdict": comparison.words if comparison else None,
        "departures": "; ".join(comparison.departures) if comparison else None,
    }


def to_baseline(cell: Cell) -> Fields:
    """A row minus its baseline: of the methods, or with one seed of two models.

    The interval is of 95 %, or of the level of the row's last look, which is then given.
    """
    comparison = cell.to_baseline
    return {
        "baseline": comparison.baseline if comparison else None,
        "minus_baseline": plain(comparison.difference) if comparison else None,
        "minus_baseline_low": plain(comparison.low) if comparison else None,
        "minus_baseline_high": plain(comparison.high) if comparison else None,
        "look_level": f"{comparison.look_level:.3g}" if comparison and comparison.look_level is not None else None,
        "minus_baseline_of": ("models" if comparison.is_of_models else "methods")
        if comparison and comparison.test
        else None,
        "minus_baseline_seeds": " ".join(map(str, comparison.seeds)) if comparison else None,
        "method_low": plain(comparison.method_low) if comparison else None,
        "method_high": plain(comparison.method_high) if comparison else None,
        "method_sd_used": plain(comparison.sd_used) if comparison else None,
        "percent_of_seeds": plain(comparison.accuracy) if comparison else None,
        "baseline_percent_of_seeds": plain(comparison.baseline_accuracy) if comparison else None,
    }


def in_paper(cell: Cell) -> Fields:
    """The same difference in the paper."""
    comparison = cell.to_baseline
    return {"minus_baseline_in_paper": plain(comparison.published_difference) if comparison else None}


def p_holm(cell: Cell) -> Fields:
    """The p-values, unadjusted and adjusted, and the test."""
    comparison = cell.to_baseline
    return {
        "p": p_field(comparison.p) if comparison and comparison.p is not None else None,
        "p_holm": p_field(comparison.p_holm) if comparison and comparison.p_holm is not None else None,
        "p_same_holm": p_field(comparison.p_same_holm) if comparison and comparison.p_same_holm is not None else None,
        "test": comparison.test if comparison else None,
    }


def other_classes(cell: Cell) -> Fields:
    """The same difference over other test classes, and whether the verdict would hold for them."""
    comparison = cell.to_baseline
    over = comparison.other_classes if comparison else None
    return {
        "test_classes": over.classes if over else None,
        "minus_baseline_other_classes_low": plain(over.low) if over else None,
        "minus_baseline_other_classes_high": plain(over.high) if over else None,
        "holds_for_other_classes": holds(comparison) if comparison else None,
        "other_classes_obstacle": over.obstacle if over else None,
    }


def verdict(cell: Cell) -> Fields:
    """The verdict, what keeps the row from being compared, and what would decide it."""
    comparison = cell.to_baseline
    return {
        "also_differs": "; ".join(comparison.also_differs) if comparison else None,
        "recipe_differs": "; ".join(comparison.recipe_differs) if comparison else None,
        "verdict": "baseline" if cell.is_baseline else word_of(comparison) if comparison else None,
        "margin": plain(comparison.margin) if comparison and comparison.verdict else None,
        "more_seeds": comparison.more_seeds if comparison else None,
        "episodes_needed": comparison.episodes_needed if comparison else None,
    }
