"""Filled tables for tests of rendering: cells in all states, hostile text, all columns, and many rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmf.config import EvaluationConfig
from dmf.records.records import Epoch, Failure, Provenance
from reports.cells import Table
from reports.fill import fill
from reports.layouts import TABLES
from reports.tables import PlannedCell
from tests.records_in_memory import InMemory, episodes, planned

NASTY = r"50% of GPU_0 & <b>#1</b> | {a}^2 ~ C:\temp [x] $5 *"
WORSE = (
    "</title><script>alert(1)</script> \"' `x` <!-- {{ 1 }} {% if %} \\end{document} $x_1$ \x07 日本 é η → " + "w" * 120
)
"""Text that breaks out of HTML, SVG, templates, mathematics and LaTeX, with a word that is too long for any line."""
TEN = EvaluationConfig(episodes=10)
CODE = "0123456789abcdef"


def cells_of_2c() -> list[PlannedCell]:
    places = [(shot, groups) for shot in (1, 5) for groups in (1, 64, 160, 320)]
    return [planned("2c", TEN, (0, 1), model__groups=groups, episodes__shot=shot) for shot, groups in places]


def records_of(cells: list[PlannedCell], nasty: str = NASTY) -> InMemory:
    """Records with which a table has cells in all states: done, partial, failed, diverged, missing."""
    records = InMemory()
    for index, cell in enumerate(cells):
        for seed in cell.seeds:
            if index == 1 and seed == 1:
                continue
            if index == 2:
                records.ended(cell.trainings[seed], "failed", Failure(reason=nasty))
            elif index == 3:
                records.ended(cell.trainings[seed], "diverged", Failure(reason="nan", step=7))
            elif index != 6:
                noise = np.random.default_rng(10 * index + seed).normal(0, 0.02, 10)
                records.tested(cell, np.clip(episodes(0.6 + 0.01 * index, 10) + noise, 0, 1), seed)
    for key in records.trainings:
        records.trainings[key] = records.trainings[key].replace(**made(key))
    return records


def made(key: str, dirty: bool = False) -> dict[str, Any]:
    """What a record says of how it was made, with curves of four epochs."""
    provenance = Provenance(
        data_fingerprint="d" * 64,
        image_sizes="84x84",
        git_commit=f"{'c' * 40}{'+changes' if dirty else ''}",
        versions={},
        device="cpu of the test",
        threads=1,
        code=CODE,
    )
    luck = int(key[:4], 16) / 2**17
    history = tuple(
        Epoch(
            epoch=number,
            loss=2.0 - luck - 0.3 * number,
            losses={"few_shot": 1.0},
            learning_rate=0.1,
            validation_accuracy=0.4 + luck / 5 + 0.05 * number if number % 2 == 0 else None,
            seconds=1.0,
        )
        for number in range(1, 5)
    )
    return {"provenance": provenance, "history": history, "peak_bytes": 3 * 2**29, "seconds": 4000.0}


def table_2c(nasty: str = NASTY) -> Table:
    cells = cells_of_2c()
    return fill(TABLES["2c"], cells, records_of(cells, nasty))


def of_methods(*backbones: str) -> Table:
    """Table 1 with two methods on each backbone, and raw pixels; the last backbone was trained on a GPU."""
    both = [{"model__method": method, "model__backbone": each} for each in backbones for method in ("proto_net", "dmf")]
    small = {"data__name": "glyphs", "data__image_size": 28}
    cells = [planned("1", TEN, **each, **small) for each in [*both, {"model__method": "raw_pixels"}]]
    records = InMemory()
    for number, cell in enumerate(cells):
        records.tested(cell, episodes(0.5 + 0.01 * number, 10))
        provenance = made(cell.config.key)["provenance"].replace(threads=4)
        if getattr(cell.config.model, "backbone", "") == backbones[-1]:
            provenance = provenance.replace(device_type="cuda")
        record = records.trainings[cell.config.key]
        cpu = 90.0 if number == 0 else None
        records.trainings[record.key] = record.replace(seconds=600.0, cpu_seconds=cpu, provenance=provenance)
    return fill(TABLES["1"], cells, records)


def hostile() -> Table:
    """A table with every column, whose texts, wherever a user's words can stand, are hostile."""
    table = table_2c(WORSE)
    sections = []
    for number, section in enumerate(table.sections):
        cells = [
            cell.replace(label=f"{cell.label} {WORSE}", name=f"groups {WORSE}", variant=("a.long_path=" + "x" * 60,))
            if place == 1
            else cell.replace(backbone="conv64f" if place == 2 else cell.backbone)
            for place, cell in enumerate(section.cells)
        ]
        sections.append(section.replace(cells=tuple(cells), label=f"{section.label} {WORSE}" if number else WORSE))
    return table.replace(
        title=WORSE,
        row_header=f"rows {WORSE}",
        baseline=WORSE,
        published_header=f"paper ({WORSE})",
        verdict=WORSE,
        notes=(*table.notes, WORSE),
        sections=tuple(sections),
    )


def large(rows: int, seeds: int) -> Table:
    """A table of `rows` rows with `seeds` seeds each, made from one that is really filled."""
    table = table_2c()
    section, cell = table.sections[0], table.sections[0].cells[1]
    origin = cell.origins[0]
    cells = []
    for number in range(rows):
        made_by = tuple(
            origin.replace(seed=seed, training_key=f"{number * seeds + seed:016x}", counts=seed % 9 != 8)
            for seed in range(seeds)
        )
        cells.append(
            cell.replace(
                label=f"{number}",
                value=number,
                variant=(f"training.learning_rate={number / 1000}",),
                origins=made_by,
                records=tuple(f"{each.training_key}/{each.evaluation_key}" for each in made_by),
                seeds_planned=tuple(range(seeds)),
                seeds_done=tuple(each.seed for each in made_by if each.counts),
            )
        )
    return table.replace(sections=(section.replace(cells=tuple(cells)),))
