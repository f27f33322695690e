"""Copy to MLflow what it lacks of a store: runs, epochs, results and statuses of all its sweeps.

python -m orchestrator.sync --store runs --tracking-uri http://127.0.0.1:5000

Use it when the tracking server was away, or for a new server. No sweep may be running in the store. A second run
changes nothing. Exit status: 0 if MLflow is complete, 2 if it does not answer or stops answering (run the command
again), or if the store is in use.
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
from orchestrator.text import complain, log_to_terminal, say
from orchestrator.tracking.uris import without_password


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    settle(options.store)
    log_to_terminal()
    try:
        _sync(options)
    except (ValueError, OSError) as error:
        complain(f"error: {without_password(sentence(error, {'--store': local_folder(options.store)}))}")
        return 2
    return 0


def _sync(options: argparse.Namespace) -> None:
    from orchestrator.tracking.server import answering, tracking_uri
    from orchestrator.tracking.tracker import reconcile

    with Ledger.existing(options.store).driving(options.wait) as ledger:
        uri = tracking_uri(ledger.store, options.tracking_uri)
        with answering(uri):
            writes = reconcile(uri, ledger)
    if not writes:
        say(f"no sweep was started in {options.store}")
    for sweep, count in writes.items():
        say(f"{sweep}: {f'{count} requests brought MLflow up to date' if count else 'nothing to do'}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.sync", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=address_option, default="runs", help="where sweeps keep records (%(default)s)")
    parser.add_argument("--tracking-uri", help="MLflow; default $MLFLOW_TRACKING_URI, else a database in the store")
    parser.add_argument("--wait", action="store_true", help="wait while a sweep uses the store")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
