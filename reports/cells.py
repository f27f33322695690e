"""A filled table: sections of cells, each with a number and its records, or with the reason why it is empty."""

from __future__ import annotations

from dmf.values import Value
from reports.collect import State
from reports.published import Published
from reports.statistics import PairedTest, PublishedVerdict, Verdict


class Comparison(Value):
    """Our accuracy minus the paper's; without numbers and verdict if the two are not comparable."""

    difference: float | None = None
    ci95: float | None = None
    """Half-width; covers the episodes on both sides and, with several seeds, our seeds (Student's t)."""
    their_ci95: float | None = None
    """The paper's half-width; assumed for Table 2 (see the table's notes)."""
    verdict: PublishedVerdict | None = None
    obstacles: tuple[str, ...] = ()
    """Why there is no verdict: what differs, in words."""
    departures: tuple[str, ...] = ()
    """`path=value` of each setting in which our training departs from the paper's and the released code's."""

    @property
    def words(self) -> str:
        """The verdict, or `not comparable (data set, backbone)`."""
        return self.verdict or f"not comparable ({', '.join(self.obstacles)})"


class AgainstBaseline(Value):
    """A cell's accuracy minus its baseline's on the same episodes; without numbers and verdict if there is no test."""

    baseline: str
    """Name of the baseline's row."""
    difference: float | None = None
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    p: float | None = None
    p_holm: float | None = None
    """Adjusted for all comparisons of the table."""
    test: PairedTest | None = None
    seeds: tuple[int, ...] = ()
    """Seeds that both sides have."""
    published_difference: float | None = None
    """The same difference in the paper."""
    also_differs: tuple[str, ...] = ()
    """Dotted paths in which the two trainings differ besides what the table's rows vary; if any, there is no test."""
    verdict: Verdict | None = None
    obstacle: str = ""
    """Why there is no test, in words."""

    @property
    def words(self) -> str:
        """The verdict, or why there is none."""
        return self.verdict or self.obstacle


class Cell(Value):
    """One row of one section. Accuracies are fractions in [0, 1]."""

    label: str
    name: str
    """The label with its meaning, as in `groups 64`."""
    backbone: str
    variant: tuple[str, ...] = ()
    state: State
    reasons: tuple[str, ...] = ()
    """Why there is no value, or which seeds are absent and why."""
    accuracy: float | None = None
    """Mean over seeds and episodes."""
    ci95: float | None = None
    """Half-width over episodes of the seed-averaged accuracies."""
    seed_sd: float | None = None
    """Standard deviation of the seeds' mean accuracies; None for one seed."""
    episodes: int | None = None
    seeds_done: tuple[int, ...] = ()
    seeds_planned: tuple[int, ...] = ()
    best: bool = False
    """Whether it is the best of its section, or a paired test cannot distinguish it from the best."""
    bank: str = ""
    records: tuple[str, ...] = ()
    """`training key/evaluation key`."""
    doubts: tuple[str, ...] = ()
    """Why its records are stale, if they were accepted anyway."""
    parameters: int | None = None
    training_seconds: float | None = None
    published: Published | None = None
    library: tuple[Published, ...] = ()
    """The row's numbers in LibFewShot."""
    to_published: Comparison | None = None
    to_baseline: AgainstBaseline | None = None
    """None for the baseline's row and for reference rows."""
    is_baseline: bool = False


class Section(Value):
    """The cells for one data set, way and shot."""

    label: str
    dataset: str
    way: int
    shot: int
    cells: tuple[Cell, ...]


class Table(Value):
    """A table, filled as far as there are records."""

    name: str
    title: str
    row_header: str
    baseline: str
    """Name of the baseline's row."""
    published_header: str
    """Heading of the paper's column; names the data set and backbone if they are not those of the runs."""
    sections: tuple[Section, ...]
    verdict: str
    notes: tuple[str, ...]
