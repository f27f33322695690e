"""Show the state of every training in a store: done, running, failed (and why), stale, missing.

python -m orchestrator.status
python -m orchestrator.status sweeps/table2.yaml --store runs
python -m orchestrator.status 1f0a9c52be41d0aa

Without a name, it shows all sweeps that were started in the store. Given a sweep file, it shows the file's present
cells; given a training's key, everything about that training, including the traceback of its failure.

States: running; failed (with the reason; a search retries it, a sweep retries faults of the machine, and others with
--retry-failed); damaged (a record or the weights are not what was written; --retrain-damaged puts them aside); blocked
(what it starts from failed, diverged, is stale, damaged or blocked, or has no weights); no weights (a test is missing,
and the weights that it needs were not kept; --retrain-lost retrains it); stale (made by other code or from other images
than today's); started (it will continue from its checkpoint); untested; missing; diverged; done. A search also has
stopped (it fell behind) and impossible (values that no model can have).

A bit that a disk loses without a trace, so that a file keeps its time and size, is found when the file is read again:
--verify reads all of them. Exit status: 0 if every training is done, diverged, stopped or impossible (for one KEY:
done) and, with --verify, no file is damaged; 1 if not; 2 for a mistake.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dmf.config import ExperimentConfig, Pretraining
from dmf.machine.output import run
from dmf.machine.paths import address_option
from dmf.machine.trouble import sentence
from dmf.records.records import Going
from dmf.records.staleness import Today
from dmf.values import Damaged
from orchestrator.spec.file import read_spec
from orchestrator.spec.plan import SweepPlan, Trial, labels, plan
from orchestrator.store.bucket.mirror import RemoteStore
from orchestrator.store.home import settle
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.store.searches import SearchResults, Tried, label, results_of, training_or_none
from orchestrator.store.standing import standing
from orchestrator.text import complain, duration, plain, say
from orchestrator.verify import damaged_files
from reports.look_notes import state_lines
from reports.looks import Looks, agreed
from reports.words import counted

ENDED = ("diverged", "impossible", "stopped", "done")
"""Final states; only a search has `stopped` (by ASHA) and `impossible` (values that no model can have)."""
ORDER = ("running", "failed", "damaged", "blocked", "no weights", "stale", "started", "untested", "missing", *ENDED)
"""The order of rows: what needs attention comes first."""
OF_A_SEARCH = {"finished": "done"}
"""Outcomes of a search's proposals that have another name here."""
WIDTH = 240
"""Width of lines that are written to a file or a pipe."""
ROWS = 40
"""Rows shown per sweep; --all shows every one."""


@dataclass(frozen=True)
class Row:
    """One training."""

    key: str
    what: str
    tables: tuple[str, ...]
    state: str
    """A `Standing`'s state, or "running"."""
    epoch: int
    epochs: int
    validation_accuracy: float | None
    """While it is trained, the last one; once it has ended, the best."""
    validation_epoch: int | None
    """The epoch of the last one, while it is trained."""
    seconds_left: float | None
    """For the remaining epochs, while it runs; evaluations come on top."""
    why: str


def rows(planned: SweepPlan, ledger: Ledger, today: Today) -> list[Row]:
    """Every training of a plan, or every proposal of a search; what needs attention comes first."""
    trials = planned.trials()
    told = labels(trial.config for trial in trials)
    found = [_row(trial, told[trial.key], ledger, today) for trial in trials]
    if not trials:
        found = _proposals(planned.name, ledger)
    return sorted(found, key=lambda row: ORDER.index(row.state))


def _proposals(name: str, ledger: Ledger) -> list[Row]:
    """The rows of a search; one that cannot be read, or has tried nothing, is a row too."""
    try:
        searched = results_of(ledger, name)
    except ValueError as error:
        return [Row("", "what was tried", (), "failed", 0, 0, None, None, None, " ".join(str(error).split()))]
    if searched is None:
        return [Row("", "a search that has tried nothing", (), "missing", 0, 0, None, None, None, "")]
    left = max(0, searched.trials - len(searched.tried))
    proposed = [_proposal(tried, searched, ledger) for tried in searched.tried]
    return proposed + left * [Row("", "to be proposed", (), "missing", 0, 0, None, None, None, "")]


def _proposal(tried: Tried, searched: SearchResults, ledger: Ledger) -> Row:
    state = OF_A_SEARCH.get(tried.outcome, tried.outcome)
    epoch, accuracy, why = tried.epochs, None, ""
    if tried.outcome == "running":
        state = "running" if ledger.running(tried.key) else "started"
        at = _checkpoint(tried.key, ledger)
        epoch = len(at.history) if at else 0
    elif tried.outcome == "failed":
        record = training_or_none(ledger, tried.key)
        why = record.failure.reason if record and record.failure else ""
    elif tried.outcome in ("finished", "stopped"):
        accuracy = tried.accuracy
        try:
            state = "untested" if tried == searched.best and not ledger.evaluations(tried.key) else state
        except Damaged as error:
            state, why = "damaged", " ".join(str(error).split())
    epochs = searched.base.training.epochs
    return Row(tried.key, label(tried.values), (), state, epoch, epochs, accuracy, None, None, why)


def _row(trial: Trial, what: str, ledger: Ledger, today: Today) -> Row:
    stands = standing(trial, ledger, today)
    state = "running" if not stands.ended and ledger.running(trial.key) else stands.state
    epoch, accuracy, validated, left = 0, None, None, None
    epochs = trial.config.training.epochs
    if state in ("running", "started", "stale") and (at := stands.going):
        history = at.history
        epoch = len(history)
        for each in history:
            if each.validation_accuracy is not None:
                accuracy, validated = each.validation_accuracy, each.epoch
        if state == "running" and history:
            left = (epochs - epoch) * sum(each.seconds for each in history) / len(history)
    elif state in ("done", "untested", "no weights", "diverged"):
        accuracy = stands.record.best_validation_accuracy if stands.record else None
        epoch = epochs if state != "diverged" else 0
    tables = tuple(dict.fromkeys(trial.tables))
    return Row(trial.key, what, tables, state, epoch, epochs, accuracy, validated, left, stands.why)


def _checkpoint(key: str, ledger: Ledger) -> Going | None:
    """The last checkpoint; None if there is none, or if it is damaged."""
    try:
        return ledger.checkpoint(key)
    except Damaged:
        return None


def elsewhere(plans: Iterable[SweepPlan], ledger: Ledger) -> list[str]:
    """Keys of trainings in the store that are in none of the plans, such as those of cells removed from a file."""
    planned = {trial.key for each in plans for trial in each.trials()}
    for each in plans:
        planned |= set() if each.cells else {row.key for row in _proposals(each.name, ledger)}
    return [key for key in ledger.kept_keys() if key not in planned]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_intermixed_args(arguments)
    settle(_store(options))
    try:
        return _main(options)
    except (ValueError, OSError) as error:
        complain(f"error: {sentence(error, {'--store': local_folder(_store(options))})}")
        return 2


def _main(options: argparse.Namespace) -> int:
    ledger, today = Ledger.existing(_store(options)), Today(options.accept_stale)
    if options.what and options.what in ledger.kept_keys():
        if options.verify:
            raise ValueError(f"--verify reads every file of the store; leave out {options.what}")
        return _show_training(options.what, ledger)
    count, wrong = damaged_files(ledger) if options.verify else (0, [])
    ledger.index.look_once()
    chosen = _chosen(options, ledger)
    found: dict[str, list[Row]] = {}
    looks: dict[str, Looks] = {}
    damaged: dict[str, str] = {}
    for each in chosen:
        try:
            if each.rule:
                looks[each.name] = agreed(each.rule, ledger.looks(each.name))
            found[each.name] = rows(ledger.asked(each), ledger, today)
        except Damaged as error:  # its looks
            damaged[each.name] = str(error)
    others = elsewhere(chosen, ledger) if _whole_store(options) else []
    removed = {each.name: ledger.no_longer_planned(each) for each in chosen}
    if options.json:
        sweeps = {name: [asdict(row) for row in each] for name, each in found.items()}
        told = {name: each.model_dump(mode="json") for name, each in looks.items()}
        others_told = {"removed": removed, "in_no_plan": others, "damaged": damaged}
        say(json.dumps({"sweeps": sweeps, "looks": told, **others_told}, indent=1))
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        for name, shown in found.items():
            _show(console, name, shown, removed[name], options.all)
            for line in state_lines(looks[name]) if name in looks else ():
                console.print(plain(line))
        if others:
            console.print(plain(f"in no sweep's plan, kept: {_few(others)}"))
        if options.verify:
            console.print(plain(f"{counted(count, 'file')} read, {len(wrong) or 'none'} damaged"))
    for why in [*(f"{name}: {why}" for name, why in damaged.items()), *wrong]:
        complain(f"error: {why}")
    return 0 if not (damaged or wrong) and all(row.state in ENDED for each in found.values() for row in each) else 1


def _store(options: argparse.Namespace) -> str:
    what = options.what or ""
    given = RemoteStore.is_remote(what) or (what and (Path(what) / "sweeps").is_dir())
    return what if given else options.store


def _whole_store(options: argparse.Namespace) -> bool:
    return options.what is None or _store(options) == options.what


def _chosen(options: argparse.Namespace, ledger: Ledger) -> list[SweepPlan]:
    if _whole_store(options):
        plans = list(ledger.plans().values())
        if not plans:
            raise ValueError(f"no sweep was started in {ledger.store}")
        return plans
    if Path(options.what).is_file():
        return [plan(read_spec(options.what, options.settings))]
    return [ledger.plan(options.what)]


def _show(console: Console, name: str, found: list[Row], removed: list[str], everything: bool) -> None:
    counts = Counter(row.state for row in found)
    told = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    left = sum(row.seconds_left or 0.0 for row in found)
    table = Table(title=plain(f"{name}: {counted(len(found), 'training')}: {told}"), title_justify="left")
    for column in ("training", "what differs", "table", "state", "epoch", "validation", "left", "why"):
        table.add_column(column, overflow="fold", no_wrap=column not in ("what differs", "table", "why"))
    shown = found if everything else found[:ROWS]
    for row in shown:
        texts = (
            row.key,
            row.what,
            ", ".join(row.tables),
            row.state,
            f"{row.epoch}/{row.epochs}" if row.epoch else "",
            _validation(row),
            "" if row.seconds_left is None else duration(row.seconds_left),
            row.why,
        )
        table.add_row(*map(plain, texts))
    console.print(table)
    if len(found) > len(shown):
        console.print(plain(f"and {len(found) - len(shown)} more; --all shows every one"))
    if left:
        console.print(plain(f"the running trainings have about {duration(left)} of epochs left in total"))
    if removed:
        console.print(plain(f"no longer in the file, kept: {_few(removed)}"))


def _validation(row: Row) -> str:
    if row.validation_accuracy is None:
        return ""
    older = row.validation_epoch not in (None, row.epoch)
    return f"{100 * row.validation_accuracy:.2f} %" + (f" (epoch {row.validation_epoch})" if older else "")


def _show_training(key: str, ledger: Ledger) -> int:
    """Print everything about one training; return 0 if it has ended with a result."""
    say(f"training {key} in {ledger.folder(key)}")
    try:
        record, tests = ledger.training(key), ledger.evaluations(key)
    except Damaged as error:
        say(f"damaged: {error}; the sweep's --retrain-damaged puts it aside and retrains it")
        return 1
    if record is None:
        at = _checkpoint(key, ledger)
        running = ", running" if ledger.running(key) else ""
        done = counted(len(at.history) if at else 0, "epoch")
        say(f"no record yet: {done} done{running}; see log.txt")
        return 1
    defaults = (ExperimentConfig() if record.config.kind == "experiment" else Pretraining()).flat()
    changed = {path: value for path, value in record.config.flat().items() if value != defaults.get(path)}
    say("differs from the defaults: " + ", ".join(f"{path}={value}" for path, value in changed.items()))
    say(f"{record.outcome} after {counted(len(record.history), 'epoch')}, {duration(record.seconds)}")
    if record.provenance:
        made = record.provenance
        say(f"code {made.code or 'unknown'}, commit {made.git_commit}, on {made.device}")
    for test in tests:
        on = f"{test.config.data.name} " if test.config.data else ""
        task = f"{test.config.way}-way {test.config.shot}-shot, {test.config.queries} queries per class"
        episodes = counted(len(test.accuracies), "episode")
        say(f"{on}{test.config.split}, {task}, {episodes}: {100 * test.accuracy:.2f} %")
    if record.failure:
        say(f"{record.failure.kind}: {record.failure.reason}\n{record.failure.traceback}".rstrip())
    return 0 if record.outcome == "finished" else 1


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:10]) + (f" and {len(keys) - 10} more" if len(keys) > 10 else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.status", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what",
        nargs="?",
        type=address_option,
        metavar="SPEC|STORE|SWEEP|KEY",
        help="a sweep file, a store, a sweep's name, or a training's key",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="override the file, as you did for the sweep")
    parser.add_argument("--store", type=address_option, default="runs", help="where sweeps keep records (%(default)s)")
    parser.add_argument(
        "--accept-stale", action="store_true", help="show stale trainings in the state that they would otherwise have"
    )
    parser.add_argument("--all", action="store_true", help=f"show every training, not only the first {ROWS} of a sweep")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every file of the store again and check it, whatever the index holds; only for a folder",
    )
    parser.add_argument("--json", action="store_true", help="print every field of every training as JSON")
    return parser


if __name__ == "__main__":
    gc.disable()  # with thousands of records it takes a tenth of the time, and the process ends soon
    sys.exit(run(main))
