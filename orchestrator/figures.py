"""Draw the paper's Figures 1, 3 and 4 from a trained model, and log them: `python -m orchestrator.figures RUN ...`.

Like `python -m reports.figures`, which says what the figures show. Besides, the store can be a bucket, and `--log` adds
the figures to the training's runs in MLflow, under figures/episode_N.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmf.machine.output import run
from dmf.machine.trouble import sentence
from orchestrator.store.home import settle
from orchestrator.store.ledger import Ledger
from orchestrator.text import complain, say
from orchestrator.tracking.uris import without_password
from reports.figures import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for a mistake or an MLflow that does not answer."""
    options = _parser().parse_args(arguments)
    settle(options.store)
    try:
        _draw(options)
    except (ValueError, OSError) as error:
        complain(f"error: {without_password(sentence(error, {'--store': options.store, '--output': options.output}))}")
        return 2
    return 0


def _draw(options: argparse.Namespace) -> None:
    if options.tracking_uri and not options.log:
        raise ValueError("--tracking-uri says where --log writes; give both, or leave it out")
    ledger = None
    if command.is_folder(Path(options.run)):
        folder = Path(options.run)
    else:
        ledger = Ledger.existing(options.store)
        folder = ledger.whole_folder(options.run)
    paths = command.draw(folder, options)
    for path in paths:
        say(str(path))
    if options.log:
        from orchestrator.tracking.artifacts import add_files  # mlflow takes seconds to import

        key = paths[0].parent.parent.name
        runs = add_files(
            options.tracking_uri, ledger or Ledger.existing(options.store), key, "figures", paths[0].parent
        )
        say(f"MLflow: logged to {', '.join(runs)}")


def _parser() -> argparse.ArgumentParser:
    parser = command.parser("orchestrator.figures", __doc__ or "")
    parser.add_argument("--log", action="store_true", help="add the figures to the training's runs in MLflow")
    parser.add_argument(
        "--tracking-uri", help="with --log: MLflow; default $MLFLOW_TRACKING_URI, else the database in the store"
    )
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
