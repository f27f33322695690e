"""Remove a sweep, a training, decoded images or temporary files.

python -m orchestrator.forget sweep NAME --store runs
python -m orchestrator.forget training KEY --store runs
python -m orchestrator.forget images [DATA ...]
python -m orchestrator.forget temporary

It says what would go, and how large that is; with --yes it removes it:

- sweep: its plan and looks, and the trainings that no other sweep of the store asks for
- training: its records and weights; a sweep that asks for it trains it again
- images: what was decoded into the cache, at any size; they are decoded again when they are needed
- temporary: our folders and Ray's in TMPDIR (/tmp) whose process has ended

Tables, archives and runs in MLflow stay. `python -m orchestrator.prune` removes what no sweep needs any more. Exit
status: 0, or 2 for a mistake or if the store is in use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from dmf.machine.output import run
from dmf.machine.paths import address_option
from dmf.machine.trouble import sentence
from orchestrator.prune import carry_out
from orchestrator.store.forgetting import asking_for, of_images, of_sweep, of_temporary_files, of_training
from orchestrator.store.ledger import Ledger, local_folder
from orchestrator.text import complain, log_to_terminal, say
from reports.words import counted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = _parser().parse_args(arguments)
    log_to_terminal()
    try:
        options.run(options)
    except (ValueError, OSError) as error:
        places = {"--store": local_folder(options.store)} if "store" in options else {}
        complain(f"error: {sentence(error, places)}")
        return 2
    return 0


def _sweep(options: argparse.Namespace) -> None:
    with Ledger.existing(options.store).driving(options.wait) as ledger:
        going, staying = of_sweep(ledger, options.name)
        if staying:
            verb = "stays" if len(staying) == 1 else "stay"
            say(f"{counted(len(staying), 'training')} {verb}, since other sweeps ask for them: {_few(staying)}")
        carry_out(going, options.yes)


def _training(options: argparse.Namespace) -> None:
    with Ledger.existing(options.store).driving(options.wait) as ledger:
        going = [of_training(ledger, key) for key in options.keys]
        for key in options.keys:
            if sweeps := asking_for(ledger, key):
                say(f"{key} is asked for by {', '.join(sweeps)}, whose next start trains it again")
        carry_out(going, options.yes)


def _images(options: argparse.Namespace) -> None:
    carry_out(of_images(options.names), options.yes)


def _temporary(options: argparse.Namespace) -> None:
    carry_out(list(of_temporary_files()), options.yes)


def _few(names: Iterable[str], most: int = 10) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.forget", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="sweep | training | images | temporary")
    sweep = commands.add_parser("sweep", help="a sweep and the trainings that only it asks for")
    sweep.add_argument("name", metavar="NAME", help="the sweep's name")
    training = commands.add_parser("training", help="trainings, by their keys")
    training.add_argument("keys", nargs="+", metavar="KEY")
    images = commands.add_parser("images", help="decoded images in the cache")
    images.add_argument("names", nargs="*", metavar="DATA", help="the data.name of a data set; default: all")
    temporary = commands.add_parser("temporary", help="what ended processes left in TMPDIR")
    for command, does in ((sweep, _sweep), (training, _training), (images, _images), (temporary, _temporary)):
        command.set_defaults(run=does)
        command.add_argument("--yes", action="store_true", help="remove it, instead of saying what would be removed")
    for command in (sweep, training):
        command.add_argument(
            "--store", type=address_option, default="runs", help="where sweeps keep records (%(default)s)"
        )
        command.add_argument("--wait", action="store_true", help="wait while a sweep uses the store")
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
