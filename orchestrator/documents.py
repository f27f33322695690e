"""Writes the documents whose numbers come from archives: `python -m orchestrator.documents`.

Each `docs/templates/NAME.md.jinja` becomes `docs/NAME.md`. No number is typed there: a template asks an archive of
`docs/study/` for tables, claims, single cells, costs and figures; the latter become files of `docs/figures/`. With
`--check` it writes nothing, and fails where a document says otherwise than its archives.
"""

from __future__ import annotations

import argparse
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import jinja2
import numpy as np
from scipy.stats import spearmanr, ttest_1samp

from dmf.config import AnyTraining, ExperimentConfig
from dmf.machine.files import write_text
from orchestrator.spec.plan import SweepPlan
from orchestrator.store.archive import SUFFIX, Archive
from orchestrator.store.filled import filled
from orchestrator.text import complain
from reports.cells import Cell, Table
from reports.judge import Judged
from reports.published import Published, in_library, in_paper
from reports.render import texts
from reports.render.along import along
from reports.render.claims import to_markdown as claims_to_markdown
from reports.render.drawing import alone
from reports.render.markdown import to_markdown
from reports.render.methods import described
from reports.words import explained, p_value, percent
from reports.words import verdict as word_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
TEMPLATES = DOCS / "templates"
ARCHIVES, FIGURES = DOCS / "study", "figures"
OUTDATED = 1
"""Exit status of `--check` where a document says otherwise than its archives."""


class Told:
    """A sweep as an archive `docs/study/SWEEP.dmfa` tells it."""

    def __init__(self, sweep: str, folder: Path) -> None:
        self.figures: dict[str, str] = {}
        """Those that were asked for, by the names of their files."""
        self.archive = Archive(folder / f"{sweep}{SUFFIX}")
        plans = self.archive.plans()
        if sweep not in plans:
            raise ValueError(f"{self.archive.path} holds no sweep {sweep}; it has {', '.join(plans) or 'none'}")
        self.plan: SweepPlan = plans[sweep]

    @functools.cached_property
    def _filled(self) -> tuple[list[Table], tuple[Judged, ...]]:
        return filled(self.plan, self.archive, looks=self.archive.looks(self.plan.name))

    def tables(self, *names: str, level: int = 3) -> str:
        """The named tables, or all, in Markdown; their headings start at `level`."""
        found = [self.table(name) for name in names] if names else self._filled[0]
        return "\n".join(_lowered(to_markdown(table), level) for table in found).strip()

    def claims(self, level: int = 3) -> str:
        """What the sweep says of the paper's claims and its own."""
        return _lowered(claims_to_markdown(self._filled[1]), level).strip()

    def along(self, name: str) -> str:
        """The figures of a table's differences along the number that its sections vary, as images in Markdown."""
        images = []
        for number, (task, rows, figure) in enumerate(along(self.table(name), f"{self.plan.name}-{name}")):
            file = f"{self.plan.name}-{name}-{number}.svg"
            self.figures[file] = alone(figure)
            images.append(f"![{task}: {', '.join(rows)}]({FIGURES}/{file})")
        return "\n\n".join(images)

    def table(self, name: str) -> Table:
        for table in self._filled[0]:
            if table.name == name:
                return table
        raise ValueError(f"sweep {self.plan.name} has no table {name}")

    def cell(self, table: str, row: str, section: int = 0) -> Cell:
        """The cell of the row with this label in one section of a table."""
        cells = self.table(table).sections[section].cells
        for cell in cells:
            if row in (cell.label, cell.name):
                return cell
        raise ValueError(f"table {table} of {self.plan.name} has no row {row}; it has {[cell.label for cell in cells]}")

    def baseline(self, table: str, section: int = 0) -> Cell:
        """The cell that the others of a section are compared with. Raises ValueError unless there is one."""
        (found,) = [cell for cell in self.table(table).sections[section].cells if cell.is_baseline]
        return found

    def change(self, table: str, row: str, first: int, last: int) -> Change:
        """How a row's difference from the baseline changes from one section to another, seed by seed."""
        before, after = self._gaps(table, row, first), self._gaps(table, row, last)
        return Change(tuple(after[seed] - before[seed] for seed in before if seed in after))

    def _gaps(self, table: str, row: str, section: int) -> dict[int, float]:
        """By seed, a row's accuracy less its baseline's."""
        ours, theirs = map(self._by_seed, (self.cell(table, row, section), self.baseline(table, section)))
        return {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}

    def _by_seed(self, cell: Cell) -> dict[int, float]:
        made = [origin for origin in cell.origins if origin.counts]
        tests = [self.archive.how_tested(origin.training_key, origin.evaluation_key) for origin in made]
        return {origin.seed: test.accuracy for origin, test in zip(made, tests, strict=True) if test}

    def order(self, table: str, section: int = 0) -> Order:
        """The methods of a section by our accuracy, best first, with what is published of them on miniImageNet.

        These are the numbers for four convolutional layers, by the paper or the source that it lacks, else the first of
        LibFewShot's; methods without any are left out.
        """
        found = self.table(table).sections[section]
        rows = []
        for cell in found.cells:
            place = (cell.label, "conv64f", "mini_imagenet", found.way, found.shot)
            theirs = in_paper(*place) or next(iter(in_library(*place)), None)
            if theirs and cell.accuracy is not None:
                rows.append((cell.accuracy, cell, theirs))
        return Order(tuple((cell, theirs) for _, cell, theirs in sorted(rows, key=itemgetter(0), reverse=True)))

    @property
    def steps(self) -> int:
        """Optimiser steps of each training. Raises ValueError if they differ, or nothing is trained on episodes."""
        return _steps(self.plan.name, (cell.config for cell in self.plan.cells))

    def steps_of(self, cell: Cell) -> int:
        """Optimiser steps of each training of a cell. Raises ValueError likewise."""
        keys = {origin.training_key for origin in cell.origins}
        return _steps(cell.name, (trial.config for trial in self.plan.trials() if trial.key in keys))

    @functools.cached_property
    def made(self) -> Made:
        """How far the sweep has come, and what made its numbers."""
        trials = {trial.key for trial in self.plan.trials()}
        records = [record for key, record in self.archive.trainings.items() if key in trials]
        made = [record.provenance for record in records if record.provenance]
        ended = (self.archive.how_ended(record.key) for record in records if record.history and record.provenance)
        minutes = [each.minutes for each in ended if each]
        if not minutes:
            raise ValueError(f"{self.archive.path} holds no training of {self.plan.name}")
        return Made(
            done=sum(record.outcome == "finished" for record in records),
            asked=len(trials),
            seeds=tuple(sorted({seed for cell in self.plan.cells for seed in cell.seeds})),
            commits=tuple(sorted({each.git_commit or "unknown" for each in made})),
            torch=tuple(sorted({each.versions["torch"] for each in made})),
            devices=tuple(sorted({each.device for each in made})),
            core_hours=sum(minutes) / 60,
            core_minutes=(min(minutes), max(minutes)),
        )


@dataclass(frozen=True)
class Order:
    """Our accuracies and published ones of the same methods, on other images and at other lengths of training."""

    rows: tuple[tuple[Cell, Published], ...]

    @property
    def sentence(self) -> str:
        """Spearman's rank correlation of the two, with the p value of there being none."""
        ours, theirs = zip(*((cell.accuracy, their.accuracy) for cell, their in self.rows), strict=True)
        found = spearmanr(ours, theirs)
        return f"{float(found.statistic):.2f} (p {p_value(float(found.pvalue))})".replace("-", "−")


@dataclass(frozen=True)
class Change:
    """A difference of two rows in one section less that in another, by seed: seeds are blocks."""

    by_seed: tuple[float, ...]

    @property
    def sentence(self) -> str:
        """Its mean, and the p value of there being none, by a t-test over seeds."""
        p = float(ttest_1samp(self.by_seed, 0.0).pvalue)
        return (
            f"{percent(float(np.mean(self.by_seed)), signed=True)} points (p {p_value(p)} for no change, by a t-test "
            f"over {len(self.by_seed)} seeds)"
        )


@dataclass(frozen=True)
class Made:
    """The trainings of a sweep."""

    done: int
    asked: int
    seeds: tuple[int, ...]
    """Those that the sweep asks for."""
    commits: tuple[str, ...]
    torch: tuple[str, ...]
    """Versions."""
    devices: tuple[str, ...]
    core_hours: float
    """Of all trainings together, as tables have them (`Ended.minutes`)."""
    core_minutes: tuple[float, float]
    """The least and the most that one training took; methods that learn nothing are left out."""

    @property
    def sentence(self) -> str:
        commits = ", ".join(commit[:7] for commit in self.commits)
        least, most = self.core_minutes
        return (
            f"{self.done} of {self.asked} trainings are done (seeds {', '.join(map(str, self.seeds))}), at commit "
            f"{commits}, on {', '.join(self.devices)} with PyTorch {', '.join(self.torch)}: {self.core_hours:.1f} "
            f"core-hours, {least:.1f} to {most:.1f} core-minutes each with validation."
        )


def _steps(name: str, configs: Iterable[AnyTraining]) -> int:
    trained = [c.training for c in configs if isinstance(c, ExperimentConfig) and c.model.method != "raw_pixels"]
    found = {each.epochs * each.episodes_per_epoch // each.episodes_per_step for each in trained}
    if len(found) != 1:
        raise ValueError(f"the trainings of {name} have {sorted(found)} steps, not one number of them")
    return found.pop()


def _lowered(markdown: str, level: int) -> str:
    """Headings, which start at 2, start at `level`."""
    return re.sub(r"^##", "#" * level, markdown, flags=re.MULTILINE)


def documents(docs: Path = DOCS) -> Iterator[tuple[Path, str]]:
    """Path and text of every document that has a template, and of the figures in them."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(docs / TEMPLATES.name),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": percent,
        "ours": texts.ours,
        "difference": texts.to_baseline,
        "verdict": texts.verdict,
        "word": lambda cell: word_of(cell.to_baseline) if cell.to_baseline else texts.verdict(cell),
        "explained": explained,
    }
    sweeps: dict[str, Told] = {}

    def sweep(name: str) -> Told:
        if name not in sweeps:
            sweeps[name] = Told(name, docs / ARCHIVES.name)
        return sweeps[name]

    environment.globals["sweep"] = sweep
    environment.globals["methods"] = lambda: described(
        {told.plan.name: told.table("1") for told in of_methods(docs, sweep)}
    )
    for name in sorted(environment.list_templates(extensions=["jinja"])):
        yield docs / name.removesuffix(".jinja"), environment.get_template(name).render()
    for told in sweeps.values():
        yield from ((docs / FIGURES / name, figure) for name, figure in told.figures.items())


def of_methods(docs: Path = DOCS, sweep: Callable[[str], Told] | None = None) -> Iterator[Told]:
    """The sweeps of all archives that compare methods in Table 1, by name; `sweep` reads one."""
    folder = docs / ARCHIVES.name
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        told = sweep(path.stem) if sweep else Told(path.stem, folder)
        if any(layout.name == "1" for layout in told.plan.layouts):
            yield told


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.documents",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document is out of date")
    options = parser.parse_args(arguments)
    status = 0
    for path, text in documents():
        if options.check:
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                complain(f"{path.name} says otherwise than its archives; run python -m orchestrator.documents")
                status = OUTDATED
        else:
            write_text(path, text)
    return status


if __name__ == "__main__":
    sys.exit(main())
