"""Accuracy over a fixed bank of episodes. Every image passes through the backbone once."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, ImageSplit, images_of
from dmf.draws import derived_seed
from dmf.episodes import EpisodeIndices
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.partial import Identity, Part, PartialResults, Result
from dmf.evaluation.tables import Tables, base_images, device_of_method
from dmf.evaluation.tasks import check_base
from dmf.machine.clock import Clock
from dmf.machine.device import device_of, set_up
from dmf.machine.precision import autocast, check_precision
from dmf.machine.watchdog import alive
from dmf.methods import base_classes_of, build_method
from dmf.methods.base import FewShotMethod
from dmf.methods.related import BaseImages
from dmf.records.checkpoints import load_weights, read_checkpoint_of, under, weights_checksum
from dmf.records.provenance import code_hash
from dmf.records.records import BEST, FORMAT, EvaluationRecord, Kept

EPISODES_PER_BATCH = 8


def episode_accuracies(
    method: FewShotMethod,
    split: ImageSplit,
    bank: EpisodeIndices,
    augment: Augmentation,
    precision: str = "fp32",
    base: ImageSplit | None = None,
) -> Tensor:
    """Accuracy of each episode of `bank`, float64 [E]. The method's training mode is restored afterwards."""
    return correct_answers(method, split, bank, augment, precision, base).sum(1).double() / bank.query.shape[1]


def correct_answers(
    method: FewShotMethod,
    split: ImageSplit,
    bank: EpisodeIndices,
    augment: Augmentation,
    precision: str = "fp32",
    base: ImageSplit | None = None,
) -> Tensor:
    """Number of correct answers per class in each episode of `bank`, int64 [E, N].

    Every image passes once through the backbone and once through the part of the head that depends on the image alone
    (`FewShotMethod.image_table`). The part that depends on a class alone is computed once per class. With one shot,
    where classes of different episodes share a support image, it is computed once per support image. A method that
    adapts uses an episode's number as its seed, and one that reads base images reads those of the split `base`.
    """
    with (
        _evaluating(method),
        autocast(device_of_method(method), precision),
        Tables.of(method, split, bank, augment) as tables,
        base_images(method, base, augment) as read,
    ):
        if method.adapts:
            results = _adapted(tables, bank, read, int, range(len(bank)), None).values()
            return torch.tensor([each.correct for each in results])
        found, targets = [], bank.targets.to(device_of_method(method))
        for part in batched(bank):
            found.append(_right(tables.scores(part), targets[part]))
            alive()
        return torch.cat(found).cpu()  # only now, so that the CPU runs ahead of a GPU


def batched(bank: EpisodeIndices) -> Iterator[slice]:
    """The episodes of a bank in batches; which share one does not depend on where an evaluation begins."""
    for start in range(0, len(bank), EPISODES_PER_BATCH):
        yield slice(start, min(start + EPISODES_PER_BATCH, len(bank)))


def _right(logits: Tensor, targets: Tensor) -> Tensor:
    """The number of correct answers [B, N] of logits [B, Q, N]; `targets` [B, Q] have a class's queries in a row."""
    counts: Tensor = (logits.argmax(-1) == targets).unflatten(1, (logits.shape[-1], -1)).sum(-1)
    return counts


def _adapted(
    tables: Tables,
    bank: EpisodeIndices,
    base: BaseImages | None,
    seed: Callable[[int], int],
    episodes: range,
    partial: PartialResults | None,
) -> dict[int, Result]:
    """The results of a method that adapts, by episode, in order; at least those of `episodes`.

    It resumes from the results in `partial`, if given, and adds its own to it: each episode's as it comes where a
    method reads base images, which takes it seconds, else those of a batch.
    """
    found = partial.read() if partial else {}
    if partial:
        partial.begin()
    for part in batched(bank):
        numbers = range(part.start, part.stop)
        missing = [number for number in numbers if number in episodes and number not in found]
        if not missing:
            continue
        seeds = [seed(number) for number in numbers]
        answers = tables.adapted(part, seeds, base, first=missing[0] - part.start)
        waiting, clock = [], Clock()
        for number, answer in zip(range(missing[0], missing[-1] + 1), answers, strict=False):
            correct = _right(answer.logits[None].cpu(), bank.targets[number : number + 1])[0].tolist()
            found[number] = Result(
                episode=number,
                correct=tuple(correct),
                counts=answer.counts,
                seconds=clock.seconds,
                cpu_seconds=clock.cpu_seconds,
            )
            clock = Clock()
            waiting.append(found[number])
            if partial and (tables.method.reads_base or number == missing[-1]):
                partial.add(waiting)
                waiting = []
            alive()
    if partial:  # other workers may have ended meanwhile
        found = partial.read() | found
    return dict(sorted(found.items()))


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
    base: ImageSplit | None = None,
) -> EvaluationRecord:
    """Evaluate `method`, trained as in `experiment` up to `epoch`, on the episodes of `evaluation`.

    A method that adapts to each episode takes longer: its results are written to `folder`, its training's folder, as
    they come, and an interrupted evaluation resumes from them. `base` is the training split, for a method that reads
    base images.
    """
    record = evaluate_part(method, experiment, evaluation, data, epoch, folder, base, None)
    assert record is not None
    return record


def evaluate_part(
    method: FewShotMethod,
    experiment: ExperimentConfig,
    evaluation: EvaluationConfig,
    data: DataSet,
    epoch: int,
    folder: Path | None,
    base: ImageSplit | None,
    part: Part | None,
) -> EvaluationRecord | None:
    """As `evaluate`, for a part of the episodes; there is no record unless all others have results too."""
    clock = Clock()
    evaluation = evaluation.resolve(experiment)
    check_precision(device_of_method(method), experiment.training.precision)
    split = data.split(evaluation.split)
    bank = episode_bank(split, evaluation)
    tested = bank[: evaluation.tested]
    augment = Augmentation(experiment.augmentation, experiment.data, device_of_method(method))
    code = code_hash(experiment, device_of(experiment.training.device).type)
    precision = experiment.training.precision
    partial = None
    if part is not None and not (method.adapts and folder is not None):
        raise ValueError(
            f"model.method={experiment.model.method} does not adapt to episodes, so its test is not made in parts"
        )
    if base is not None and method.reads_base:
        check_base(experiment, evaluation, base)
    if method.adapts and folder is not None:
        identity = Identity(
            training_key=experiment.key,
            evaluation_key=evaluation.key,
            weights=weights_checksum(folder / BEST),
            bank=bank.hash,
            data_fingerprint=data.fingerprint,
            code=code,
        )
        partial = PartialResults(folder, identity, part)
    counts: Counter[str] = Counter()
    before: list[Result] = []
    if method.adapts:

        def seed(episode: int) -> int:
            return derived_seed(evaluation.seed, episode)

        with (
            _evaluating(method),
            autocast(device_of_method(method), precision),
            Tables.of(method, split, tested, augment) as tables,
            base_images(method, base, augment) as read,
        ):
            earlier = partial.read().keys() if partial else set[int]()
            episodes = part.episodes(len(tested)) if part else range(len(tested))
            results = _adapted(tables, tested, read, seed, episodes, partial)
        if len(results) < len(tested):
            return None
        correct = [list(each.correct) for each in results.values()]
        for each in results.values():
            counts.update(each.counts)
        elsewhere = results.keys() - (set(episodes) - earlier)
        before = [results[number] for number in sorted(elsewhere)]
    else:
        correct = correct_answers(method, split, tested, augment, precision).tolist()
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
        seconds=sum(each.seconds for each in before) + clock.seconds,
        cpu_seconds=sum((each.cpu_seconds for each in before), clock.cpu_seconds),
        code=code,
        data_doubts=data.doubts,
        counts=dict(counts),
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
    record = evaluate_part_of_folder(folder, experiment, evaluation, data, None)
    assert record is not None
    return record


def evaluate_part_of_folder(
    folder: Path, experiment: ExperimentConfig, evaluation: EvaluationConfig, data: DataSet, part: Part | None
) -> EvaluationRecord | None:
    """As `evaluate_folder`, for a part of the episodes; the record if that completes the evaluation."""
    set_up(experiment.training.threads)
    own: DataSet | None = data
    if evaluation.data is not None:
        own = images_of(experiment) if experiment.model.reads_base else None
    method, epoch = load_trained(folder, experiment, own)
    method = method.to(device_of(experiment.training.device))
    return evaluate_part(method, experiment, evaluation, data, epoch, folder, own.train if own else None, part)
