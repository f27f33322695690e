"""Accuracy over a fixed bank of episodes. Every image passes through the backbone once."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, ImageSplit
from dmf.draws import derived_seed
from dmf.episodes import EpisodeIndices
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.partial import Identity, PartialResults, partial_path
from dmf.evaluation.tables import Tables, device_of_method
from dmf.machine.device import device_of, set_up
from dmf.machine.precision import autocast
from dmf.machine.watchdog import alive
from dmf.methods import base_classes_of, build_method
from dmf.methods.base import FewShotMethod
from dmf.records.checkpoints import load_weights, read_checkpoint_of, under, weights_checksum
from dmf.records.provenance import code_hash
from dmf.records.records import BEST, FORMAT, EvaluationRecord, Kept

EPISODES_PER_BATCH = 8


def episode_accuracies(
    method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation, precision: str = "fp32"
) -> Tensor:
    """Accuracy of each episode of `bank`, float64 [E]. The method's training mode is restored afterwards."""
    return correct_answers(method, split, bank, augment, precision).sum(1).double() / bank.query.shape[1]


def correct_answers(
    method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation, precision: str = "fp32"
) -> Tensor:
    """Number of correct answers per class in each episode of `bank`, int64 [E, N].

    Every image passes once through the backbone and once through the part of the head that depends on the image alone
    (`FewShotMethod.image_table`). The part that depends on a class alone is computed once per class. With one shot,
    where classes of different episodes share a support image, it is computed once per support image. A method that
    adapts uses an episode's number as its seed.
    """

    def seeds(part: range) -> list[int]:
        return list(part)

    return torch.tensor(_answers(method, split, bank, augment, precision, seeds, None))


def _answers(
    method: FewShotMethod,
    split: ImageSplit,
    bank: EpisodeIndices,
    augment: Augmentation,
    precision: str,
    seeds: Callable[[range], list[int]],
    partial: PartialResults | None,
) -> list[list[int]]:
    """As `correct_answers`, but resume from the results in `partial`, if given, and add those of each batch to it."""
    found = partial.read() if partial else []
    if partial:
        partial.begin(found)
    ways = bank.support.shape[1]
    with (
        _evaluating(method),
        autocast(device_of_method(method), precision),
        Tables.of(method, split, bank, augment) as tables,
    ):
        for start in range(len(found), len(bank), EPISODES_PER_BATCH):
            part = range(start, min(start + EPISODES_PER_BATCH, len(bank)))
            rows = slice(part.start, part.stop)
            logits = tables.adapted_scores(rows, seeds(part)) if method.adapts else tables.scores(rows)
            alive()
            right = logits.argmax(-1).cpu() == bank.targets[rows]  # [B, Q], with the queries of a class in a row
            results = right.unflatten(1, (ways, -1)).sum(-1).tolist()
            if partial:
                partial.add(results)
            found += results
    return found


@contextlib.contextmanager
def _evaluating(method: FewShotMethod) -> Iterator[None]:
    """Put the method in evaluation mode and disable gradients; a method that adapts can enable them again."""
    training = method.training
    method.eval()
    with torch.no_grad() if method.adapts else torch.inference_mode():
        yield
    method.train(training)


def mean_and_ci95(accuracies: np.ndarray) -> tuple[float, float]:
    """Mean, and 1.96 * std / sqrt(n) as in few-shot papers (std without Bessel's correction)."""
    return float(accuracies.mean()), float(1.96 * accuracies.std() / math.sqrt(len(accuracies)))


def evaluate(
    method: FewShotMethod,
    experiment: ExperimentConfig,
    evaluation: EvaluationConfig,
    data: DataSet,
    epoch: int,
    folder: Path | None = None,
) -> EvaluationRecord:
    """Evaluate `method`, trained as in `experiment` up to `epoch`, on the episodes of `evaluation`.

    A method that adapts to each episode takes longer: its results are written to `folder`, its training's folder, as
    they come, and an interrupted evaluation resumes from them.
    """
    started = time.perf_counter()
    evaluation = evaluation.resolve(experiment)
    split = data.split(evaluation.split)
    bank = episode_bank(split, evaluation)
    augment = Augmentation(experiment.augmentation, experiment.data)
    code = code_hash(experiment, device_of(experiment.training.device).type)
    partial = None
    if method.adapts and folder is not None:
        identity = Identity(
            training_key=experiment.key,
            evaluation_key=evaluation.key,
            weights=weights_checksum(folder / BEST),
            bank=bank.hash,
            data_fingerprint=data.fingerprint,
            code=code,
        )
        partial = PartialResults(partial_path(folder, evaluation.key), identity)

    def seeds(part: range) -> list[int]:
        return [derived_seed(evaluation.seed, index) for index in part]

    correct = _answers(method, split, bank, augment, experiment.training.precision, seeds, partial)
    accuracy, ci95 = mean_and_ci95(np.array(correct).sum(1) / bank.query.shape[1])
    return EvaluationRecord(
        format=FORMAT,
        training_key=experiment.key,
        evaluation_key=evaluation.key,
        config=evaluation,
        accuracy=accuracy,
        ci95=ci95,
        correct=tuple(map(tuple, correct)),
        classes=len(split.classes),
        bank=bank.hash,
        data_fingerprint=data.fingerprint,
        epoch=epoch,
        seconds=time.perf_counter() - started,
        code=code,
        data_doubts=data.doubts,
    )


def load_trained(folder: Path, experiment: ExperimentConfig, data: DataSet | None) -> tuple[FewShotMethod, int]:
    """The method with the best weights in a training's folder, and the epoch they come from.

    `data` are the images that it was trained on, which are checked; None if it is tested on others.
    """
    path = folder / BEST
    if not path.is_file():
        raise ValueError(f"{path} is missing: {folder} holds no finished training")
    tensors, kept = read_checkpoint_of(Kept, path)
    if kept.key != experiment.key:
        raise ValueError(f"{path} belongs to training {kept.key}, not to {experiment.key}")
    if data is not None and kept.data != data.fingerprint:
        raise ValueError(
            f"{path} was trained on other images of {experiment.data.name!r} than those at "
            f"data.root={experiment.data.root!r}; give the root that it was trained with"
        )
    weights = under("model.", tensors)
    classes = len(data.train.classes) if data else base_classes_of(experiment.model, experiment.data, weights)
    method = build_method(experiment.model, experiment.data, classes)
    load_weights(method, weights, str(path))
    return method, kept.epoch


def evaluate_folder(
    folder: Path, experiment: ExperimentConfig, evaluation: EvaluationConfig, data: DataSet
) -> EvaluationRecord:
    """Evaluate the best weights in a training's folder, on the device and with the threads of `experiment`.

    `data` are the images that `evaluation` tests on (`EvaluationConfig.data_of`).
    """
    set_up(experiment.training.threads)
    method, epoch = load_trained(folder, experiment, data if evaluation.data is None else None)
    method = method.to(device_of(experiment.training.device))
    return evaluate(method, experiment, evaluation, data, epoch, folder)
