"""A filled table: sections of cells, each with a number and its records, or with the reason why it is empty."""

from __future__ import annotations

from dmf.values import Value
from reports.collect import State
from reports.published import Published
from reports.statistics.pairs import LEVEL, PairedTest
from reports.statistics.paper import PublishedVerdict
from reports.statistics.verdicts import MARGIN, Verdict


class Comparison(Value):
    """Ours minus the paper's, in accuracy; no numbers and no verdict where the two cannot be compared."""

    difference: float | None = None
    ci95: float | None = None
    """Half-width: episodes of both, our seeds, and the seed of their single training."""
    their_ci95: float | None = None
    """As used; for Table 2 assumed, see the table's notes."""
    verdict: PublishedVerdict | None = None
    obstacles: tuple[str, ...] = ()
    """Why there is no verdict: what differs, in words."""
    departures: tuple[str, ...] = ()
    """`path=value` where our training departs from the paper's and the released code's, if nothing else differs."""

    @property
    def words(self) -> str:
        """The verdict, or `not comparable (data set, backbone)`."""
        return self.verdict or f"not comparable ({', '.join(self.obstacles)})"


class AgainstBaseline(Value):
    """A cell minus its baseline over the same episodes, in accuracy; without a test no numbers and no verdict.

    With several seeds in common the numbers are of the methods; with one, of the two models there are.
    """

    baseline: str
    """Its row's name."""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    """Of the 95 % interval."""
    p: float | None = None
    p_holm: float | None = None
    """Of no difference between the methods, adjusted for all the tests of the table."""
    p_same_holm: float | None = None
    """Of a difference of `margin` or more, adjusted likewise."""
    margin: float = MARGIN
    method_low: float | None = None
    method_high: float | None = None
    """With one seed: the interval of the methods' difference if the seeds' standard deviation is `sd_used`."""
    sd_used: float | None = None
    test: PairedTest | None = None
    seeds: tuple[int, ...] = ()
    """Those that both have."""
    accuracy: float | None = None
    baseline_accuracy: float | None = None
    """Over `seeds`, where either cell's accuracy is over others too."""
    published_difference: float | None = None
    """The same difference in the paper."""
    also_differs: tuple[str, ...] = ()
    """Dotted paths in which the two trainings differ besides what the table's rows vary: then there is no test."""
    verdict: Verdict | None = None
    more_seeds: int | None = None
    episodes_needed: int | None = None
    """What would decide an undecided row: so many seeds more, or so many episodes in all."""
    obstacle: str = ""
    """Why there is no test, in words."""

    @property
    def is_of_models(self) -> bool:
        """Whether it says nothing of the methods, for want of a second seed."""
        return self.test is PairedTest.TWO_MODELS

    @property
    def is_detected(self) -> bool:
        """Whether the difference, however small, is told from none."""
        return self.p_holm is not None and self.p_holm < LEVEL


class Cell(Value):
    """One row in one section. Accuracies are fractions in [0, 1]."""

    label: str
    name: str
    """The label with what it is of: `groups 64`."""
    backbone: str
    variant: tuple[str, ...] = ()
    state: State
    reasons: tuple[str, ...] = ()
    """Why there is no value, or which seeds it lacks and why."""
    accuracy: float | None = None
    """Mean over seeds and episodes."""
    ci95: float | None = None
    """Half-width over episodes of the seed-averaged accuracies."""
    seed_sd: float | None = None
    """Standard deviation of the seeds' means; None for one seed."""
    total_ci95: float | None = None
    """Half-width over episodes and seeds; None where no row has two seeds, and for methods without a seed."""
    episodes: int | None = None
    seeds_done: tuple[int, ...] = ()
    seeds_planned: tuple[int, ...] = ()
    best: bool = False
    """The best of its section, or not shown to be below it."""
    bank: str = ""
    records: tuple[str, ...] = ()
    """`training key/evaluation key`."""
    doubts: tuple[str, ...] = ()
    """Why its records are stale, if they were accepted all the same."""
    parameters: int | None = None
    training_seconds: float | None = None
    published: Published | None = None
    library: tuple[Published, ...] = ()
    """LibFewShot's numbers."""
    to_published: Comparison | None = None
    to_baseline: AgainstBaseline | None = None
    """None in the baseline's row and in reference rows."""
    is_baseline: bool = False


class Section(Value):
    """The cells of one data set, way and shot."""

    label: str
    dataset: str
    way: int
    shot: int
    cells: tuple[Cell, ...]


class Table(Value):
    """A table, filled as far as its records go."""

    name: str
    title: str
    row_header: str
    baseline: str
    """Name of the baseline's row."""
    published_header: str
    """Names the data set and backbone of the published numbers if they are not those of the runs."""
    margin: float = MARGIN
    """Of accuracy; a smaller difference to the baseline counts as none."""
    sections: tuple[Section, ...]
    verdict: str
    notes: tuple[str, ...]
