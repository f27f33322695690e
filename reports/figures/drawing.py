"""Draws Figures 1, 3 and 4 at the width of a paper's column, each with a text alternative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dmf.values import printable
from reports.figures.episode import Pair, Pixels, Seen
from reports.figures.values import aligned_maps, best_position, by_group, most_changed, sampled_places, strength

COLUMN_INCHES = 3.25
"""Width of a column of a CVPR paper."""
POINTS = 7.0
"""Size of all text; 6 points can still be read in print."""
LABEL_INCHES, GAP_INCHES = 0.16, 0.04
"""Room for the rows' names at the left and the columns' names on top, and between images."""
POSITION, SAMPLED, REGULAR = "#00c060", "#ff2010", "#66d9ff"
"""Colours of the query's position, of the places that it samples, and of the regular ones."""
MAP_COLOURS = "inferno"
GROUPS_SHOWN = 4
STEP_NAMES = {0: "0", 1: "1", 2: "2", "ode": "ODE"}


@dataclass(frozen=True)
class Drawing:
    """A figure and what it shows in words."""

    name: str
    title: str
    text: str
    """The text alternative."""
    figure: Figure


def figure_1(seen: Seen) -> Drawing:
    """Groups of channels of the class map, and of the query map before and after alignment, for the first query."""
    pair, groups = seen.pairs[0], seen.method.groups
    with torch.inference_mode():
        maps = aligned_maps(seen.method, pair.class_map, pair.query_map)
        after = by_group(_with_own_steps(seen, maps, pair), groups)
        before, support = by_group(maps[0], groups), by_group(pair.class_map, groups)
    shown = most_changed(before, after, GROUPS_SHOWN)
    names = ["image", *(f"group {group + 1}" for group in shown)]
    figure, axes = _grid(["support", "before", "after"], names)
    for row, (image, of_row) in enumerate(((pair.support[0], support), (pair.query, before), (pair.query, after))):
        _image(axes[row][0], image)
        for column, group in enumerate(shown, start=1):
            together = torch.stack([support[group], before[group], after[group]])
            _map(axes[row][column], of_row[group], float(together.min()), float(together.max()))
    told = f"the {len(shown)} of {groups} groups of channels" if len(shown) < groups else "the groups of channels"
    changes = ", ".join(f"group {g + 1} from {before[g].mean():.3g} to {after[g].mean():.3g}" for g in shown)
    text = (
        f"{_which(seen)} Means over {told} that the alignment changes most, for a query of class "
        f"{printable(pair.name)}: in the support (class map), and in the query before and after "
        f"{_own_steps(seen)}. Each column has one colour scale. Means over positions: {changes}."
    )
    return Drawing("figure_1", "Channels before and after alignment", text, figure)


def figure_3(seen: Seen) -> Drawing:
    """The places in the support images that one position of each query samples."""
    shots = len(seen.pairs[0].support)
    rows = ["query", *(["support"] if shots == 1 else [f"support {shot + 1}" for shot in range(shots)])]
    figure, axes = _grid(rows, [f"class {number + 1}" for number in range(len(seen.pairs))])
    told = []
    assert seen.method.meta_filter is not None
    for column, pair in enumerate(seen.pairs):
        with torch.inference_mode():
            y, x = best_position(seen.method, pair.class_map, pair.query_map)
            places = sampled_places(seen.method.meta_filter, pair.class_map, pair.query_map)[:, y, x]
        regular = torch.tensor([[y + i, x + j] for i in (-1, 0, 1) for j in (-1, 0, 1)])
        _image(axes[0][column], pair.query)
        _dots(axes[0][column], pair, torch.tensor([[y, x]]), color=POSITION, markersize=3.5)
        for shot, image in enumerate(pair.support, start=1):
            _image(axes[shot][column], image)
            _dots(axes[shot][column], pair, regular, color="none", markeredgecolor=REGULAR, markersize=2.4)
            _dots(axes[shot][column], pair, places, color=SAMPLED, markersize=2)
        listed = " ".join(f"({y:.1f}, {x:.1f})" for y, x in places.tolist())
        told.append(f"class {column + 1} ({printable(pair.name)}): position ({y}, {x}) samples {listed}")
    height, width = seen.pairs[0].query_map.shape[-2:]
    text = (
        f"{_which(seen)} For one query of each class, the position that speaks most for the class (green, top row), "
        "and the nine places that it samples in the support (red) beside those of an ordinary 3x3 convolution (blue "
        "circles), without those outside the image; they are the same in every alignment step. As (row, column) of "
        f"the {height}x{width} map, from 0: {'; '.join(told)}."
    )
    return Drawing("figure_3", "Places sampled in the support", text, figure)


def figure_4(seen: Seen) -> Drawing:
    """Query maps after 0, 1, 2 and ODE alignments, over the images."""
    names = list(STEP_NAMES.values())
    figure, axes = _grid([f"class {number + 1}" for number in range(len(seen.pairs))], ["query", *names])
    told = []
    for row, pair in enumerate(seen.pairs):
        with torch.inference_mode():
            maps = {s: strength(m) for s, m in aligned_maps(seen.method, pair.class_map, pair.query_map).items()}
        _image(axes[row][0], pair.query)
        for column, of_step in enumerate(maps.values(), start=1):
            _image(axes[row][column], pair.query)
            _map(axes[row][column], of_step, float(of_step.min()), float(of_step.max()), over=pair.query)
        ranges = ", ".join(f"{STEP_NAMES[s]}: {m.min():.3g} to {m.max():.3g}" for s, m in maps.items())
        told.append(f"class {row + 1} ({printable(pair.name)}) {ranges}")
    text = (
        f"{_which(seen)} Length of the query map's feature vector at each position after {', '.join(names[:-1])} and "
        f"{names[-1]} alignments with the filters of the query's own class, over the query; the model was trained with "
        f"{_own_steps(seen)}. Each map has its own scale, from dark (lowest) to bright (highest): {'; '.join(told)}."
    )
    return Drawing("figure_4", "Query maps after alignment", text, figure)


FIGURES: tuple[Callable[[Seen], Drawing], ...] = (figure_1, figure_3, figure_4)


def _own_steps(seen: Seen) -> str:
    steps = seen.method.alignment.steps
    return "the ODE" if steps == "ode" else f"{steps} alignment{'s' if steps != 1 else ''}"


def _with_own_steps(seen: Seen, maps: dict[Any, Tensor], pair: Pair) -> Tensor:
    """The map after as many alignments as the model was trained with."""
    steps = seen.method.alignment.steps
    if steps in maps:
        return maps[steps]
    assert seen.method.meta_filter is not None
    filters = seen.method.meta_filter(pair.class_map[None, None], pair.query_map[None, None])[0, 0]
    return seen.method.alignment(maps[0][None], filters)[0]


def _which(seen: Seen) -> str:
    task = seen.task
    return f"Training {seen.key}, {task.way}-way {task.shot}-shot {task.split} episode {seen.number}."


def _grid(rows: Sequence[str], columns: Sequence[str]) -> tuple[Figure, Any]:
    """A figure of square panels as wide as a column, with the rows' names at the left and the columns' on top."""
    room = COLUMN_INCHES - LABEL_INCHES - GAP_INCHES * (len(columns) - 1)
    side = room / len(columns)
    height = LABEL_INCHES + len(rows) * side + (len(rows) - 1) * GAP_INCHES
    figure = Figure(figsize=(COLUMN_INCHES, height))
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    figure.subplots_adjust(
        left=LABEL_INCHES / COLUMN_INCHES,
        right=1,
        bottom=0,
        top=1 - LABEL_INCHES / height,
        wspace=GAP_INCHES / side,
        hspace=GAP_INCHES / side,
    )
    for panel in axes.flat:
        panel.set_axis_off()
    for panel, name in zip(axes[0], columns, strict=True):
        panel.set_title(name, fontsize=POINTS, pad=2)
    for panel, name in zip(axes[:, 0], rows, strict=True):
        panel.text(-0.04, 0.5, name, fontsize=POINTS, rotation=90, ha="right", va="center", transform=panel.transAxes)
    return figure, axes


def _image(panel: Axes, image: Pixels) -> None:
    """Draw an image; it fills the panel, whose coordinates go from 0 to 1, downwards and to the right."""
    panel.imshow(image, cmap="gray", vmin=0, vmax=255, extent=(0, 1, 1, 0), interpolation="nearest")


def _map(panel: Axes, values: Tensor, low: float, high: float, over: Pixels | None = None) -> None:
    """Draw a map [H, W] with colours from `low` to `high`; over an image, smooth and half transparent."""
    panel.imshow(
        values.numpy(),
        cmap=MAP_COLOURS,
        vmin=low,
        vmax=high if high > low else low + 1,
        extent=(0, 1, 1, 0),
        interpolation="nearest" if over is None else "bilinear",
        alpha=None if over is None else 0.65,
    )


def _dots(panel: Axes, pair: Pair, places: Tensor, **style: Any) -> None:
    """Draw those of the places [n, 2] that are on the image; they are (y, x) in positions of the map."""
    shares = (places.numpy() + 0.5) / pair.class_map.shape[-2:]
    y, x = shares[((shares >= 0) & (shares <= 1)).all(axis=1)].T
    look: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.3, "clip_on": False}
    panel.plot(x, y, "o", **(look | style))
