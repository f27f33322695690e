"""Describes what a sweep would do, for `--plan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from dmf.records.staleness import Today
from orchestrator.costs.images import Look
from orchestrator.costs.looks import look_lines
from orchestrator.costs.preview import Preview, preview
from orchestrator.spec.model import SweepSpec
from orchestrator.spec.plan import SweepPlan, Trial, labels, shortened
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import Standing, standing
from reports.looks import agreed, cells_at_most
from reports.words import counted

SEEDS_SHOWN = 10
PLANNED = {
    "missing": "to train",
    "started": "to continue from its checkpoint",
    "failed": "failed",
    "stale": "stale",
    "damaged": "damaged",
    "blocked": "blocked",
    "no weights": "trained, weights not kept",
    "untested": "trained, to test",
    "done": "done",
    "diverged": "diverged",
}
"""State -> what it means for the next start."""

LEFT_ALONE: dict[str, str] = {
    "failed": "failed ones did so in an earlier start and are left alone: --retry-failed tries them again",
    "stale": "stale ones are left alone: --accept-stale uses them, --retrain-stale retrains them",
    "damaged": "damaged ones are left alone: --retrain-damaged puts them aside and retrains them",
    "no weights": "those without weights are left alone: --retrain-lost puts them aside and retrains them",
}


def describe(
    spec: SweepSpec,
    planned: SweepPlan,
    ledger: Ledger,
    today: Today,
    asked: Sequence[Trial] | None = None,
    images: Look | None = None,
) -> str:
    """Describe what a sweep, or the `asked` trials of it, would do; `images` looks at those of trials to run."""
    if spec.search is not None:
        return describe_search(spec, ledger, images)
    planned = _at_most(planned, ledger)
    everything = planned.trials()
    trials = everything if asked is None else asked
    stands = {trial.key: standing(trial, ledger, today) for trial in trials}
    if images:
        images.at([trial for trial in trials if not stands[trial.key].ended])
    told = labels(trial.config for trial in everything)
    whole = {trial.key: stands[trial.key].whole(trial) for trial in trials}
    seen = preview(spec, planned, ledger, trials, whole, images.base_classes if images else {})
    alone = [
        told
        for state, told in LEFT_ALONE.items()
        if any(each.state == state and not each.again for each in stands.values())
    ]
    wanted, cells = planned.trainings_asked, len(planned.cells)
    stages = Counter(trial.config.as_start for trial in everything if not trial.evaluations)
    distinct = len(everything) - stages.total()
    part = f"{len(trials)} of them" if asked is not None else "trainings"
    tables = Counter(cell.table for cell in planned.cells)
    counts = Counter(_told(each) for each in stands.values())
    evaluations = sum(len(trial.evaluations) for trial in trials)
    tested = sum(len(each.tested) for each in stands.values())
    head = [
        f"Sweep {planned.name}: {planned.about}",
        f"{counted(cells, 'cell')} in {', '.join(f'table {name}: {n}' for name, n in tables.items())}; {_seeds(spec)}",
        f"{counted(wanted, 'training')} asked for, {distinct} distinct "
        f"({counted(wanted - distinct, 'duplicate')} removed)"
        + (f", and {_counted(stages)} that some start from" if stages else ""),
        f"{part}: " + ", ".join(f"{number} {state}" for state, number in counts.items()),
        f"{counted(evaluations, 'evaluation')}, {tested} done",
        *alone,
        *(images.facts if images else ()),
        *_costs(planned, ledger, seen),
        *(f"warning: {warning}" for warning in (*(images.doubts if images else ()), *seen.warnings)),
        "",
    ]
    lines = []
    width = max(len(told[trial.key]) for trial in trials)
    for trial in trials:
        fills = f"table {', '.join(dict.fromkeys(trial.tables))}" if trial.tables else "-"
        line = f"{trial.key}  {told[trial.key]:<{width}}  {fills}  {_told(stands[trial.key])}"
        line += f": {stands[trial.key].why}" if stands[trial.key].why else ""
        where = other_root(trial, stands[trial.key])
        lines.append(", ".join(filter(None, (line, seen.of(trial.key), where))))
    return "\n".join([*head, *shortened(lines)])


def costs_of(spec: SweepSpec, planned: SweepPlan, ledger: Ledger, asked: Sequence[Trial] | None = None) -> list[str]:
    """What is left of a sweep, or of the `asked` trials of it, will cost: the lines that `describe` has for it."""
    planned = _at_most(planned, ledger)
    return _costs(planned, ledger, preview(spec, planned, ledger, asked))


def _costs(planned: SweepPlan, ledger: Ledger, seen: Preview) -> list[str]:
    return look_lines(planned, ledger, seen) if planned.rule else list(seen.lines)


def _at_most(planned: SweepPlan, ledger: Ledger) -> SweepPlan:
    """A plan with the most seeds that its looks may yet ask for, if it has looks."""
    if planned.rule is None:
        return planned
    looks = agreed(planned.rule, ledger.looks(planned.name))
    return planned.with_cells(cells_at_most(planned.cells, looks))


def _seeds(spec: SweepSpec) -> str:
    if spec.deciding:
        return f"seeds 0, 1 and then one at a time up to {spec.deciding.at_most}, as looks decide"
    shown, more = ", ".join(map(str, spec.all_seeds[:SEEDS_SHOWN])), len(spec.all_seeds) - SEEDS_SHOWN
    return f"seeds {shown}" + (f" and {more} more" if more > 0 else "")


def _counted(stages: Counter[str]) -> str:
    """`1 pre-training and 2 earlier trainings`."""
    return " and ".join(counted(number, what) for what, number in stages.items())


def _told(stands: Standing) -> str:
    return PLANNED[stands.state] + (", to retry" if stands.again else "")


def other_root(trial: Trial, stands: Standing) -> str | None:
    """`trained on images at ...`, if a stored training's images were in another folder than the sweep now says."""
    ended = stands.record
    if ended is None or ended.outcome == "failed" or ended.data_root in (None, trial.config.data.root):
        return None
    return f"trained on images at {ended.data_root}"


def describe_search(spec: SweepSpec, ledger: Ledger, images: Look | None = None) -> str:
    """Describe what a search would do and has tried. Raises ValueError if the store has another search of its name."""
    from orchestrator.store.searches import listing, resume

    assert spec.search is not None
    results = resume(spec, ledger)
    lines = [f"Search {spec.name}: {counted(spec.search.trials, 'training')} over"]
    lines += [f"  {path}: {range_}" for path, range_ in spec.search.parameters.given().items()]
    lines.append(f"{len(results.tried)} tried, {max(0, spec.search.trials - len(results.tried))} to try")
    if images:
        lines += [*images.facts, *(f"warning: {doubt}" for doubt in images.doubts)]
    return "\n".join([*lines, listing(results)] if results.tried else lines)
