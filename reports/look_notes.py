"""A table's notes on the looks that decide its rows."""

from __future__ import annotations

from reports.looks import Course, Looks, TableRule, chance_spent, courses
from reports.statistics.pairs import LEVEL
from reports.statistics.sequential import FIRST, LEFT_BY_DECIDED
from reports.words import counted, points

LEVELS_SHOWN = 12


def look_notes(table: str, looks: Looks | None, earlier: Looks | None) -> tuple[str, ...]:
    """What a reader must know of the `looks` that decide a table, or of `earlier` ones at it."""
    if looks is not None and (rule := looks.rule.of(table)):
        found = courses(looks, table)
        return (_rule(rule, looks), _state(found), *_unplanned(looks, table, found))
    if earlier is not None and courses(earlier, table):
        return _earlier(earlier, table)
    return ()


def state_lines(looks: Looks) -> list[str]:
    """How far the looks of a sweep have come: one line for each table that it decides, and one for each open row."""
    lines = [f"{counted(len(looks.taken), 'look')} taken, at most {looks.at_most} seeds"]
    for rule in looks.rule.tables:
        found = courses(looks, rule.table)
        decided, going = sum(c.decided for c in found.values()), sum(c.goes_on for c in found.values())
        lines.append(f"table {rule.table}: {decided} of {counted(len(found), 'row')} decided, {going} to go on")
        lines += [
            f"  {course.question.said}: undecided with {course.asked} seeds{', goes on' if course.goes_on else ''}"
            for course in found.values()
            if course.asked and not course.decided
        ]
    return lines


def _rule(rule: TableRule, looks: Looks) -> str:
    count, margin = len(rule.questions), points(rule.margin)
    shown = ", ".join(f"{100 * level:.2g}" for level in rule.levels[:LEVELS_SHOWN])
    more = ", ..." if len(rule.levels) > LEVELS_SHOWN else ""
    return (
        f"{_comparisons(count)} decided by looks, by a rule fixed before the first one: at {FIRST} seeds and after "
        f"each further one up to {looks.rule.at_most}, a row that is undecided is compared with its baseline over the "
        f"seeds that both have. A look's interval has the two-sided level of Student's t that the rule gives it: "
        f"{shown}{more} % as long as no row is decided; a row that is decided better or worse leaves "
        f"{100 * LEFT_BY_DECIDED:g} % of what it has not spent to the others. These looks together give a "
        f"false verdict in at most {100 * LEVEL:g} % of tables. Better: the interval is above 0; worse: below 0; same "
        f"within {margin}: inside ±{margin}. Brackets hold the interval of a row's last look (repeated confidence "
        "intervals), which is wider than one of 95 %: all of them at all looks are meant to hold the true differences "
        f"in {100 - 100 * LEVEL:g} % of tables. A decided row takes no further seeds. A row that the sweep is not "
        f"asked to decide has {FIRST} seeds, an interval of 95 % and no verdict. Bold and totals are computed as if "
        "the numbers of seeds had been fixed."
    )


def _comparisons(count: int) -> str:
    return "The comparison of one row is" if count == 1 else f"The comparisons of {count} rows are"


def _state(found: dict[str, Course]) -> str:
    going = sum(course.goes_on for course in found.values())
    decided = sum(course.decided for course in found.values())
    text = f"Looks so far: {decided} of {len(found)} decided"
    if going:
        return f"{text}, {going} to go on; the sweep, started again, takes their next seeds."
    left = len(found) - decided
    return f"{text}, {left} undecided with the most seeds." if left else f"{text}."


def _unplanned(looks: Looks, table: str, found: dict[str, Course]) -> list[str]:
    beyond = [c for c in found.values() if any(seeds > looks.rule.at_most for seeds, _ in c.account.looks)]
    if not beyond:
        return []
    text = (
        f"Looks with more than {looks.rule.at_most} seeds were not in the rule, and cost: with them, a table like this "
        f"has a false verdict in up to {100 * chance_spent(looks, table):.2g} % of cases, not {100 * LEVEL:g} %."
    )
    return [text]


def _earlier(earlier: Looks, table: str) -> tuple[str, ...]:
    spent = chance_spent(earlier, table)
    if not spent:
        return ()
    seeds = max(course.asked for course in courses(earlier, table).values())
    text = (
        f"This sweep looked at this table before, after each of its first {seeds} seeds, and chose by what it saw to "
        f"have the present ones. Those looks cost: a table that is looked at so often and then tested again has a "
        f"false verdict in up to {100 * (spent + LEVEL):.2g} % of cases, not {100 * LEVEL:g} %."
    )
    return (text,)
