"""What a sweep decides by looking after every seed: its rule, the looks that it took, and where each row stands.

The rule is kept in the sweep's plan before the first look, and each look is kept as it is taken. Nothing else looks: a
table prints what the looks found.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field

from dmf.values import Checked, Count, Value
from reports.statistics.pairs import PairedTest
from reports.statistics.sequential import FIRST, PASSING, Account, passed_on
from reports.statistics.verdicts import Verdict
from reports.tables import PlannedCell


def name_of(cell: PlannedCell) -> str:
    """What looks call a row: `training key/evaluation key` of its seed 0."""
    return f"{cell.config.replace(training__seed=0).key}/{cell.evaluation.key}"


class Question(Value):
    """A row that is compared with its baseline until the difference is decided."""

    row: str
    baseline: str
    """Both as `name_of` calls them."""
    said: str
    """For people: `alignments ODE, 5-way 1-shot`."""


class TableRule(Value):
    """The questions of one table, which share its level."""

    table: str
    margin: float
    questions: Annotated[tuple[Question, ...], Field(min_length=1)]
    levels: tuple[float, ...]
    """Two-sided nominal levels of the looks with 2, 3, ... seeds as long as no row is decided."""


class Rule(Value):
    """How a sweep decides, fixed before the first look."""

    at_most: Annotated[int, Field(ge=FIRST)]
    """Seeds of a row."""
    tables: Annotated[tuple[TableRule, ...], Field(min_length=1)]

    def of(self, table: str) -> TableRule | None:
        """A table's part; None if none of its rows is to be decided."""
        return next((each for each in self.tables if each.table == table), None)


class Answer(Value):
    """What a look found for one question. Without a seed more than before it does not test, and has no numbers."""

    table: str
    row: str
    asked: Count
    """Seeds that the row and its baseline had been asked for."""
    seeds: tuple[int, ...] = ()
    """Those that both have."""
    level: float | None = None
    """Nominal level of the interval."""
    spent: float = 0.0
    """What this question's looks have spent so far."""
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    freedom: float | None = None
    test: PairedTest | None = None
    margin: float | None = None
    """The rule's, or less where the baseline is near 100 %."""
    verdict: Verdict = Verdict.UNDECIDED


class Look(Value):
    """What one look found, in all tables of the sweep."""

    answers: tuple[Answer, ...]


class Looks(Checked):
    """The looks of a sweep, in their order, by one rule."""

    rule: Rule
    taken: tuple[Look, ...] = ()
    more_seeds: int = 0
    """How many seeds more, or less, than the rule's `at_most` the sweep file has allowed since the first look."""

    @property
    def at_most(self) -> int:
        """Seeds of a row, as the sweep file has it now."""
        return self.rule.at_most + self.more_seeds


@dataclass(frozen=True)
class Course:
    """Where the looks have brought one question."""

    question: Question
    account: Account
    at_most: int
    asked: int = 0
    """Seeds at its last look; 0 before the first."""
    answer: Answer | None = None
    """That of the last look which tested it."""

    @property
    def verdict(self) -> Verdict:
        return self.answer.verdict if self.answer else Verdict.UNDECIDED

    @property
    def decided(self) -> bool:
        return self.verdict is not Verdict.UNDECIDED

    @property
    def goes_on(self) -> bool:
        """Whether it takes another seed."""
        return not self.decided and self.asked < self.at_most

    @property
    def seeds(self) -> int:
        """That it is asked for now: for the next look, or those that it ended with."""
        return max(FIRST, self.asked + self.goes_on)


def courses(looks: Looks, table: str) -> dict[str, Course]:
    """Every question of a table by its row's name, in the rule's order; empty if the table has none."""
    rule = looks.rule.of(table)
    if rule is None:
        return {}
    account = Account.opened(looks.rule.at_most, len(rule.questions))
    found = {question.row: Course(question, account, looks.at_most) for question in rule.questions}
    for look in looks.taken:
        earlier = {row for row, course in found.items() if course.decided}
        for answer in look.answers:
            if answer.table == table:
                found[answer.row] = _after(found[answer.row], answer)
        newly = [course.verdict in PASSING and row not in earlier for row, course in found.items()]
        open_ = [course.goes_on for course in found.values()]
        accounts = passed_on([course.account for course in found.values()], newly, open_)
        found = {row: replace(found[row], account=each) for row, each in zip(found, accounts, strict=True)}
    return found


def _after(course: Course, answer: Answer) -> Course:
    if answer.level is None:
        return replace(course, asked=answer.asked)
    looked = (*course.account.looks, (len(answer.seeds), answer.level))
    account = replace(course.account, spent=answer.spent, looks=looked)
    return replace(course, account=account, asked=answer.asked, answer=answer)


def asked_now(cells: Iterable[PlannedCell], looks: Looks) -> tuple[PlannedCell, ...]:
    """The cells with the seeds that the looks so far ask for.

    A baseline takes as many as the row of its that takes most. Rows outside the rule take those of the first look.
    """
    return with_seeds(cells, looks, {row: course.seeds for _, row, course in _all(looks)})


def cells_at_most(cells: Iterable[PlannedCell], looks: Looks) -> tuple[PlannedCell, ...]:
    """The cells with the most seeds that the looks may yet ask for."""
    most = {row: looks.at_most if course.goes_on else course.seeds for _, row, course in _all(looks)}
    return with_seeds(cells, looks, most)


def with_seeds(cells: Iterable[PlannedCell], looks: Looks, seeds: dict[str, int]) -> tuple[PlannedCell, ...]:
    """The cells with the given numbers of seeds, by row; baselines have those of the row that has most."""
    wanted: dict[tuple[str, str], int] = {}
    for table, row, course in _all(looks):
        for name in (row, course.question.baseline):
            wanted[table, name] = max(wanted.get((table, name), FIRST), seeds[row])
    return tuple(
        cell.model_copy(update={"seeds": cell.seeds[: wanted.get((cell.table, name_of(cell)), FIRST)]})
        for cell in cells
    )


def _all(looks: Looks) -> list[tuple[str, str, Course]]:
    """Table, row's name and course of every question."""
    return [
        (rule.table, row, course) for rule in looks.rule.tables for row, course in courses(looks, rule.table).items()
    ]


def going_on(looks: Looks) -> list[tuple[str, Course]]:
    """The questions that take another seed, each with its table."""
    return [(table, course) for table, _, course in _all(looks) if course.goes_on]


def agreed(rule: Rule, looks: Looks | None) -> Looks:
    """The looks to go on with: those taken, or none yet.

    Only `at_most` may differ from the rule of the looks taken. Levels stay those of the first rule: beyond its
    `at_most`, looks spend what is not there, and tables say how much. Raises ValueError for another rule.
    """
    if looks is None or not looks.taken:
        return Looks(rule=rule)
    if _questions(rule.tables) != _questions(looks.rule.tables):
        raise ValueError(
            "seeds.decide or what it names has changed since the first look, and a rule that changes after a look "
            "decides nothing; put the file back, or give the sweep a name of its own (name=...)"
        )
    return looks.model_copy(update={"more_seeds": rule.at_most - looks.rule.at_most})


def chance_spent(looks: Looks, table: str) -> float:
    """The chance that the looks taken at a table have decided one of its rows falsely, at most."""
    return sum(course.account.spent for course in courses(looks, table).values())


def _questions(tables: Sequence[TableRule]) -> list[tuple[str, float, tuple[tuple[str, str], ...]]]:
    return [(each.table, each.margin, tuple((q.row, q.baseline) for q in each.questions)) for each in tables]
