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

from dmf.augment import Augmentation
from dmf.checkpoints import read_checkpoint, under
from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data import DataSet, ImageSplit
from dmf.episodes import EpisodeIndices, EpisodeSampler, derived_seed
from dmf.machine import device_of, set_up
from dmf.methods import FewShotMethod, build_method
from dmf.records import BEST, EvaluationRecord

IMAGES_PER_BATCH = 128
EPISODES_PER_BATCH = 8
FEATURE_BYTES = 6 * 2**30
"""Feature maps beyond this many bytes lie in a temporary memory-mapped file instead of in memory."""


def episode_bank(split: ImageSplit, config: EvaluationConfig) -> EpisodeIndices:
    """The pinned episodes of a split: a function of its labels, N, K, Q and seed, shared by all that compare."""
    if config.shot is None:
        raise ValueError("the number of shots is open: call EvaluationConfig.resolve with the training's configuration")
    sampler = EpisodeSampler(
        split.labels, config.way, config.shot, config.queries, derived_seed(config.seed, *split.name.encode())
    )
    return sampler(range(config.episodes))


def episode_accuracies(method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation) -> Tensor:
    """Accuracy of each episode of `bank`, float64 [episodes]. The method is left in the mode it was found in."""
    device = next((p.device for p in method.parameters()), torch.device("cpu"))
    training = method.training
    method.eval()
    with torch.inference_mode(), tempfile.TemporaryDirectory() as room:
        rows, row_of = torch.unique(torch.cat([bank.support.flatten(), bank.query.flatten()]), return_inverse=True)
        maps = feature_maps(method, split, rows, augment, device, Path(room))
        support = row_of[: bank.support.numel()].view_as(bank.support)
        query = row_of[bank.support.numel() :].view_as(bank.query)
        correct = []
        for start in range(0, len(bank), EPISODES_PER_BATCH):
            part = slice(start, start + EPISODES_PER_BATCH)
            logits = method.score(maps[support[part]].to(device), maps[query[part]].to(device))
            correct.append((logits.argmax(-1).cpu() == bank.targets[part]).double().mean(-1))
        del maps
    method.train(training)
    return torch.cat(correct)


def feature_maps(
    method: FewShotMethod, split: ImageSplit, rows: Tensor, augment: Augmentation, device: torch.device, room: Path
) -> Tensor:
    """Maps [len(rows), C, H, W] of the split's `rows`; on the device if half its free memory holds them, else on the
    CPU, beyond FEATURE_BYTES in a file in the folder `room`."""
    maps: Tensor | None = None
    for start in range(0, len(rows), IMAGES_PER_BATCH):
        images = augment.evaluate(split.pixels(rows[start : start + IMAGES_PER_BATCH]).to(device))
        part = method.maps(images)
        if maps is None:
            maps = _room_for((len(rows), *part.shape[1:]), part, room)
        maps[start : start + len(part)] = part
    assert maps is not None, "a bank has at least one image"
    return maps


def _room_for(shape: tuple[int, ...], like: Tensor, room: Path) -> Tensor:
    size = math.prod(shape) * like.element_size()
    if like.is_cuda and size < torch.cuda.mem_get_info(like.device)[0] / 2:
        return like.new_empty(shape)
    if size <= FEATURE_BYTES:
        return torch.empty(shape, dtype=like.dtype)
    free = shutil.disk_usage(room).free
    if size > free:
        raise ValueError(
            f"the episodes' feature maps take {size / 1e9:.1f} GB, {room.parent} has {free / 1e9:.1f} GB free; "
            "name a larger folder in TMPDIR, or take fewer episodes"
        )
    return torch.from_file(str(room / "maps"), shared=True, size=math.prod(shape), dtype=like.dtype).view(shape)


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
    accuracies = episode_accuracies(method, split, bank, Augmentation(experiment.augmentation, experiment.data)).numpy()
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
    )


def load_trained(folder: Path, experiment: ExperimentConfig, data: DataSet) -> tuple[FewShotMethod, int]:
    """The kept weights of a training's folder, and the epoch that they are of."""
    path = folder / BEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} holds no finished training")
    tensors, state = read_checkpoint(path)
    if state["key"] != experiment.key:
        raise ValueError(f"{path} belongs to training {state['key']}, not to {experiment.key}")
    if state["data"] != data.fingerprint:
        raise ValueError(
            f"{path} was trained on other images of {experiment.data.name!r} than those at "
            f"data.root={experiment.data.root!r}; give the root that it was trained with"
        )
    method = build_method(experiment.model, experiment.data, len(data.train.classes))
    method.load_state_dict(under("model.", tensors))
    return method, state["epoch"]


def evaluate_folder(
    folder: Path, experiment: ExperimentConfig, evaluation: EvaluationConfig, data: DataSet
) -> EvaluationRecord:
    """Test the kept weights of a training's folder on the device and with the threads that `experiment` names."""
    set_up(experiment.training.threads)
    method, epoch = load_trained(folder, experiment, data)
    return evaluate(method.to(device_of(experiment)), experiment, evaluation, data, epoch)
