"""What MLflow's pages show of a sweep: the names of its runs, its results as metrics, and its report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from dmf.config import ExperimentConfig
from dmf.records.staleness import Today
from dmf.values import printable
from orchestrator.spec.plan import SweepPlan, labels
from orchestrator.store.filled import filled
from orchestrator.store.ledger import Ledger
from orchestrator.tracking.beside import runs_beside
from reports.cells import Table
from reports.layouts import TableLayout
from reports.published import BACKBONES, DATASETS
from reports.render.claims import for_page
from reports.render.page import Page

LONGEST_NAME = 250
"""Longest name of a run or a metric that MLflow takes, in characters."""


def run_names(plan: SweepPlan) -> dict[str, str]:
    """The name of each training's run, by key: `2d ODE, 5-shot, seed 0`, of the first table that it is in.

    The data set and the backbone are named where the sweep has several, other tables are listed after it, and trainings
    that would share a name get the settings in which they differ. Pre-trainings are named by their settings.
    """
    layouts = {layout.name: layout for layout in plan.layouts}
    tables: dict[str, list[str]] = {}
    names: dict[str, str] = {}
    several = [name for name in ("data", "backbone") if len({_of(name, cell.config) for cell in plan.cells} - {""}) > 1]
    for cell in plan.cells:
        for key, seed in zip(cell.training_keys, cell.seeds, strict=True):
            tables.setdefault(key, []).append(cell.table)
            names.setdefault(key, _name(layouts[cell.table], cell.config, seed, several))
    for key, found in tables.items():
        if others := [table for table in dict.fromkeys(found) if table != found[0]]:
            names[key] += f" (also {', '.join(others)})"
    configs = {trial.key: trial.config for trial in plan.trials()}
    told = labels(configs.values())
    for shared in [name for name, number in Counter(names.values()).items() if number > 1]:
        apart = labels(configs[key] for key in names if names[key] == shared and key in configs)
        names |= {key: f"{shared}, {label}" for key, label in apart.items()}
    return {key: name[:LONGEST_NAME] for key, name in (told | names).items()}


def _name(layout: TableLayout, config: ExperimentConfig, seed: int, several: Sequence[str]) -> str:
    label = layout.label(config) if layout.is_reference(config) else layout.label_of(layout.value_of(config))
    parts = [f"{layout.name} {label}", *(_of(name, config) for name in several)]
    parts += [*layout.settings_of(config), f"{config.episodes.shot}-shot"]
    return ", ".join([*filter(None, parts), *([f"seed {seed}"] if config.seeded else [])])


def _of(name: str, config: ExperimentConfig) -> str:
    if name == "data":
        return DATASETS.get(config.data.name, config.data.name)
    backbone = config.model.backbone_name
    return BACKBONES.get(backbone, backbone)


def results(plan: SweepPlan, ledger: Ledger) -> tuple[dict[str, float], str]:
    """A sweep's metrics and its report as HTML.

    Accuracies are fractions in [0, 1]. Stale records count, and the report's notes name them. Raises Damaged if the
    sweep's looks, or the curves of a training, cannot be read.
    """
    states = Counter(ledger.state(trial) for trial in plan.trials())
    metrics = {f"trainings/{state}": float(number) for state, number in states.items()}
    tables, claims = filled(plan, ledger, Today(accept_stale=True), ledger.looks(plan.name))
    for table in tables:
        metrics |= _accuracies(table)
    about = printable(plan.about, lines=True)
    page = Page(tables, ledger.curves, runs_beside(ledger))
    return metrics, page.of_all(plan.name, about, for_page(claims))


def _accuracies(table: Table) -> dict[str, float]:
    """`2d 5-way 1-shot/ODE`: MLflow groups metrics by what comes before the slash."""
    return {
        f"{_plain(f'{table.name} {section.label}')}/{_plain(', '.join((cell.label, *cell.variant)))}": cell.accuracy
        for section in table.sections
        for cell in section.cells
        if cell.accuracy is not None
    }


def _plain(text: str) -> str:
    """`text` with only the characters that MLflow takes in a metric's name."""
    return " ".join(re.sub(r"[^\w.\-]+", " ", text).split())[: LONGEST_NAME // 2 - 1]
