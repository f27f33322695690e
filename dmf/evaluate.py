"""Evaluate one trained model: `python -m dmf.evaluate FOLDER`, or a released checkpoint: `--resume FILE.pth.tar`.

A checkpoint is DMF's, Associative Alignment's with `model.method=centroid_alignment`, `fine_tuning` or
`adversarial_alignment`, or IDeMe-Net's (`metaNet_*.t7`, `softRandom.t7`) with `model.method=ideme_net`.

`--data ~/data/cub` tests on other images than the training's, with a record of its own.
"""

from __future__ import annotations

import argparse
import logging
import re
import sys
from pathlib import Path

import torch

from dmf import released, released_associative, released_ideme_net
from dmf.config import METHODS, DMFConfig, EvaluationConfig, ExperimentConfig, recipe
from dmf.data.augment import Augmentation
from dmf.data.known import EMBEDDED
from dmf.data.sets import images_for, open_for
from dmf.evaluation.evaluate import evaluate, evaluate_part_of_folder
from dmf.evaluation.partial import Part, remove_partial
from dmf.machine.device import device_of, set_up
from dmf.machine.output import run
from dmf.machine.paths import expanded, path_option
from dmf.machine.precision import autocast
from dmf.machine.trouble import sentence
from dmf.methods import build_method
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.records.checkpoints import load_weights
from dmf.records.records import BEST, CONFIG, EVALUATIONS, RECORD, EvaluationRecord, TrainingRecord, without_weights
from dmf.train import assignment
from dmf.training.rounds import fill_gallery

ALIGNED = {
    "fine_tuning": "fine_tuning_conv4_relu_1shot",
    "centroid_alignment": "centroid_alignment_conv4_relu_1shot",
    "adversarial_alignment": "centroid_alignment_conv4_relu_1shot",
}
"""Methods that test a released checkpoint of Associative Alignment, and the recipe of its data and training."""
DEFORMING = "ideme_net"


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
        "--adapted-episodes",
        type=int,
        help="the first ones of them, for a method that aligns its network to base images in each (all)",
    )
    arguments.add_argument(
        "--part",
        metavar="I/N",
        help="the I-th of N parts of the episodes, for a method that adapts to each: N workers share a test, and "
        "whoever comes last writes the record",
    )
    arguments.add_argument(
        "--seed", type=int, default=EvaluationConfig().seed, help="of the episode bank (%(default)s)"
    )
    return arguments


def test(arguments: argparse.Namespace) -> EvaluationRecord | None:
    """Evaluate the model that the arguments name; if it is a training's folder, write the record there.

    None if parts of the test are missing.
    """
    given = {text: Path(expanded(text)) for text in arguments.what}
    folders = [path for text, path in given.items() if "=" not in text or path.is_dir()]
    if len(folders) != (arguments.resume is None):
        raise ValueError("give either one training's folder or --resume with a released checkpoint")
    settings = dict(assignment(text) for text, path in given.items() if path not in folders)
    if arguments.root is not None:
        settings["data.root"] = arguments.root
    own = ("split", "episodes", "adapted_episodes", "way", "queries", "seed")
    names = {"shot": "nExemplars", **{name: name for name in own}}
    evaluation = EvaluationConfig.from_dict(
        {field: getattr(arguments, name) for field, name in names.items()} | {"data": _other_data(arguments)}
    )
    if not folders:
        if arguments.part is not None:
            raise ValueError("--part is for the folder of a training, where the parts' results are kept")
        if arguments.data is not None:
            raise ValueError(
                "--data: a released checkpoint has no images of its own; give --dataset and --root instead"
            )
        return _test_released(arguments, settings, evaluation)
    for name in ("base", "groups", *(() if arguments.data else ("dataset",))):
        if getattr(arguments, name) is not None:
            raise ValueError(f"--{name} needs --resume; a training's folder has its own configuration")
    part = None if arguments.part is None else Part.named(arguments.part)
    return _test_folder(folders[0], settings, evaluation, part)


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


def _check_adapted(method: str, evaluation: EvaluationConfig) -> None:
    if evaluation.adapted_episodes is not None and not METHODS[method].reads_base:
        raise ValueError(
            f"--adapted-episodes is for methods that align their network to base images, but model.method={method}; "
            "use --episodes"
        )


def _test_folder(
    folder: Path, settings: dict[str, object], evaluation: EvaluationConfig, part: Part | None
) -> EvaluationRecord | None:
    kept = trained(folder)
    config = kept.with_paths(settings)
    if config.key != kept.key:
        raise ValueError(
            f"{', '.join(settings)}: not as in training {kept.key}; only root, device and threads can differ"
        )
    _check_adapted(config.model.method, evaluation)
    record = evaluate_part_of_folder(folder, config, evaluation, images_for(config, evaluation), part)
    if record is not None:
        record.write(folder / EVALUATIONS / f"{record.evaluation_key}.json")
        remove_partial(folder, record.evaluation_key)
    return record


def _test_released(
    arguments: argparse.Namespace, settings: dict[str, object], evaluation: EvaluationConfig
) -> EvaluationRecord:
    method, others = str(settings.get("model.method")), (*ALIGNED, DEFORMING)
    _check_adapted(method if method in others else DMFConfig().method, evaluation)
    if arguments.groups is not None and method in others:
        raise ValueError(f"--groups is for DMF, but model.method={method}")
    if method in ALIGNED:
        return _test_aligned(arguments, settings, evaluation)
    if method == DEFORMING:
        return _test_deforming(arguments, settings, evaluation)
    model = released.load(arguments.resume)
    if arguments.groups not in (None, model.groups):
        raise ValueError(f"got --groups {arguments.groups}, but {arguments.resume} has {model.groups} groups")
    if arguments.dataset is not None:
        settings["data.name"] = arguments.dataset
    base = recipe(arguments.base or "released")
    other = [f"{path}={value}" for path, value in settings.items() if path.startswith("model.")]
    if told := [each for each in other if each != "model.method=dmf"]:
        raise ValueError(
            f"{', '.join(told)}: {arguments.resume} is of the released DMF, with its settings; leave that out"
        )
    config = base.with_paths(settings | {"model.groups": model.groups}).resolved()
    set_up(config.training.threads)
    return evaluate(model.to(device_of(config.training.device)), config, evaluation, open_for(config), epoch=0)


def _test_aligned(
    arguments: argparse.Namespace, settings: dict[str, object], evaluation: EvaluationConfig
) -> EvaluationRecord:
    """Test the network of a released checkpoint of Associative Alignment by one of its methods."""
    weights = released_associative.load(arguments.resume)
    if arguments.dataset is not None:
        settings["data.name"] = arguments.dataset
    base = recipe(arguments.base or ALIGNED[str(settings["model.method"])])
    config = base.with_paths(settings).resolved()
    set_up(config.training.threads)
    data = open_for(config)
    method = build_method(config.model, config.data, len(data.train.classes))
    load_weights(method.backbone, weights, str(arguments.resume))
    method = method.to(device_of(config.training.device))
    return evaluate(method, config, evaluation, data, epoch=0, base=data.train)


def _test_deforming(
    arguments: argparse.Namespace, settings: dict[str, object], evaluation: EvaluationConfig
) -> EvaluationRecord:
    """Test a released checkpoint of IDeMe-Net, with a gallery of the images that it was trained on."""
    if arguments.dataset is not None:
        settings["data.name"] = arguments.dataset
    shot = 5 if arguments.nExemplars == 5 else 1
    config = recipe(arguments.base or f"ideme_net_resnet18_imagenet_{shot}shot").with_paths(settings).resolved()
    assert isinstance(config.model, IDeMeNetConfig)
    size, where = released_ideme_net.IMAGE_SIZE, arguments.resume
    if config.data.image_size != size:
        raise ValueError(f"data.image_size={config.data.image_size}, but {where} reads {size} pixels; leave it out")
    method = released_ideme_net.load(where, config.model)
    if method.deformed == 0:  # a checkpoint of the embedding alone
        config = config.with_paths({"model.deformed_images": 0})
    set_up(config.training.threads)
    data = open_for(config)
    known, found = method.gallery.pixels.shape[0], len(data.train.classes)
    if known != found:
        raise ValueError(
            f"{where} knows {known} base classes, but the training split of {config.data.name} has {found}; its "
            "gallery is of the images that it was trained on, so give these"
        )
    device = device_of(config.training.device)
    fill_gallery(method, data.train, Augmentation(config.augmentation, config.data, torch.device("cpu")))
    method = method.to(device)
    if method.released and method.deformed:
        with autocast(device, config.training.precision):
            method.keep_gallery_features()
    return evaluate(method, config, evaluation, data, epoch=0, base=data.train)


def main(argv: list[str] | None = None) -> int:
    """Evaluate, and print the accuracy and its interval."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        arguments = parser().parse_intermixed_args(argv)
        record = test(arguments)
    except (ValueError, OSError) as error:
        print(f"error: {sentence(error, {})}", file=sys.stderr)
        return 2
    if record is None:
        print(f"part {arguments.part} is done; the record is written when all {arguments.part.partition('/')[2]} are")
        return 0
    config = record.config
    on = f" of {config.data.name}" if config.data else ""
    print(
        f"{config.way}-way {config.shot}-shot, {config.tested} {config.split} episodes{on} (bank {record.bank}, data "
        f"{record.data_fingerprint[:16]}): {record.accuracy:.2%} +- {record.ci95:.2%} (95 % interval over episodes)"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
