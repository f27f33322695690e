"""Test one trained model: `python -m dmf.evaluate FOLDER`, or a released checkpoint with `--resume FILE.pth.tar`."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from dmf import released
from dmf.config import EvaluationConfig, ExperimentConfig, recipe
from dmf.data import open_for
from dmf.evaluation import evaluate, evaluate_folder
from dmf.machine import device_of
from dmf.records import EvaluationRecord
from dmf.train import assignment
from dmf.training import CONFIG, EVALUATIONS


def parser() -> argparse.ArgumentParser:
    """The command's arguments; those of the released scripts keep their names."""
    arguments = argparse.ArgumentParser(prog="python -m dmf.evaluate", description=__doc__)
    arguments.add_argument(
        "what",
        nargs="*",
        metavar="FOLDER | path=value",
        help="a training's folder, as dmf.train or a sweep left it; or with --resume fields of the recipe",
    )
    arguments.add_argument("--resume", type=Path, help="in place of a folder: a checkpoint of the released code")
    arguments.add_argument("--base", default="released", help="with --resume: the recipe that names data and transforms")
    arguments.add_argument("--root", help="folder or archive with the images (default: as in training)")
    arguments.add_argument("--dataset", help="with --resume: name of the data set")
    arguments.add_argument("--nExemplars", type=int, help="shots per class (default: as in training)")
    arguments.add_argument("--split", default="test", choices=["val", "test"])
    arguments.add_argument("--episodes", type=int, default=EvaluationConfig().episodes)
    arguments.add_argument("--seed", type=int, default=EvaluationConfig().seed, help="of the episode bank")
    return arguments


def test(arguments: argparse.Namespace) -> EvaluationRecord:
    """Evaluate what the arguments name; a training's folder also keeps the record."""
    settings = dict(assignment(text) for text in arguments.what if "=" in text)
    folders = [Path(text) for text in arguments.what if "=" not in text]
    if len(folders) != (arguments.resume is None):
        raise ValueError("give a training's folder or --resume with a released checkpoint, one of the two")
    if folders and (settings or arguments.dataset):
        raise ValueError("a training's folder has its configuration; path=value and --dataset go with --resume")
    evaluation = EvaluationConfig.from_dict(
        {
            "split": arguments.split,
            "episodes": arguments.episodes,
            "shot": arguments.nExemplars,
            "seed": arguments.seed,
        }
    )
    if folders:
        folder = folders[0]
        if not (folder / CONFIG).is_file():
            raise ValueError(f"{folder} is no training's folder: it has no {CONFIG}")
        config = _with_root(ExperimentConfig.read(folder / CONFIG), arguments.root)
        record = evaluate_folder(folder, config, evaluation, open_for(config))
        record.write(folder / EVALUATIONS / f"{record.evaluation_key}.json")
        return record
    model = released.load(arguments.resume)
    if arguments.dataset is not None:
        settings["data.name"] = arguments.dataset
    config = _with_root(recipe(arguments.base).with_paths(settings | {"model.groups": model.groups}), arguments.root)
    return evaluate(model.to(device_of(config)), config, evaluation, open_for(config), epoch=0)


def _with_root(config: ExperimentConfig, root: str | None) -> ExperimentConfig:
    return config if root is None else config.replace(data__root=root)


def main(argv: list[str] | None = None) -> int:
    """Print accuracy and interval."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        record = test(parser().parse_args(argv))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    config = record.config
    print(
        f"{config.way}-way {config.shot}-shot, {config.episodes} {config.split} episodes (bank {record.bank}): "
        f"{record.accuracy:.2%} +- {record.ci95:.2%} (95 % interval over episodes)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
