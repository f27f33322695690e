"""Training curves: the loss and the validation accuracy of each epoch, one line for each seed of each row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dmf.records.facts import Curves
from dmf.values import Damaged
from reports.cells import Section
from reports.origins import Origin
from reports.render import texts
from reports.render.drawing import COLOURS, DASHES, cleaned, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG = logging.getLogger("dmf.report")
MOST_LINES = 16
"""Rows that one figure shows, the first of its section."""
MOST_SEEDS = 3
"""Seeds of each row, the first ones."""
HEIGHT = 2.2

Find = Callable[[str], Curves | None]
"""The curves of a training by its key."""


@dataclass(frozen=True)
class Line:
    """A row in the figures of its section."""

    label: str
    number: int
    """From 0; gives it its colour and dashes."""
    seeds: tuple[int, ...]
    loss: tuple[Points, ...]
    """One for each seed: epochs, and losses."""
    accuracy: tuple[Points, ...]
    """One for each seed: epochs that were validated, and accuracies in percent."""

    @property
    def colour(self) -> str:
        """Its CSS variable."""
        return f"line-{self.number % 8}"

    @property
    def dashes(self) -> str:
        """As of `stroke-dasharray`."""
        return DASHES[self.number // 8 % len(DASHES)]


Points = tuple[tuple[int, ...], tuple[float, ...]]


def lines_of(section: Section, find: Find) -> list[Line]:
    """The rows that have curves, up to `MOST_LINES`, each with its first seeds; only these records are read."""
    lines: list[Line] = []
    for cell in section.cells:
        if len(lines) == MOST_LINES:
            break
        seeds: list[int] = []
        found: list[Curves] = []
        for origin in cell.origins:
            if len(seeds) == MOST_SEEDS:
                break
            curves = _found(origin, find)
            if curves and curves.history:
                seeds.append(origin.seed)
                found.append(curves)
        if found:
            loss = tuple(_points([(e.epoch, e.loss) for e in curves.history]) for curves in found)
            accuracy = tuple(
                _points(
                    [(e.epoch, 100 * e.validation_accuracy) for e in c.history if e.validation_accuracy is not None]
                )
                for c in found
            )
            lines.append(Line(texts.label(cell), len(lines), tuple(seeds), loss, accuracy))
    return lines


def _points(pairs: Sequence[tuple[int, float]]) -> Points:
    finite = [(epoch, value) for epoch, value in pairs if abs(value) < float("inf")]
    return tuple(epoch for epoch, _ in finite), tuple(value for _, value in finite)


def _found(origin: Origin, find: Find) -> Curves | None:
    """The curves of a seed; None if it has none, or if its record was damaged after the index read it."""
    if origin.outcome in ("damaged", "not ended"):
        return None
    try:
        return find(origin.training_key)
    except Damaged as error:
        LOG.warning("curves are left out: %s", " ".join(str(error).split()))
        return None


def loss_curves(section: Section, lines: Sequence[Line], name: str) -> str:
    """The figure of the losses as `<svg>`; empty without lines."""
    return _figure(f"Training loss by epoch, {section.label}", "loss", lines, [line.loss for line in lines], name)


def accuracy_curves(section: Section, lines: Sequence[Line], name: str) -> str:
    """The figure of the validation accuracies as `<svg>`; empty if nothing was validated."""
    title = f"Validation accuracy by epoch, {section.label}"
    return _figure(title, "validation accuracy, %", lines, [line.accuracy for line in lines], name)


def _figure(title: str, what: str, lines: Sequence[Line], points: Sequence[tuple[Points, ...]], name: str) -> str:
    if not any(epochs for each in points for epochs, _ in each):
        return ""
    description = " ".join(
        f"{line.label}, seed {seed}: from {values[0]:.4g} in epoch {epochs[0]} to {values[-1]:.4g} in {epochs[-1]}."
        for line, each in zip(lines, points, strict=True)
        for seed, (epochs, values) in zip(line.seeds, each, strict=True)
        if epochs
    )
    return svg(name, title, description, HEIGHT, lambda figure: _draw(figure, what, lines, points))


def _draw(figure: Figure, what: str, lines: Sequence[Line], points: Sequence[tuple[Points, ...]]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_axes((0.13, 0.2, 0.85, 0.75))
    for line, each in zip(lines, points, strict=True):
        dashes = [float(length) / 1.2 for length in line.dashes.split()]
        for number, (epochs, values) in enumerate(each):
            axes.plot(
                epochs,
                values,
                color=COLOURS[line.colour],
                linestyle=(0, dashes) if dashes else "-",
                linewidth=1.2,
                alpha=1 if number == 0 else 0.55,
                marker="." if len(epochs) < 12 else None,
                markersize=4,
            )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.grid(axis="y")
    axes.margins(x=0.02)
    axes.set_xlabel("epoch")
    axes.set_ylabel(cleaned(what))
