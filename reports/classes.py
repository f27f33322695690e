"""Cells and differences over test classes: whether they would hold if the test split had other classes like these."""

from __future__ import annotations

import functools

import numpy as np

from dmf.config import EvaluationConfig
from dmf.records.classes import drawn_classes
from reports.cells import OtherClasses
from reports.places import Place, common_seeds
from reports.spreads import Compared
from reports.statistics.cells import Samples
from reports.statistics.classes import ClassDesign, class_design, classes_half, of_other_classes
from reports.statistics.pairs import of_two_models

OLDER_RECORDS = "records of an older format do not say how many answers were right for each class"
FEWER = "one of the two rows is tested on fewer episodes"
TOO_FEW = "{way}-way episodes of {classes} classes leave too few of them out"


def difference_over_classes(ours: Place, theirs: Place, compared: Compared) -> OtherClasses:
    """The interval of `ours` less `theirs` over classes too, or why there is none."""
    seeds = common_seeds(ours, theirs)
    our_sums, their_sums = _sums(ours, seeds), _sums(theirs, seeds)
    assert ours.planned is not None and theirs.planned is not None
    if ours.planned.evaluation.tested != theirs.planned.evaluation.tested:
        return OtherClasses(obstacle=FEWER)
    if our_sums is None or their_sums is None:
        return OtherClasses(obstacle=OLDER_RECORDS)
    design = design_of(ours.planned.evaluation, len(our_sums))
    if design is None:
        return OtherClasses(obstacle=TOO_FEW.format(way=ours.planned.evaluation.way, classes=len(our_sums)))
    shown = compared.method if compared.seeds > 1 else of_two_models(compared.pair)
    found = of_other_classes(shown, compared.pair, design, our_sums - their_sums)
    return OtherClasses(classes=design.classes, low=float(found.low), high=float(found.high))


def cell_over_classes(place: Place, accuracies: Samples) -> float | None:
    """Half-width of a cell's interval over classes and episodes, given the trained models; None if not known.

    `accuracies` [E] are those of its episodes, averaged over seeds.
    """
    assert place.planned is not None
    sums = _sums(place, place.found.seeds)
    design = None if sums is None else design_of(place.planned.evaluation, len(sums))
    if sums is None or design is None:
        return None
    return classes_half(design, sums, accuracies)


def design_of(evaluation: EvaluationConfig, classes: int) -> ClassDesign | None:
    """That of a bank; episodes that differ in shots or queries alone draw the same classes."""
    return _design_of(evaluation.replace(shot=1, queries=1), classes)


@functools.lru_cache(64)
def _design_of(evaluation: EvaluationConfig, classes: int) -> ClassDesign | None:
    return class_design(drawn_classes(evaluation, classes), classes)


def _sums(place: Place, seeds: tuple[int, ...]) -> Samples | None:
    """[C], averaged over `seeds`: sums of accuracies over the episodes that draw a class."""
    found = place.found
    if found.class_sums is None:
        return None
    counted = np.isin(found.seeds, found.seeds[:1] if place.has_no_luck else seeds)
    mean: Samples = found.class_sums[counted].mean(axis=0)
    return mean
