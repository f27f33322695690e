"""Train one model: `python -m dmf.train --root DATA [--groups 64] [--nExemplars 1] [path=value ...]`."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from dmf.config import NOT_IDENTITY, AnyTraining, ExperimentConfig, recipe
from dmf.config.parameters import PARAMETERS, read_as
from dmf.data.sets import open_for
from dmf.machine import output
from dmf.machine.files import locked
from dmf.machine.paths import path_option
from dmf.machine.trouble import sentence
from dmf.records.records import BEST, CONFIG, LOCK, RECORD, Epoch, TrainingRecord
from dmf.training.run import close, train
from dmf.values import shown


def parser() -> argparse.ArgumentParser:
    """The command's arguments; arguments of the released scripts keep their names."""
    arguments = argparse.ArgumentParser(prog="python -m dmf.train", description=__doc__)
    arguments.add_argument("values", nargs="*", metavar="path=value", help="any setting, e.g. training.epochs=10")
    arguments.add_argument("--base", default="released", help="recipe to start from, listed in docs/sweep_files.md")
    arguments.add_argument("--root", help="folder or archive with the images (data.root)")
    arguments.add_argument("--dataset", help="name of the data set (data.name)")
    arguments.add_argument("--groups", type=int, help="filters per position (model.groups)")
    arguments.add_argument("--nExemplars", type=int, help="shots per class (episodes.shot)")
    arguments.add_argument("--seed", type=int, help="training.seed")
    arguments.add_argument(
        "--save-dir", type=path_option, help="folder of this training (default runs/trainings/<key>)"
    )
    arguments.add_argument(
        "--resume",
        type=path_option,
        help="resume the training in this folder (or of this checkpoint in it), with its own configuration",
    )
    return arguments


FLAGS = {
    "root": "data.root",
    "dataset": "data.name",
    "groups": "model.groups",
    "nExemplars": "episodes.shot",
    "seed": "training.seed",
}


def configuration(arguments: argparse.Namespace) -> ExperimentConfig:
    """The recipe, changed by the flags and then by each path=value; for --resume, the configuration in the folder."""
    if arguments.resume is not None and arguments.resume.is_file():
        arguments.resume = arguments.resume.parent
    values = {path: getattr(arguments, flag) for flag, path in FLAGS.items() if getattr(arguments, flag) is not None}
    values |= dict(assignment(text) for text in arguments.values)
    if arguments.resume is None:
        return recipe(arguments.base).with_paths(values).resolved()
    if not (arguments.resume / CONFIG).is_file():
        raise ValueError(f"--resume {arguments.resume}: there is no config.json, so there is nothing to resume")
    kept = ExperimentConfig.read(arguments.resume / CONFIG)
    config = kept.with_paths(values)
    if config.key != kept.key:
        ours, theirs = config.flat(), kept.flat()
        aside = {f"{section}.{name}" for section, names in NOT_IDENTITY.items() for name in names}
        other = [path for path in ours if ours[path] != theirs.get(path) and path not in aside]
        told = ", ".join(f"{path}={ours[path]} (it has {theirs.get(path)})" for path in other)
        raise ValueError(
            f"--resume continues training {kept.key} as it was started, but got {told}; leave that out, or start "
            "another training without --resume"
        )
    return config


def assignment(text: str) -> tuple[str, Any]:
    """`model.groups=64` -> ("model.groups", 64). Text stays as it is where the parameter is one; the rest is JSON."""
    path, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"got {shown(text)}, expected path=value, e.g. model.groups=64")
    return path, read_as(PARAMETERS.get(path, Any), value, _from_json)


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # ValueError also for a number of thousands of digits
        return text


def show(epoch: Epoch) -> None:
    """Print one line about an epoch."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in epoch.losses.items())
    accuracy = "" if epoch.validation_accuracy is None else f"  validation {epoch.validation_accuracy:.2%}"
    print(f"epoch {epoch.epoch}: {losses}{accuracy}  ({epoch.seconds:.1f} s)", flush=True)


def _command(name: str, *arguments: str | Path | None) -> str:
    """A command that can be pasted into a shell."""
    return shlex.join(["python", "-m", f"dmf.{name}", *map(str, arguments)])


def _ended(folder: Path, config: AnyTraining) -> bool:
    """Whether the training has finished in its folder."""
    if not (folder / RECORD).is_file():
        return False
    earlier = TrainingRecord.read(folder / RECORD)
    return (earlier.key, earlier.outcome) == (config.key, "finished")


def run(config: AnyTraining, folder: Path) -> TrainingRecord | None:
    """Train in `folder`. If `config` starts from another training, run that first, in a folder beside it named by key.

    Returns the training's record, that of the one before it if that diverged, or None if the training had finished
    before. Raises BlockingIOError while another process trains there.
    """
    if _ended(folder, config):
        return None
    start = None
    if config.stage is not None:
        start = folder.parent / config.stage.key
        print(f"{config.stage.as_start} in {start}:", flush=True)
        stage = run(config.stage, start)
        if stage is not None and stage.failure is not None:
            return stage
    data = open_for(config)
    with locked(folder / LOCK):
        if _ended(folder, config):  # another process has finished it meanwhile
            return None
        record = train(config, data, folder, show, start and start / BEST)
        close(folder, record)
        return record


def main(argv: list[str] | None = None) -> int:
    """Train and write the record. Returns 0 if the training finished, 1 if it diverged, 2 for an error."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments = parser().parse_intermixed_args(argv)
    output.go_on("the training goes on")
    folder = None
    try:
        config = configuration(arguments)
        folder = arguments.resume or arguments.save_dir or Path("runs/trainings") / config.key
        record = run(config, folder)
    except BlockingIOError:
        print(f"error: another process trains in {folder}; wait for it, or use another --save-dir", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        places = {"--save-dir": folder or "runs/trainings"}
        print(f"error: {sentence(error, places)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; resume with: {_command('train', '--resume', folder)}", file=sys.stderr)
        return 130
    if record is None:
        print(f"already done; next: {_command('evaluate', folder)}")
        return 0
    if record.failure is not None:
        print(f"{record.outcome}: {record.failure.reason}; last finite: {record.failure.last_finite}", file=sys.stderr)
        return 1
    if record.best_validation_accuracy is not None:
        print(f"best validation accuracy {record.best_validation_accuracy:.2%} at epoch {record.best_epoch}")
    print(f"next: {_command('evaluate', folder)}")
    return 0


if __name__ == "__main__":
    sys.exit(output.run(main))
