"""Put sweeps into one file, and take them out: `python -m orchestrator.archive export SWEEP ... -o FILE`.

An archive holds plans, records, every episode's answers and, with --weights, the trained weights; no path, user or
machine. `python -m orchestrator.report --store FILE` prints its tables. Importing it into a store lets a sweep go on
there, or joins what several machines trained; nothing that the store has is overwritten.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dmf.machine.output import run
from dmf.machine.paths import address_option, path_option
from dmf.machine.trouble import sentence
from orchestrator.store.archive import SUFFIX, Archive, Manifest, import_archive, write_archive
from orchestrator.store.ledger import Ledger
from orchestrator.text import complain, say
from reports.words import counted

SHOWN = 10
"""The most conflicts that are listed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0; 1 if the store has other records of the same names; 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (ValueError, OSError) as error:
        places = {f"--{name}": vars(options)[name] for name in ("store", "output") if name in options}
        complain(f"archive: {sentence(error, places)}")
        return 2


def _export(options: argparse.Namespace) -> int:
    if options.output.suffix != SUFFIX:
        raise ValueError(f"-o {options.output}: the name of an archive ends in {SUFFIX}, such as results{SUFFIX}")
    manifest = write_archive(Ledger.existing(options.store), options.sweeps, options.output, options.weights)
    say(f"{options.output}: {_told(manifest)}, {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _import(options: argparse.Namespace) -> int:
    archive = Archive(options.file)
    with Ledger.at(options.store).driving() as ledger:
        done = import_archive(archive, ledger)
    came = f"{counted(len(done.added), 'file')} added, {done.there:,} {'was' if done.there == 1 else 'were'} there"
    say(f"{options.file}: {_told(archive.manifest)}; {came}")
    for conflict in done.conflicts[:SHOWN]:
        complain(f"conflict: {conflict.path} has other contents in {options.store}; {conflict.told}")
    if len(done.conflicts) > SHOWN:
        complain(f"conflict: ... and {len(done.conflicts) - SHOWN} more")
    return 1 if done.conflicts else 0


def _show(options: argparse.Namespace) -> int:
    archive = Archive(options.file)
    say(f"{options.file}: {_told(archive.manifest)}, written by dmf {archive.manifest.made_by}")
    for name, plan in archive.plans().items():
        keys = {trial.key for trial in plan.trials()}
        ended = len(keys & archive.trainings.keys())
        about = " ".join(plan.about.split()) or "no description"
        say(f"  {name}: {ended} of {counted(len(keys), 'training')}; {about}")
    return 0


def _told(manifest: Manifest) -> str:
    weights = sum(name.startswith("weights/") for name in manifest.sha256)
    counts = {"sweep": len(manifest.sweeps), "training": manifest.trainings, "evaluation": manifest.evaluations}
    told = ", ".join(counted(count, what) for what, count in counts.items())
    return f"{told}, {weights:,} with weights" if weights else told


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.archive", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="export | import | show")
    export = commands.add_parser("export", help="write sweeps of a store to an archive")
    export.add_argument("sweeps", nargs="*", metavar="SWEEP", help="names of sweeps; default: all in the store")
    export.add_argument("--store", type=address_option, default="runs", help="a folder, s3:// or gs:// (%(default)s)")
    export.add_argument(
        "-o", "--output", type=path_option, required=True, metavar="FILE", help=f"to write, FILE{SUFFIX}"
    )
    export.add_argument("--weights", action="store_true", help="also the best weights of every training")
    export.set_defaults(run=_export)
    take = commands.add_parser("import", help="add an archive's sweeps to a store")
    take.add_argument("file", type=path_option, metavar="FILE")
    take.add_argument(
        "--store",
        type=address_option,
        default="runs",
        help="a folder, which is made if it is not there, s3:// or gs:// (%(default)s)",
    )
    take.set_defaults(run=_import)
    show = commands.add_parser("show", help="list what an archive holds")
    show.add_argument("file", type=path_option, metavar="FILE")
    show.set_defaults(run=_show)
    return parser


if __name__ == "__main__":
    sys.exit(run(main))
