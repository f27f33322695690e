"""The cells that a sweep file asks for."""

from __future__ import annotations

from dmf.config import EvaluationConfig
from orchestrator.spec.model import SweepSpec
from reports.tables import PlannedCell


def cells_of(spec: SweepSpec) -> tuple[PlannedCell, ...]:
    """The cells of a sweep, in the file's order, without duplicates."""
    cells: dict[tuple[str, str, str], PlannedCell] = {}
    tests: dict[tuple[EvaluationConfig, int, bool], EvaluationConfig] = {}
    evaluations, seeds = [spec.evaluations_of(number) for number in range(len(spec.parts))], spec.all_seeds
    for combination in spec.resolved:
        config, table = combination.config, spec.table_of(combination.part)
        if isinstance(config, ValueError):
            raise config
        for evaluation in evaluations[combination.part]:
            place = evaluation, config.episodes.shot, config.model.reads_base  # what `resolve` looks at
            if place not in tests:
                tests[place] = evaluation.resolve(config)
            key = table, config.key, tests[place].key
            if key not in cells:
                own = seeds if config.seeded else seeds[:1]
                cells[key] = PlannedCell(table=table, config=config, evaluation=tests[place], seeds=own)
    return tuple(cells.values())
