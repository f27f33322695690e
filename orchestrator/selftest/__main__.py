"""Kill a real sweep again and again, and compare the result with an undisturbed sweep's.

python -m orchestrator.selftest --kills 20 --seed 0
python -m orchestrator.selftest --faults 20

A small sweep on the embedded glyphs runs two trials at a time, with its own tracking server. At random moments the
driver, a worker, the node's Ray, the tracking server or everything at once is killed or told to stop; the same command
is repeated until the sweep is complete. Then every record is compared bit for bit (except times and memory) with an
undisturbed sweep's, and MLflow with the ledger. This repeats with new sweeps until the kills are used up. Every second
sweep, from the first on, has its MLflow in a SQLite file of its store, and its first starts are killed while MLflow
makes its schema there.

With --faults, disks, processes and people disturb it instead: flipped bits, truncated files, frozen workers and
drivers, a disk that takes no writes for a while (not as root), runs deleted in MLflow. The command has
--retrain-damaged, and only trainings with a damaged file may be retrained.

Exit status:
0 if nothing differs, 1 if something does. Linux only, because it finds processes through psutil and /proc.
"""

from __future__ import annotations

import argparse
import random
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from dmf.machine.output import run
from dmf.machine.paths import path_option
from orchestrator.selftest.checks import differences
from orchestrator.selftest.faults import CHANCE, FAULTS
from orchestrator.selftest.sweeps import KINDS, Site, Sweep, Tracking

TRIAL_TIMEOUT = "40s"
"""For --faults: long enough for imports on a busy machine."""
FIRST_KILLS = (signal.SIGKILL, signal.SIGINT)
"""What the first starts of a sweep on SQLite get within the schema."""
LONGEST_SCHEMA_S = 1.0
"""How long the schema takes to make on a quiet machine."""
LONGEST_WAIT = 20.0
"""Something is killed within this many seconds of a start; an undisturbed sweep takes longer."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    options.kills = options.faults or options.kills
    CHANCE.seed(options.seed)
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        return _run(options.folder, options)
    with tempfile.TemporaryDirectory(prefix="dmf-selftest-") as folder:
        return _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> int:
    chance, started = random.Random(options.seed), time.monotonic()
    kills: Counter[str] = Counter()
    found: list[str] = []
    rounds = 0
    with Tracking(folder / "tracking") as tracking:
        undisturbed = Site(folder / "undisturbed", tracking.uri)
        print(f"an undisturbed sweep in {undisturbed.folder}", flush=True)
        found += undisturbed.complete() + differences(undisturbed, undisturbed)
        while kills.total() < options.kills and not found:
            rounds += 1
            site = Site(folder / f"sweep_{rounds:03}", tracking.uri)
            if rounds % 2 and not options.faults:
                site.tracking_uri = f"sqlite:///{site.database.resolve()}"
                found += _kill_first_starts(site, chance, kills, options.kills)
            if options.faults:
                site.options = ("--retrain-damaged", "--trial-timeout", TRIAL_TIMEOUT)
            found += _disturb(site, tracking, chance, kills, options)
            tracking.ensure()
            found += site.complete() + differences(site, undisturbed)
            print(f"sweep {rounds}: {'; '.join(found) or 'complete, nothing differs'}", flush=True)
            if not found:
                site.remove()
    told = ", ".join(f"{count} of {kind}" for kind, count in kills.items())
    minutes = (time.monotonic() - started) / 60
    what = "faults" if options.faults else "kills"
    print(f"{kills.total()} {what} ({told}) in {rounds} sweeps, {minutes:.1f} minutes, seed {options.seed}")
    for difference in found:
        print(f"error: {difference}", file=sys.stderr)
    if found:
        print(f"the remains are in {folder}; to repeat: {shlex.join(sys.argv)}", file=sys.stderr)
    return 1 if found else 0


def _kill_first_starts(site: Site, chance: random.Random, kills: Counter[str], most: int) -> list[str]:
    """Kill starts while MLflow makes its schema in the store's database; return what is wrong."""
    for number in FIRST_KILLS:
        with Sweep(site) as sweep:
            if kills.total() == most or not sweep.until_made(f".{site.database.name}.*.new"):
                break  # an earlier start has made it
            sweep.until(time.monotonic() + chance.uniform(0.0, LONGEST_SCHEMA_S))
            sweep.signalled(number)
            kills["a first start on SQLite"] += 1
            after = time.monotonic() - sweep.started
            print(
                f"[{kills.total()}/{most}] {number.name} in MLflow's schema, {after:.1f} s after its start", flush=True
            )
            status = sweep.wait()
        if wrong := site.between(status):
            return wrong
    return []


def _disturb(
    site: Site, tracking: Tracking, chance: random.Random, kills: Counter[str], options: argparse.Namespace
) -> list[str]:
    """Kill at random until the sweep ends by itself or the kills are used up; return what is wrong."""
    kinds = FAULTS if options.faults else KINDS
    while kills.total() < options.kills:
        with Sweep(site) as sweep:
            deadline = time.monotonic() + chance.uniform(0.2, LONGEST_WAIT)
            while kills.total() < options.kills and sweep.until(deadline):
                (kind,) = chance.choices(list(kinds), [weight for weight, _ in kinds.values()])
                if kinds[kind][1](sweep, tracking):
                    kills[kind] += 1
                    after = time.monotonic() - sweep.started
                    print(f"[{kills.total()}/{options.kills}] {kind}, {after:.1f} s after its start", flush=True)
                deadline = time.monotonic() + chance.uniform(0.2, LONGEST_WAIT / 2)
            status = sweep.wait()
        if wrong := site.between(status):
            return wrong
        if status == 0:
            return []
        tracking.ensure()
    return []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.selftest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="number of kills (%(default)s)")
    parser.add_argument("--faults", type=int, default=0, metavar="N", help="cause N other faults instead of kills")
    parser.add_argument("--seed", type=int, default=0, help="seed for what is killed and when (%(default)s)")
    parser.add_argument("--folder", type=path_option, help="work here and keep everything; default: a temporary folder")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
