"""A filled table: sections of cells, each with a number and its records, or with the reason why it is empty."""

from __future__ import annotations

from pydantic import Field

from dmf.values import Value
from reports.collect import State
from reports.layouts import RowValue, Scalar
from reports.origins import Origin
from reports.published import Published
from reports.statistics.pairs import LEVEL, PairedTest
from reports.statistics.paper import PublishedVerdict
from reports.statistics.verdicts import MARGIN, Verdict


class Comparison(Value):
    """Our accuracy minus the paper's; without numbers and verdict if the two are not comparable."""

    difference: float | None = None
    ci95: float | None = None
    """Half-width; covers the episodes on both sides, our seeds, and the one seed of their training."""
    their_ci95: float | None = None
    """The paper's half-width; assumed for Table 2 (see the table's notes)."""
    verdict: PublishedVerdict | None = None
    obstacles: tuple[str, ...] = ()
    """Why there is no verdict: what differs, in words."""
    departures: tuple[str, ...] = ()
    """`path=value` of each setting in which our training departs from the paper's and the released code's; listed
    only if nothing else differs."""

    @property
    def words(self) -> str:
        """The verdict, or `not comparable (data set, backbone)`."""
        return self.verdict or f"not comparable ({', '.join(self.obstacles)})"


class OtherClasses(Value):
    """The interval of a difference over test classes, episodes and seeds; without numbers if there is an obstacle.

    It says whether the difference would hold for other classes drawn like those of the test split. With one seed in
    common it is about the two trained models.
    """

    classes: int | None = None
    """Number of classes in the test split."""
    low: float | None = None
    """Lower end of the 95 % interval."""
    high: float | None = None
    """Upper end of the 95 % interval."""
    obstacle: str = ""
    """Why it is not known, in words."""


class AgainstBaseline(Value):
    """A cell's accuracy minus its baseline's on the same episodes; without numbers and verdict if there is no test.

    With several seeds in common, the numbers are about the methods; with one, about the two trained models.
    """

    baseline: str
    """Name of the baseline's row."""
    baseline_variant: tuple[str, ...] = ()
    """`path=value` of settings that tell it from other rows of its name."""
    difference: float | None = None
    low: float | None = None
    """Lower end of the 95 % interval or, with `look_level`, of the interval at that level."""
    high: float | None = None
    """Upper end likewise."""
    look_level: float | None = None
    """Nominal level of the look that verdict and interval are from; None: they are not from a look."""
    goes_on: bool = False
    """Whether the sweep will look again, with more seeds."""
    p: float | None = None
    p_holm: float | None = None
    """p value of no difference between the methods, adjusted for all tests of the table."""
    p_same_holm: float | None = None
    """p value of a difference of at least `margin`, adjusted likewise."""
    margin: float = MARGIN
    method_low: float | None = None
    method_high: float | None = None
    """With one seed, the interval of the methods' difference if the standard deviation of seeds is `sd_used`."""
    sd_used: float | None = None
    sd_freedom: float | None = None
    """Degrees of freedom of `sd_used`; None if it is assumed."""
    single: bool = False
    """Whether one side is a single training however many seeds are asked for, or all its seeds start from one: no
    further seeds decide it."""
    test: PairedTest | None = None
    seeds: tuple[int, ...] = ()
    """Seeds that both sides have."""
    accuracy: float | None = None
    baseline_accuracy: float | None = None
    """Accuracies over `seeds` and the episodes that both sides have; set if one's own covers other ones too."""
    other_classes: OtherClasses | None = None
    """The same difference if the test split had other classes; the verdict is given these."""
    published_difference: float | None = None
    """The same difference in the paper."""
    also_differs: tuple[str, ...] = ()
    """Dotted paths in which the two trainings differ besides what the table's rows vary; if any, there is no test."""
    recipe_differs: tuple[str, ...] = ()
    """In a table of methods, `path=value` of the row's recipe where the baseline's differs; the two are compared."""
    verdict: Verdict | None = None
    more_seeds: int | None = None
    episodes_needed: int | None = None
    """What would decide an undecided row: this many more seeds, or this many episodes in total."""
    obstacle: str = ""
    """Why there is no test, in words."""

    @property
    def is_of_models(self) -> bool:
        """Whether it says nothing of the methods, for want of a second seed."""
        return self.test is PairedTest.TWO_MODELS

    @property
    def holds_for_other_classes(self) -> bool | None:
        """Whether the interval over classes supports the verdict; None if nothing is decided, or it is not known.

        It excludes 0 on the verdict's side or, for `same`, lies within the margin.
        """
        over = self.other_classes
        if over is None or over.low is None or over.high is None:
            return None
        supports = {
            Verdict.BETTER: over.low > 0,
            Verdict.WORSE: over.high < 0,
            Verdict.SAME: -self.margin < over.low and over.high < self.margin,
        }
        return supports.get(self.verdict) if self.verdict else None

    @property
    def is_detected(self) -> bool:
        """Whether the difference, however small, is told from none."""
        if self.look_level is not None and self.low is not None and self.high is not None:
            return self.low > 0 or self.high < 0
        return self.p_holm is not None and self.p_holm < LEVEL


class Cell(Value):
    """One row of one section. Accuracies are fractions in [0, 1]."""

    label: str
    name: str
    """The label with its meaning, as in `groups 64`."""
    backbone: str
    variant: tuple[str, ...] = ()
    value: RowValue = None
    """Value of the parameter that the rows vary; None for reference rows and rows of other methods."""
    state: State
    reasons: tuple[str, ...] = ()
    """Why there is no value, or which seeds are absent and why."""
    accuracy: float | None = None
    """Mean over seeds and episodes."""
    ci95: float | None = None
    """Half-width over episodes of the seed-averaged accuracies."""
    seed_sd: float | None = None
    """Standard deviation of the seeds' mean accuracies; None for one seed, and where seeds make no difference."""
    total_ci95: float | None = None
    """Half-width over episodes and seeds; None if no row has two seeds, and for methods that learn nothing."""
    classes_ci95: float | None = None
    """Half-width over test classes and episodes, given the trained models; None if it is not known."""
    episodes: int | None = None
    seeds_done: tuple[int, ...] = ()
    seeds_planned: tuple[int, ...] = ()
    best: bool = False
    """Whether it is the best of its section, or not shown to be below the best."""
    bank: str = ""
    records: tuple[str, ...] = ()
    """`training key/evaluation key`."""
    origins: tuple[Origin, ...] = ()
    """What made the numbers, for every planned seed."""
    doubts: tuple[str, ...] = ()
    """Why its records are stale, if they were accepted anyway."""
    data_doubts: tuple[str, ...] = ()
    """As in `Collected`."""
    counts: dict[str, int] = Field(default_factory=dict)
    """As in `Collected`."""
    parameters: int | None = None
    image_flops: int | None = None
    """Floating-point operations of one image through the backbone, forward."""
    training_seconds: float | None = None
    """Wall time, as a mean over the seeds done."""
    training_minutes: float | None = None
    """Mean core-minutes, or GPU-minutes, of the training without what it starts from (`Ended.minutes`); None if CPUs
    trained some of its seeds and GPUs others."""
    pre_trained: bool = False
    """Whether its training starts from another, such as a pre-training."""
    stage_minutes: float | None = None
    """The same, in the same unit, of what it starts from, which other rows may start from too."""
    on_gpu: bool = False
    """Whether these are GPU-minutes."""
    episode_seconds: float | None = None
    """Mean time of a test episode, its share of the images' forward passes included: wall time on a GPU, CPU time on a
    CPU where records hold it."""
    departures: tuple[str, ...] | None = None
    """In a table of methods, how its training differs from the published one (`published.departures`); None for rows
    that are not planned or not published."""
    peak_bytes: int | None = None
    """Peak memory of the training that took most."""
    published: Published | None = None
    library: tuple[Published, ...] = ()
    """The row's numbers in LibFewShot."""
    to_published: Comparison | None = None
    to_baseline: AgainstBaseline | None = None
    """None for the baseline's row and for reference rows."""
    is_baseline: bool = False
    marks: tuple[str, ...] = ()
    """In a table of several components, the value of each."""
    protocol: str = ""
    """`clean` or `released`, for methods whose released code selects or samples in a way that flatters it."""


class Asked(Value):
    """A row against another than the baseline."""

    name: str
    """Name of the row."""
    backbone: str
    variant: tuple[str, ...] = ()
    against: AgainstBaseline
    """Its `baseline` is the other row."""


class Section(Value):
    """The cells for one data set, way and shot."""

    label: str
    dataset: str
    way: int
    shot: int
    settings: tuple[Scalar, ...] = ()
    """The value of each of the table's `columns`; None for a method without that parameter."""
    cells: tuple[Cell, ...]
    asked: tuple[Asked, ...] = ()
    """Further pairs of rows that the layout compares."""


class Table(Value):
    """A table, filled as far as there are records."""

    name: str
    title: str
    row_header: str
    of_methods: bool = False
    """Whether its rows are methods, of which the cost is compared, too."""
    components: tuple[str, ...] = ()
    """Headings of the components, if rows vary several."""
    columns: tuple[str, ...] = ()
    """Names of the parameters that sections differ in, besides data set, way and shot."""
    baseline: str
    """Name of the baseline's row."""
    published_header: str
    """Heading of the paper's column; names the data set and backbone if they are not those of the runs."""
    margin: float = MARGIN
    """Margin of equivalence, in accuracy: a smaller difference from the baseline counts as none."""
    sections: tuple[Section, ...]
    verdict: str
    notes: tuple[str, ...]
