"""Remove from a store what no sweep needs any more.

python -m orchestrator.prune --store runs

It says what it would remove, and how large that is; with --yes it removes it:

- trainings that were retrained (superseded/), with their records and weights
- copies of the code that earlier sweeps ran (code/), except the newest one
- what killed processes left behind: Ray's files, temporary files, and on this machine the work folders of trainings in
  an object store

No sweep may be running in the store. Exit status: 0, or 2 for a mistake or if the store is in use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dmf.machine.output import run
from dmf.machine.paths import address_option
from dmf.machine.trouble import sentence
from orchestrator.store.home import settle
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.store.leftovers import Leftover, leftovers
from orchestrator.text import complain, log_to_terminal, say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    settle(options.store)
    log_to_terminal()
    try:
        with Ledger.existing(options.store).driving(options.wait) as ledger:
            carry_out(leftovers(ledger), options.yes)
    except (ValueError, OSError) as error:
        complain(f"error: {sentence(error, {'--store': local_folder(options.store)})}")
        return 2
    return 0


def carry_out(found: Sequence[Leftover], yes: bool) -> None:
    """Say what goes and how large it is; with `yes`, remove it."""
    for each in found:
        say(f"{'removing' if yes else 'would remove'} {each.what}: {each.name}, {size(each.bytes)}")
        if yes:
            each.remove()
    say(_total(found, yes))


def _total(found: Sequence[Leftover], removed: bool) -> str:
    if not found:
        return "nothing to remove"
    told = f"{len(found)} folders and files, {size(sum(each.bytes for each in found))}"
    return f"removed {told}" if removed else f"{told}; remove them with --yes"


def size(count: int) -> str:
    """Bytes in readable units: 45 B, 12 KB, 3.4 GB."""
    amount, units = float(count), iter(("B", "KB", "MB", "GB"))
    unit = next(units)
    for larger in units:
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit in ("B", "KB") else f"{amount:.1f} {unit}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.prune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=address_option, default="runs", help="where sweeps keep records (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="remove it, instead of saying what would be removed")
    parser.add_argument("--wait", action="store_true", help="wait while a sweep uses the store")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
