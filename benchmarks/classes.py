"""Whether the interval over test classes covers a population of classes, by simulation, for `benchmarks.statistics`.

A difference between two rows is drawn answer by answer. In an episode, the answers for class a differ by

    own_a + mean over the other classes b of (other_b + pair_ab) + what the episode adds + what the answer adds

with own, other and pair drawn anew, and normal, for each table's C classes: some classes suit one of the rows, some
make their rivals' queries harder for it, and some pairs of classes do. The truth is 0: the mean over all such classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reports.statistics.cells import Samples
from reports.statistics.classes import ClassDesign, class_design, jackknife, of_other_classes
from reports.statistics.pairs import Estimate, Pair, of_methods, of_two_models
from reports.statistics.spread import Spread

POINT = 0.01
NOISE_SD = 5 * POINT
"""Of a paired difference in one episode, given the classes; half of its variance is the answers' own."""
AT_ONCE = 50
"""Tables that share a bank, whose draws are random too."""
OTHER_ROWS_FREEDOM = 14
"""Of rows besides the pair, as in Table 2c with 3 seeds."""


@dataclass(frozen=True)
class ClassCase:
    """Tables of one kind; effects are standard deviations in points."""

    effects: str
    own: float = 0.0
    other: float = 0.0
    pair: float = 0.0
    classes: int = 20
    way: int = 5
    episodes: int = 2_000
    seeds: int = 1
    seed_sd: float = 0.5


@dataclass(frozen=True)
class ClassDraw:
    """Differences of some tables [T] with one bank."""

    design: ClassDesign
    pair: Pair
    sums: Samples
    """[T, C]: over the episodes that draw a class."""
    answers: Samples
    """[T, C]: over the answers for a class alone."""
    spread: Spread


def draws(case: ClassCase, tables: int, random: np.random.Generator) -> Iterator[ClassDraw]:
    for _ in range(0, tables, AT_ONCE):
        drawn = np.argsort(random.random((case.episodes, case.classes)), axis=1)[:, : case.way]
        design = class_design(drawn, case.classes)
        assert design is not None, f"{case} has classes that all or no episodes draw"
        yield _draw(case, design, drawn, random)


def _draw(case: ClassCase, design: ClassDesign, drawn: NDArray[np.int64], random: np.random.Generator) -> ClassDraw:
    answers = _effects(case, drawn, random)  # [T, E, N]
    shape = answers.shape
    answers += random.standard_normal((*shape[:2], 1)) * NOISE_SD * np.sqrt(0.5)
    answers += random.standard_normal(shape) * NOISE_SD * np.sqrt(0.5 * case.way)
    luck = random.standard_normal((AT_ONCE, case.seeds)) * np.sqrt(2) * case.seed_sd * POINT if case.seeds > 1 else 0.0
    values = answers.mean(axis=2)
    mean = values.mean(axis=1)
    over_seeds = np.full(AT_ONCE, np.nan)
    if case.seeds > 1:
        # What is peculiar to a training on an episode is left out: the mean over seeds has little of it.
        mean, over_seeds = mean + np.mean(luck, axis=1), np.var(luck, axis=1, ddof=1)
        values, answers = values + np.mean(luck, axis=1)[:, None], answers + np.mean(luck, axis=1)[:, None, None]
    pair = Pair(mean, case.seeds, case.episodes, over_seeds, values.var(axis=1, ddof=1), np.zeros(AT_ONCE))
    others = (case.seed_sd * POINT) ** 2 * random.chisquare(OTHER_ROWS_FREEDOM, AT_ONCE)
    own = np.nan_to_num(over_seeds) * (case.seeds - 1) / 2
    member = np.zeros((case.episodes, case.classes))
    member[np.arange(case.episodes)[:, None], drawn] = 1
    by_class = np.stack([np.bincount(drawn.ravel(), each.ravel(), case.classes) for each in answers])
    return ClassDraw(design, pair, values @ member, by_class, Spread(others + own, OTHER_ROWS_FREEDOM + case.seeds - 1))


def _effects(case: ClassCase, drawn: NDArray[np.int64], random: np.random.Generator) -> Samples:
    """[T, E, N]: what the classes of an episode add to the answers for each of them."""
    own = random.standard_normal((AT_ONCE, case.classes)) * case.own * POINT
    other = random.standard_normal((AT_ONCE, case.classes))[:, drawn] * case.other * POINT
    effects = own[:, drawn] + (other.sum(axis=2, keepdims=True) - other) / (case.way - 1)
    if case.pair:
        pairs = random.standard_normal((AT_ONCE, case.classes, case.classes)) * case.pair * POINT
        pairs[:, np.arange(case.classes), np.arange(case.classes)] = 0
        for place in range(case.way):
            effects += pairs[:, drawn, drawn[:, place, None]] / (case.way - 1)
    found: Samples = effects
    return found


def over_classes(case: ClassCase, tables: int, random: np.random.Generator) -> dict[str, object]:
    """Coverage and median half-width of the report's interval, and coverage of others that it could be."""
    held: dict[str, list[Samples]] = {}
    halves: dict[str, list[Samples]] = {}
    for found in draws(case, tables, random):
        for name, estimate in _intervals(found).items():
            held.setdefault(name, []).append(np.abs(estimate.mean) <= estimate.half)
            halves.setdefault(name, []).append(estimate.half * np.ones(AT_ONCE))
    coverage = {name: 100 * float(np.concatenate(each).mean()) for name, each in held.items()}
    half = {name: float(np.median(np.concatenate(each))) / POINT for name, each in halves.items()}
    row: dict[str, object] = {
        "effects": case.effects,
        "C": case.classes,
        "E": case.episodes,
        "S": case.seeds,
        "episodes' interval %": coverage["episodes"],
        "coverage %": coverage["classes"],
        "half-width": half["classes"],
    }
    for name in ("nothing off", "all off", "answers"):
        shown = case.seeds == 1  # the others are of the two models
        row |= {f"{name} %": coverage[name] if shown else "", f"{name}, half-width": half[name] if shown else ""}
    return row


def _intervals(found: ClassDraw) -> dict[str, Estimate]:
    """The interval over episodes, the report's over classes, and those that are not used."""
    pair, design = found.pair, found.design
    method = of_two_models(pair) if pair.seeds == 1 else of_methods(pair, found.spread)
    intervals = {"episodes": method, "classes": of_other_classes(method, pair, design, found.sums)}
    of_episodes, freedom = pair.over_episodes / pair.episodes, float(design.classes - 1)
    whole = jackknife(design, found.sums, pair.mean * pair.episodes)
    # Leave out a class's own answers instead of its episodes: sums of N E answers.
    way = design.draws.sum() // design.episodes
    total = (pair.mean * pair.episodes * way)[..., None]
    left = (total - found.answers) / (design.episodes * way - design.draws)
    answers = (1 - 1 / design.classes) * ((left - left.mean(axis=-1, keepdims=True)) ** 2).sum(axis=-1)
    for name, part in (
        ("nothing off", whole),
        ("all off", whole - (design.noise - 1) * of_episodes),
        ("answers", answers),
    ):
        intervals[name] = Estimate(pair.mean, np.sqrt(np.maximum(part, of_episodes)), freedom)
    return intervals


CASES = (
    *(ClassCase("none", episodes=episodes) for episodes in (600, 2_000)),
    *(ClassCase("own 1.6", 1.6, episodes=episodes) for episodes in (600, 2_000)),
    *(ClassCase("own 1.1, other 1.1", 1.1, 1.1, episodes=episodes) for episodes in (600, 2_000)),
    *(ClassCase("own 1.1, other 1.1, pair 3", 1.1, 1.1, 3.0, episodes=episodes) for episodes in (600, 2_000)),
    ClassCase("own 4", 4.0),
    *(ClassCase("own 1.1, other 1.1", 1.1, 1.1, classes=classes) for classes in (8, 160)),
    ClassCase("own 1.1, other 1.1, pair 3", 1.1, 1.1, 3.0, classes=8),
    ClassCase("none", seeds=3),
    *(ClassCase("own 1.1, other 1.1", 1.1, 1.1, seeds=seeds) for seeds in (2, 3, 5)),
)
"""Effects as large as those that make the interval over 2,000 episodes cover less than half; none; and larger ones."""
