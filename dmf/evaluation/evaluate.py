"""Accuracy over a pinned bank of episodes, every image of which passes the backbone once."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmf.config import TABLE_BYTES, EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, ImageSplit
from dmf.episodes import EpisodeIndices, EpisodeSampler, derived_seed
from dmf.machine.device import device_of, set_up
from dmf.machine.precision import autocast
from dmf.machine.watchdog import alive
from dmf.methods import build_method
from dmf.methods.base import FewShotMethod, Table
from dmf.records.checkpoints import load_weights, read_checkpoint_of, under
from dmf.records.provenance import code_hash
from dmf.records.records import BEST, EvaluationRecord, Kept

IMAGES_PER_BATCH = 128
EPISODES_PER_BATCH = 8


def episode_bank(split: ImageSplit, config: EvaluationConfig) -> EpisodeIndices:
    """The pinned episodes of a split: a function of its labels, N, K, Q and seed, shared by all that compare."""
    if config.shot is None:
        raise ValueError("the number of shots is open: call EvaluationConfig.resolve with the training's configuration")
    seed = derived_seed(config.seed, *split.name.encode())
    try:
        sampler = EpisodeSampler(split.labels, config.way, config.shot, config.queries, seed)
    except ValueError as error:
        raise ValueError(f"episodes of the {split.name} split: {error}") from None
    return sampler(range(config.episodes))


def episode_accuracies(
    method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation, precision: str = "fp32"
) -> Tensor:
    """Accuracy of each episode of `bank`, float64 [episodes]. The method is left in the mode it was found in.

    Every image passes the backbone once, and once through all of the head that depends on it alone
    (`FewShotMethod.image_table`); what depends on a class alone is made once per class, or, where fewer single examples
    than classes are drawn, once per example.
    """
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    training = method.training
    method.eval()
    with torch.inference_mode(), autocast(device, precision), tempfile.TemporaryDirectory() as room:
        rows, row_of = torch.unique(torch.cat([bank.support.flatten(), bank.query.flatten()]), return_inverse=True)
        images = image_table(method, split, rows, augment, device, Path(room))
        support = row_of[: bank.support.numel()].view_as(bank.support)
        query = row_of[bank.support.numel() :].view_as(bank.query)
        shared = _class_table_of_examples(method, images, support, device)
        correct = []
        for start in range(0, len(bank), EPISODES_PER_BATCH):
            part = slice(start, start + EPISODES_PER_BATCH)
            logits = _logits(method, images, support[part], query[part], device, shared)
            alive()
            correct.append((logits.argmax(-1).cpu() == bank.targets[part]).double().mean(-1))
        del images, shared
    method.train(training)
    return torch.cat(correct)


def _logits(
    method: FewShotMethod,
    images: Table,
    support: Tensor,
    query: Tensor,
    device: torch.device,
    shared: tuple[Table, Tensor] | None,
) -> Tensor:
    """Logits [B, Q, N] of episodes whose images are rows `support` [B, N, K] and `query` [B, Q] of `images`."""
    if shared is not None:
        classes, row_of_example = shared
        return method.score_rows(classes, row_of_example[support[..., 0]].to(device), images, query.to(device))
    if _device_of(images) != device:
        needed, row_of = torch.unique(torch.cat([support.flatten(), query.flatten()]), return_inverse=True)
        images = {name: table[needed].to(device) for name, table in images.items()}
        support, query = row_of[: support.numel()].view_as(support), row_of[support.numel() :].view_as(query)
    classes = method.class_table(images, support.flatten(0, 1).to(device))
    class_rows = torch.arange(support[..., 0].numel(), device=device).view(support.shape[:2])
    return method.score_rows(classes, class_rows, images, query.to(device))


def _device_of(table: Table) -> torch.device:
    return next(iter(table.values())).device


def _bytes(table: Table) -> int:
    return sum(values.nbytes for values in table.values())


def image_table(
    method: FewShotMethod, split: ImageSplit, rows: Tensor, augment: Augmentation, device: torch.device, room: Path
) -> Table:
    """`FewShotMethod.image_table` of the split's `rows`; on the device if half its free memory holds it, else on the
    CPU, beyond TABLE_BYTES in files in the folder `room`."""
    table: Table = {}
    for start in range(0, len(rows), IMAGES_PER_BATCH):
        images = augment.evaluate(split.pixels(rows[start : start + IMAGES_PER_BATCH]).to(device))
        part = method.image_table(method.maps(images))
        alive()
        table = table or _room_for(len(rows), part, room)
        for name, values in part.items():
            table[name][start : start + len(images)] = values
    return table


def _room_for(count: int, like: Table, room: Path) -> Table:
    """Tensors for a table of `count` rows, each as in `like`."""
    shapes = {name: (count, *values.shape[1:]) for name, values in like.items()}
    sizes = {name: math.prod(shape) * like[name].element_size() for name, shape in shapes.items()}
    device, total = _device_of(like), sum(sizes.values())
    if device.type == "cuda" and total < torch.cuda.mem_get_info(device)[0] / 2:
        return {name: like[name].new_empty(shape) for name, shape in shapes.items()}
    if total <= TABLE_BYTES:
        return {name: torch.empty(shape, dtype=like[name].dtype) for name, shape in shapes.items()}
    free = shutil.disk_usage(room).free
    if total > free:
        raise ValueError(
            f"what is kept of the episodes' images takes {total / 1e9:.1f} GB, {room.parent} has {free / 1e9:.1f} GB "
            "free; name a larger folder in TMPDIR, or take fewer episodes"
        )
    return {
        name: torch.from_file(str(room / name), shared=True, size=math.prod(shape), dtype=like[name].dtype).view(shape)
        for name, shape in shapes.items()
    }


def _class_table_of_examples(
    method: FewShotMethod, images: Table, support: Tensor, device: torch.device
) -> tuple[Table, Tensor] | None:
    """The class table of all single examples, and each image's row in it; None where it is not worth its memory.

    With one shot a class is its example. Examples are drawn again in other episodes, so that there are fewer of them
    than classes.
    """
    examples = support.unique()
    if not method.computes_classes or support.shape[-1] != 1 or len(examples) >= support.numel():
        return None
    if _device_of(images) != device:
        return None
    sample = method.class_table(images, examples[:1, None].to(device))
    room = torch.cuda.mem_get_info(device)[0] / 2 if device.type == "cuda" else TABLE_BYTES - _bytes(images)
    if _bytes(sample) * len(examples) > room:
        return None
    table = {name: values.new_empty(len(examples), *values.shape[1:]) for name, values in sample.items()}
    for start in range(0, len(examples), IMAGES_PER_BATCH):
        part = method.class_table(images, examples[start : start + IMAGES_PER_BATCH, None].to(device))
        for name, values in part.items():
            table[name][start : start + len(values)] = values
    row_of_example = torch.full((int(examples.max()) + 1,), -1)
    row_of_example[examples] = torch.arange(len(examples))
    return table, row_of_example


def mean_and_ci95(accuracies: np.ndarray) -> tuple[float, float]:
    """Mean, and 1.96 * std / sqrt(n) as in few-shot papers (std without Bessel's correction, n counted)."""
    return float(accuracies.mean()), float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))


def evaluate(
    method: FewShotMethod, experiment: ExperimentConfig, evaluation: EvaluationConfig, data: DataSet, epoch: int
) -> EvaluationRecord:
    """Test `method`, trained as `experiment` says (its weights are those of `epoch`), as `evaluation` says."""
    started = time.perf_counter()
    evaluation = evaluation.resolve(experiment)
    split = data.split(evaluation.split)
    bank = episode_bank(split, evaluation)
    augment = Augmentation(experiment.augmentation, experiment.data)
    accuracies = episode_accuracies(method, split, bank, augment, experiment.training.precision).numpy()
    accuracy, ci95 = mean_and_ci95(accuracies)
    return EvaluationRecord(
        training_key=experiment.key,
        evaluation_key=evaluation.key,
        config=evaluation,
        accuracy=accuracy,
        ci95=ci95,
        episode_accuracies=tuple(accuracies.tolist()),
        bank=bank.hash,
        data_fingerprint=data.fingerprint,
        epoch=epoch,
        seconds=time.perf_counter() - started,
        code=code_hash(experiment, device_of(experiment).type),
    )


def load_trained(folder: Path, experiment: ExperimentConfig, data: DataSet) -> tuple[FewShotMethod, int]:
    """The kept weights of a training's folder, and the epoch that they are of."""
    path = folder / BEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} holds no finished training")
    tensors, kept = read_checkpoint_of(Kept, path)
    if kept.key != experiment.key:
        raise ValueError(f"{path} belongs to training {kept.key}, not to {experiment.key}")
    if kept.data != data.fingerprint:
        raise ValueError(
            f"{path} was trained on other images of {experiment.data.name!r} than those at "
            f"data.root={experiment.data.root!r}; give the root that it was trained with"
        )
    method = build_method(experiment.model, experiment.data, len(data.train.classes))
    load_weights(method, under("model.", tensors), str(path))
    return method, kept.epoch


def evaluate_folder(
    folder: Path, experiment: ExperimentConfig, evaluation: EvaluationConfig, data: DataSet
) -> EvaluationRecord:
    """Test the kept weights of a training's folder on the device and with the threads that `experiment` names."""
    set_up(experiment.training.threads)
    method, epoch = load_trained(folder, experiment, data)
    return evaluate(method.to(device_of(experiment)), experiment, evaluation, data, epoch)
