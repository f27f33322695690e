"""Evaluate one trained model: `python -m dmf.evaluate FOLDER`, or a released checkpoint: `--resume FILE.pth.tar`.

`--data ~/data/cub` tests on other images than the training's, with a record of its own.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

from dmf import released
from dmf.config import EvaluationConfig, ExperimentConfig, recipe
from dmf.data.known import EMBEDDED
from dmf.data.sets import images_for, open_for
from dmf.evaluation.evaluate import evaluate, evaluate_folder
from dmf.machine.device import device_of, set_up
from dmf.machine.output import run
from dmf.machine.paths import expanded, path_option
from dmf.machine.trouble import sentence
from dmf.records.records import BEST, CONFIG, EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord, without_weights
from dmf.train import assignment


def parser() -> argparse.ArgumentParser:
    """The command's arguments; arguments of the released scripts keep their names."""
    arguments = argparse.ArgumentParser(prog="python -m dmf.evaluate", description=__doc__)
    arguments.add_argument(
        "what",
        nargs="*",
        metavar="FOLDER | path=value",
        help="the folder of a training by dmf.train or a sweep; settings such as training.device=cpu",
    )
    arguments.add_argument("--resume", type=path_option, help="instead of a folder: a checkpoint of the released code")
    arguments.add_argument("--base", help="with --resume: the recipe for data and transforms (released)")
    arguments.add_argument("--root", help="folder or archive with the images (default: as in training)")
    arguments.add_argument("--dataset", help="name of the data set; with --resume, or of the images of --data")
    arguments.add_argument(
        "--data",
        help="folder or archive with other images to test on, or glyphs; --dataset names them (default: as the folder)",
    )
    arguments.add_argument("--groups", type=int, help="with --resume: the number of groups to expect")
    arguments.add_argument("--nExemplars", type=int, help="shots per class (default: as in training)")
    arguments.add_argument("--way", type=int, default=EvaluationConfig().way, help="classes per episode (%(default)s)")
    arguments.add_argument("--queries", type=int, default=EvaluationConfig().queries, help="per class (%(default)s)")
    arguments.add_argument("--split", default="test", choices=["val", "test"])
    arguments.add_argument("--episodes", type=int, default=EvaluationConfig().episodes, help="(%(default)s)")
    arguments.add_argument(
        "--seed", type=int, default=EvaluationConfig().seed, help="of the episode bank (%(default)s)"
    )
    return arguments


def test(arguments: argparse.Namespace) -> EvaluationRecord:
    """Evaluate the model that the arguments name; if it is a training's folder, write the record there."""
    given = {text: Path(expanded(text)) for text in arguments.what}
    folders = [path for text, path in given.items() if "=" not in text or path.is_dir()]
    if len(folders) != (arguments.resume is None):
        raise ValueError("give either one training's folder or --resume with a released checkpoint")
    settings = dict(assignment(text) for text, path in given.items() if path not in folders)
    if arguments.root is not None:
        settings["data.root"] = arguments.root
    names = {"shot": "nExemplars", **{name: name for name in ("split", "episodes", "way", "queries", "seed")}}
    evaluation = EvaluationConfig.from_dict(
        {field: getattr(arguments, name) for field, name in names.items()} | {"data": _other_data(arguments)}
    )
    if not folders:
        if arguments.data is not None:
            raise ValueError(
                "--data: a released checkpoint has no images of its own; give --dataset and --root instead"
            )
        return _test_released(arguments, settings, evaluation)
    for name in ("base", "groups", *(() if arguments.data else ("dataset",))):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} needs --resume; a training's folder has its own configuration")
    return _test_folder(folders[0], settings, evaluation)


def _other_data(arguments: argparse.Namespace) -> dict[str, object] | None:
    """The name and the root of the images that --data gives."""
    if arguments.data is None:
        return None
    if arguments.data == EMBEDDED:
        return {"name": EMBEDDED}
    root = Path(expanded(arguments.data, "--data")).absolute()
    name = arguments.dataset or re.sub(r"[^a-z0-9]+", "_", root.name.partition(".")[0].lower()).strip("_")
    return {"name": name, "root": str(root)}


def trained(folder: Path) -> ExperimentConfig:
    """The configuration of the finished training in a folder. Raises ValueError if there is none with weights."""
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} holds no finished training: {CONFIG} is missing; name the folder of a training")
    if not (folder / RECORD).is_file() or TrainingRecord.read(folder / RECORD).outcome != "finished":
        raise ValueError(f"{folder} holds no finished training: {RECORD} is missing, or its outcome is not 'finished'")
    kept = ExperimentConfig.read(folder / CONFIG)
    if not (folder / BEST).is_file():
        raise ValueError(f"{folder}: {without_weights(kept.key)}")
    return kept


def _test_folder(folder: Path, settings: dict[str, object], evaluation: EvaluationConfig) -> EvaluationRecord:
    kept = trained(folder)
    config = kept.with_paths(settings)
    if config.key != kept.key:
        raise ValueError(
            f"{', '.join(settings)}: not as in training {kept.key}; only root, device and threads can differ"
        )
    record = evaluate_folder(folder, config, evaluation, images_for(config, evaluation))
    record.write(folder / EVALUATIONS / f"{record.evaluation_key}.json")
    return record


def _test_released(
    arguments: argparse.Namespace, settings: dict[str, object], evaluation: EvaluationConfig
) -> EvaluationRecord:
    model = released.load(arguments.resume)
    if arguments.groups not in (None, model.groups):
        raise ValueError(f"got --groups {arguments.groups}, but {arguments.resume} has {model.groups} groups")
    if arguments.dataset is not None:
        settings["data.name"] = arguments.dataset
    base = recipe(arguments.base or "released")
    config = base.with_paths(settings | {"model.groups": model.groups}).resolved()
    set_up(config.training.threads)
    return evaluate(model.to(device_of(config.training.device)), config, evaluation, open_for(config), epoch=0)


def main(argv: list[str] | None = None) -> int:
    """Evaluate, and print the accuracy and its interval."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        record = test(parser().parse_intermixed_args(argv))
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error, {})}", file=sys.stderr)
        return 2
    config = record.config
    on = f" of {config.data.name}" if config.data else ""
    print(
        f"{config.way}-way {config.shot}-shot, {config.episodes} {config.split} episodes{on} (bank {record.bank}, data "
        f"{record.data_fingerprint[:16]}): {record.accuracy:.2%} +- {record.ci95:.2%} (95 % interval over episodes)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
