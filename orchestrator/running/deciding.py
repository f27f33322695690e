"""Runs a sweep that decides: trains what the next look needs, looks, and goes on until every row is decided."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dmf.records.staleness import Today
from orchestrator.running.order import with_stages
from orchestrator.spec.plan import SweepPlan, Trial
from orchestrator.store.ledger import Ledger
from orchestrator.store.standing import standing
from orchestrator.text import say
from reports.deciding import take_look
from reports.looks import Course, Look, Looks, agreed, courses, going_on, name_of
from reports.tables import PlannedCell
from reports.words import counted, interval, percent

Train = Callable[[tuple[Trial, ...]], None]
"""Trains and tests what is missing of these trials, and returns when all have ended."""


def decide_rows(planned: SweepPlan, ledger: Ledger, accept_stale: bool, train: Train) -> None:
    """Train and look in turns until all rows are decided, have the most seeds, or wait for a training that failed.

    Each look is kept before anything is trained by it, and sees only seeds that the looks before it asked for. A sweep
    that is killed anywhere and started again so comes to the same looks.
    """
    assert planned.rule is not None
    looks = agreed(planned.rule, ledger.looks(planned.name))
    tried: set[str] = set()
    while True:
        asked = planned.asked(looks)
        trials = asked.trials()
        today = Today(accept_stale)
        new = [trial for trial in trials if trial.key not in tried and not standing(trial, ledger, today).ended]
        if new:
            train(with_stages(new, trials))
            tried |= {trial.key for trial in new}
            ledger.all_ended()
            ledger.index.look_once()  # until a trial runs
        today = Today(accept_stale)  # images that had never been opened now have a fingerprint
        ready = _ready(asked, looks, ledger, today)
        if not ready:
            for sentence in _waiting(looks):
                say(sentence)
            return
        look = take_look(looks, asked.layouts, asked.cells, ready, ledger, today)
        looks = looks.model_copy(update={"taken": (*looks.taken, look)})
        ledger.write_looks(planned.name, looks)
        say("\n".join(told(look, looks)))


def _ready(asked: SweepPlan, looks: Looks, ledger: Ledger, today: Today) -> set[tuple[str, str]]:
    """The questions, by table and row, all of whose trainings for the next look have ended."""
    cells = {(cell.table, name_of(cell)): cell for cell in asked.cells}
    ended = {trial.key: standing(trial, ledger, today).ended for trial in asked.trials()}

    def has(cell: PlannedCell, seeds: int) -> bool:
        return all(ended[config.key] for config in cell.trainings[:seeds])

    return {
        (table, course.question.row)
        for table, course in going_on(looks)
        if all(has(cells[table, name], course.seeds) for name in (course.question.row, course.question.baseline))
    }


def told(look: Look, looks: Looks) -> Iterator[str]:
    """A look in words: what it found for each row that it tested, and what goes on."""
    number = len(looks.taken)
    seeds = sorted({answer.asked for answer in look.answers})
    yield f"look {number}, with {' or '.join(map(str, seeds))} seeds:"
    by_table = {rule.table: courses(looks, rule.table) for rule in looks.rule.tables}
    for answer in look.answers:
        course = by_table[answer.table][answer.row]
        yield f"  table {answer.table}, {course.question.said}: {_found(course, answer.level is not None)}"
    going = going_on(looks)
    yield f"  {len(going)} to go on with another seed" if going else "  all rows are decided or have the most seeds"


def _found(course: Course, tested: bool) -> str:
    answer = course.answer
    if not tested or answer is None or answer.difference is None or answer.low is None or answer.high is None:
        return "not tested, no further seed in common with its baseline"
    text = f"{percent(answer.difference, signed=True)} {interval(answer.low, answer.high)}"
    if course.decided:
        return f"{text} {answer.verdict}, takes no further seeds"
    return f"{text} {answer.verdict}{', goes on' if course.goes_on else ', has the most seeds'}"


def _waiting(looks: Looks) -> Iterator[str]:
    going = going_on(looks)
    if going:
        names = "; ".join(f"table {table}, {course.question.said}" for table, course in going[:10])
        more = f" and {len(going) - 10} more" if len(going) > 10 else ""
        rows = f"{counted(len(going), 'row')} {'waits' if len(going) == 1 else 'wait'}"
        yield f"{rows} for trainings that have not ended, its own or its baseline's: {names}{more}"
