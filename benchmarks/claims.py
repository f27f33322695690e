"""How often a report says something false about a claim, by simulation.

Each simulated sweep has the rows of Table 2c's layout on a small backbone, trained with several seeds whose luck is
drawn, and the claims of every kind. Their true outcomes are known from the true accuracies: a sweep is counted if a
claim that is false is said to hold, or one that is true by the margin is said to fail.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness import Report, main
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.records.facts import Ended, Tested
from reports.claims import Claim, Relation, Says, relations
from reports.fill import gather
from reports.judge import Judged, Outcome, judge
from reports.layouts import TABLES
from reports.statistics.cells import mean_ci95
from reports.statistics.pairs import LEVEL
from reports.tables import PlannedCell

SWEEPS, SHORT_SWEEPS = 1_500, 100
SEEDS = (2, 3, 5)
EPISODES = 400
SEED_SD, EPISODE_SD, HARDNESS_SD = 0.005, 0.04, 0.04
ROWS = (1, 4, 16, 64)
LAYOUT = TABLES["2c"]
TRUTHS = {
    "all rows equal": (0.0, 0.0, 0.0, 0.0),
    "each at the margin from the one before": (0.0, 0.005, 0.01, 0.015),
    "saturated from 4 on": (0.0, 0.02, 0.02, 0.02),
    "saturated but for the margin": (0.0, 0.02, 0.025, 0.025),
}
CLAIMS = tuple(
    Claim.from_dict({"say": "x", "table": "2c", **kind})
    for kind in (
        {"above": [64, 1]},
        {"above": [1, 4]},
        {"best": 64},
        {"worst": 1},
        {"saturates": 4},
        {"saturates": 16},
        {"falls": [64, 16, 4]},
        {"gain": {"of": [64, 1], "by": 0.01}},
    )
)


@dataclass
class Drawn:
    """Implements `Records` with drawn episodes."""

    tests: dict[tuple[str, str], Tested]

    def how_ended(self, key: str) -> Ended | None:
        return None

    def how_tested(self, training_key: str, evaluation_key: str) -> Tested | None:
        return self.tests.get((training_key, evaluation_key))

    def running(self, key: str) -> bool:
        return False


def planned(seeds: int) -> tuple[PlannedCell, ...]:
    """One cell for each of ROWS."""
    config = ExperimentConfig().replace(data__name="glyphs", model__backbone="conv64f", model__alignment=1)
    test = EvaluationConfig(episodes=EPISODES, shot=1)
    rows = [config.replace(model__groups=groups) for groups in ROWS]
    return tuple(PlannedCell(table="2c", config=row, evaluation=test, seeds=tuple(range(seeds))) for row in rows)


def draw(cells: Sequence[PlannedCell], truth: Sequence[float], random: np.random.Generator) -> Drawn:
    """Records of trainings whose rows have the accuracies 0.6 + `truth`."""
    seeds = len(cells[0].seeds)
    hardness = random.normal(0, HARDNESS_SD, EPISODES)
    of_seed, luck = random.normal(0, SEED_SD, seeds), random.normal(0, SEED_SD, (len(cells), seeds))
    noise = random.normal(0, EPISODE_SD, (len(cells), seeds, EPISODES))
    tests = {}
    for row, cell in enumerate(cells):
        for seed, key in enumerate(cell.training_keys):
            values = 0.6 + truth[row] + of_seed[seed] + luck[row, seed] + hardness + noise[row, seed]
            name = cell.evaluation.key
            accuracy, ci95 = mean_ci95(values)
            tests[key, name] = Tested(f"{key}/{name}", name, accuracy, ci95, "bank", "data", "", 2, values)
    return Drawn(tests)


def is_true(relation: Relation, truth: dict[int, float], margin: float, by_margin: bool) -> bool:
    """Whether a relation holds of the true accuracies; `by_margin`: so clearly that to deny it is false."""
    d = truth[relation.ours] - truth[relation.theirs]
    if relation.says is Says.ABOVE:
        return d >= margin - 1e-12 if by_margin else d > 0
    if relation.says is Says.NOT_ABOVE:
        return d <= 0 if by_margin else d < margin - 1e-12
    return abs(d - relation.by) < (1e-12 if by_margin else margin - 1e-12)


def is_false(judged: Judged, claim: Claim, truth: dict[int, float]) -> bool:
    """Whether what is said of a claim is false."""
    asserted = relations(claim, ROWS)
    if judged.ours is Outcome.HOLDS:
        return not all(is_true(relation, truth, LAYOUT.margin, by_margin=False) for relation in asserted)
    if judged.ours is Outcome.FAILS:
        return all(is_true(relation, truth, LAYOUT.margin, by_margin=True) for relation in asserted)
    return False


def run(report: Report) -> None:
    """False words about claims, by simulation."""
    sweeps = SHORT_SWEEPS if report.settings.short else SWEEPS
    random = np.random.default_rng(5)
    rows = []
    for what, offsets in TRUTHS.items():
        truth = dict(zip(ROWS, offsets, strict=True))
        for seeds in SEEDS:
            cells, false, decided = planned(seeds), 0, 0
            for _ in range(sweeps):
                said = judge(CLAIMS, [gather(LAYOUT, cells, draw(cells, offsets, random))])
                false += any(is_false(each, claim, truth) for each, claim in zip(said, CLAIMS, strict=True))
                decided += sum(each.ours in (Outcome.HOLDS, Outcome.FAILS) for each in said)
            rows.append(
                {
                    "true accuracies": what,
                    "S": seeds,
                    "false reports %": 100 * false / sweeps,
                    "claims decided %": 100 * decided / sweeps / len(CLAIMS),
                }
            )
        report.say(what)
    report.table(f"claims of {len(CLAIMS)} kinds, {sweeps:,} sweeps", rows)
    bound = 100 * LEVEL + 300 * float(np.sqrt(LEVEL * (1 - LEVEL) / sweeps))
    report.claim(
        "reports with a false word about a claim, worst",
        max(row["false reports %"] for row in rows),
        at_most=bound,
        unit=" %",
        note=f"5 % and three standard errors of {sweeps:,} sweeps",
    )


if __name__ == "__main__":
    sys.exit(main("claims", run))
