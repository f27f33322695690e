"""Which trials run: by pattern, by budget."""

from __future__ import annotations

import pytest

from dmf.config import ExperimentConfig
from orchestrator.costs.budget import parse_duration, select, within
from orchestrator.costs.estimates import DONE, UNKNOWN, Cost
from orchestrator.spec.plan import Trial, labels

SEEDS = (7, 3)
TRIALS = [
    Trial(ExperimentConfig().replace(model__groups=groups, training__seed=seed), (), (table,))
    for groups, table in ((1, "2c"), (64, "2c"), (160, "2d"))
    for seed in SEEDS
]
NAMES = labels(trial.config for trial in TRIALS)


def hours(*each: float) -> dict[str, Cost]:
    return {t.key: Cost(h, h, h, None, "records") for t, h in zip(TRIALS, each, strict=True)}


def told(trials: tuple[Trial, ...]) -> list[tuple[int, int]]:
    return [(trial.config.model.groups, trial.config.training.seed) for trial in trials]


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("90m", 5400), ("2d", 172800), ("3600s", 3600), ("1.5h", 5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["12", "h", "", "-1h", "1 h", "12 hours", "1e3s", "0h", "infh"])
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write a positive number and one of s, m, h, d"):
        parse_duration(text)


def test_first_seeds_come_before_second_ones() -> None:
    assert told(within(TRIALS, hours(1, 1, 1, 1, 1, 1), 100, 1, SEEDS)) == [
        (1, 7), (64, 7), (160, 7), (1, 3), (64, 3), (160, 3)
    ]  # fmt: skip


def test_the_budget_ends_at_the_first_that_would_end_too_late() -> None:
    costs = hours(2, 1, 3, 1, 4, 1)  # first seeds: 2, 3, 4
    assert told(within(TRIALS, costs, 5, 1, SEEDS)) == [(1, 7), (64, 7)]
    assert told(within(TRIALS, costs, 4.9, 1, SEEDS)) == [(1, 7)], "the second seeds of 1 h must not overtake"
    assert told(within(TRIALS, costs, 6, 2, SEEDS)) == [(1, 7), (64, 7), (160, 7), (1, 3), (64, 3), (160, 3)]
    assert told(within(TRIALS, costs, 5.9, 2, SEEDS)) == [(1, 7), (64, 7)]  # the third would end at 2 + 4
    assert within(TRIALS, costs, 1, 2, SEEDS) == ()


def test_what_was_started_comes_first() -> None:
    costs = hours(2, 1, 3, 1, 4, 1)
    last = TRIALS[-1].key
    costs[last] = Cost(1, 1, 1, None, "records", earlier_seconds=5.0)
    assert told(within(TRIALS, costs, 3, 1, SEEDS)) == [(160, 3), (1, 7)]


def test_done_costs_nothing_and_unknown_is_refused() -> None:
    costs = hours(2, 1, 3, 1, 4, 1) | {TRIALS[0].key: DONE}
    assert told(within(TRIALS, costs, 3, 1, SEEDS)) == [(1, 7), (64, 7)]
    with pytest.raises(ValueError, match=f"1 of 6 have none, such as {TRIALS[2].key}; .* --calibrate"):
        within(TRIALS, costs | {TRIALS[2].key: UNKNOWN}, 3, 1, SEEDS)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["groups=64 seed=7"], [(64, 7)]),
        (["groups=64"], [(64, 7), (64, 3)]),
        (["*groups=1*"], [(1, 7), (1, 3), (160, 7), (160, 3)]),
        (["table 2d"], [(160, 7), (160, 3)]),
        (["table 2[ab]", "seed=3"], [(1, 3), (64, 3), (160, 3)]),
        ([TRIALS[3].key], [(64, 3)]),
        ([TRIALS[3].key[:9] + "*"], [(64, 3)]),
    ],
)
def test_trials_by_name(patterns: list[str], expected: list[tuple[int, int]]) -> None:
    assert told(select(TRIALS, NAMES, patterns)) == expected


def test_a_name_that_nothing_has_is_answered_with_what_there_is() -> None:
    with pytest.raises(ValueError) as error:
        select(TRIALS, NAMES, ["groups=2"])
    message = str(error.value)
    assert message.startswith("no training matches 'groups=2'; there are ")
    assert all(trial.key in message for trial in TRIALS) and "table 2c, table 2d" in message
    many = [Trial(ExperimentConfig().replace(training__seed=seed), (), ("1",)) for seed in range(12)]
    with pytest.raises(ValueError, match="and 2 more, table 1$"):
        select(many, labels(trial.config for trial in many), ["nothing"])


def test_what_a_training_starts_from_comes_before_it() -> None:
    """Even where the seed of a pre-training is none of the sweep's."""
    base = ExperimentConfig().with_paths({"model.method": "proto_net", "start.head": "linear", "start.seed": 0})
    trainings = [base.replace(training__seed=seed) for seed in SEEDS]
    stage = trainings[0].stage
    assert stage is not None and stage == trainings[1].stage
    first, *others = trials = [Trial(stage, (), starts_others=True), *(Trial(each, ()) for each in trainings)]
    costs = {trial.key: Cost(1.0, 1.0, 1.0, None, "records") for trial in trials}
    assert within(trials, costs, 3.5, 1, SEEDS) == (first, *others)
    assert within(trials, costs, 2.5, 1, SEEDS) == (first, others[0])
