"""Draw the paper's Figures 1, 3 and 4 from a trained model: `python -m reports.figures RUN --episode N`.

Figure 1 shows channels of support and query before and after alignment, Figure 3 the places that a query position
samples in the support, Figure 4 query maps after 0, 1, 2 and ODE alignments. Each is written as SVG, PNG and text to
OUTPUT/figures/KEY/episode_N. The same training and episode give the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from dmf.machine.paths import address_option, path_option
from dmf.machine.trouble import sentence
from dmf.records.records import CONFIG
from dmf.values import printable
from reports.owners import Owner


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 for a mistake."""
    options = parser("reports.figures", __doc__ or "").parse_args(arguments)
    try:
        given = Path(options.run)
        folder = given if is_folder(given) else Path(options.store) / "trainings" / options.run
        for path in draw(folder, options):
            print(printable(str(path)))
    except (ValueError, OSError) as error:
        told = sentence(error, {"--store": options.store, "--output": options.output})
        print(printable(f"error: {told}", lines=True), file=sys.stderr)
        return 2
    return 0


def is_folder(given: Path) -> bool:
    """Whether a training is named by its folder, and not by its key."""
    return given.is_dir() or len(given.parts) > 1


def draw(folder: Path, options: argparse.Namespace) -> list[Path]:
    """Draw the figures of the training in `folder` as the command's options say; return the files."""
    from reports.figures.episode import look  # imports torch, which --help does not need
    from reports.figures.files import write_figures

    seen = look(folder, options.episode, options.root)
    output = options.output / "figures" / seen.key / f"episode_{seen.number}"
    return write_figures(seen, output, Owner(name=str(folder.resolve()), id=seen.weights))


def parser(program: str, about: str) -> argparse.ArgumentParser:
    """The command's arguments."""
    arguments = argparse.ArgumentParser(
        prog=f"python -m {program}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "run", type=address_option, metavar="RUN", help=f"a training's key, or its folder (the one with {CONFIG})"
    )
    arguments.add_argument(
        "--episode", type=int, required=True, metavar="N", help="number of a test episode of the training, from 0"
    )
    arguments.add_argument(
        "--store", type=address_option, default="runs", help="where the sweep keeps trainings (%(default)s)"
    )
    arguments.add_argument("--root", help="folder or archive with the images (default: as in training)")
    arguments.add_argument(
        "--output", type=path_option, default=Path("results"), help="folder to write to (%(default)s)"
    )
    return arguments
