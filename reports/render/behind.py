"""What a page shows behind a number: its trainings and tests, and the code, machine and images that made them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from reports.cells import Cell, Section
from reports.origins import Origin
from reports.render import texts

MOST_SEEDS = 12
"""Seeds of a row that a page lists, those without a result first; the table's JSON has them all."""
UNKNOWN = "not known"


def behind(section: Section, cell: Cell, runs: Mapping[str, str]) -> dict[str, object]:
    """One row's origins; `runs` has the MLflow run of a training's key, where it is known."""
    counting = [origin for origin in cell.origins if origin.counts]
    shown = sorted(sorted(cell.origins, key=lambda origin: origin.counts)[:MOST_SEEDS], key=lambda each: each.seed)
    facts = [
        ("episode bank", cell.bank or UNKNOWN),
        ("images", _by_seed(counting, _images)),
        ("code", _by_seed(counting, lambda origin: origin.code or UNKNOWN)),
        ("commit", _by_seed(counting, commit)),
        ("device", _by_seed(counting, lambda origin: origin.device or UNKNOWN)),
    ]
    return {
        "title": f"{section.label}, {', '.join((cell.name, *cell.variant))}",
        "number": texts.ours(cell),
        "facts": [(name, text) for name, text in facts if counting and text != UNKNOWN],
        "trainings": [
            {
                "seed": origin.seed,
                "key": origin.training_key,
                "evaluation": origin.evaluation_key if origin.counts else "",
                "state": _state(origin),
                "run": runs.get(origin.training_key, ""),
            }
            for origin in shown
        ],
        "has_runs": any(origin.training_key in runs for origin in shown),
        "more": len(cell.origins) - len(shown),
        "doubts": "; ".join(cell.doubts),
    }


def commit(origin: Origin) -> str:
    """`0123456789ab, clean`, or with uncommitted changes."""
    if not origin.commit:
        return UNKNOWN
    name, plus, _ = origin.commit.partition("+")
    return f"{name[:12]}, {'with uncommitted changes' if plus else 'clean'}"


def _images(origin: Origin) -> str:
    if not origin.data_fingerprint:
        return UNKNOWN
    return f"{origin.data_fingerprint[:16]}{f', found at {origin.image_sizes}' if origin.image_sizes else ''}"


def _state(origin: Origin) -> str:
    if origin.counts:
        return ""
    if origin.failure:
        return f"{origin.outcome}: {origin.failure}"
    return {"finished": "finished but not counted", "not ended": "not ended"}.get(origin.outcome, origin.outcome)


def _by_seed(origins: Iterable[Origin], fact: Callable[[Origin], str]) -> str:
    """The distinct facts, each with its seeds if there are several."""
    found: dict[str, list[int]] = {}
    for origin in origins:
        found.setdefault(fact(origin), []).append(origin.seed)
    if len(found) < 2:
        return next(iter(found), UNKNOWN)
    return "; ".join(f"{text} (seed{'s' if len(seeds) > 1 else ''} {spans(seeds)})" for text, seeds in found.items())


def spans(seeds: Iterable[int]) -> str:
    """Numbers in short: 0–3, 7."""
    parts: list[list[int]] = []
    for seed in sorted(seeds):
        if parts and seed == parts[-1][-1] + 1:
            parts[-1].append(seed)
        else:
            parts.append([seed])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}–{part[-1]}" for part in parts)
