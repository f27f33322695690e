"""Loading and augmenting training images, compared with PIL transforms in worker processes and with a training step.

Images are noise textures, written as JPEG files of 84 x 84 in class folders. Ours reads them from the uint8 cache,
which is written before the clock starts, as in a user's second run, and augments whole batches in the training process.
The literal version opens and transforms file by file, in as many worker processes as there are threads; its time
includes their start.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.harness import AVX512, Report, alternate, main, median, peak_bytes, precisions, ratio, state_rates
from benchmarks.images import NAME, SIDE, opened, write_images
from benchmarks.literal import training_loader
from benchmarks.steps import fresh_method, random_episodes, whole_step
from dmf.config import AugmentationConfig, DataConfig, EpisodeConfig, TrainingConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet
from dmf.episodes import EpisodeSampler
from dmf.training.images import TrainingImages

COUNTS = {"train": (20, 60), "val": (5, 20), "test": (5, 20)}
"""Classes, and images per class."""
TASK = EpisodeConfig()
PER_STEP = TrainingConfig().episodes_per_step
IMAGES_PER_EPISODE = TASK.way * (TASK.shot + TASK.queries)
IMAGES = PER_STEP * IMAGES_PER_EPISODE
AT_LEAST = {"cpu": 3.0, "cuda": 1.0}
"""Least ratio of throughput to consumption; on a GPU, the loader only has to not be the bottleneck."""
ALIKE = 0.2
"""Largest difference in mean and standard deviation between the two versions' normalised images."""


def run(report: Report) -> None:
    """Images per second of both loaders and of a ResNet-12 training step."""
    settings = report.settings
    steps = 4 if settings.short else 20
    rates = state_rates(report)
    with tempfile.TemporaryDirectory() as room:
        root, cache = Path(room) / "images", Path(room) / "cache"
        files = write_images(root, COUNTS)
        data = opened(root, cache)
        load = ours(data, settings.device)
        literal = literal_pass(files, data, steps, settings.threads)
        _check_alike(load, literal)
        times = alternate(
            {"ours": lambda: [load(step) for step in range(steps)], "literal": lambda: [None for _ in literal()]},
            settings.repeats,
        )
        size = sum(path.stat().st_size for path in files) / len(files)
        peak = peak_bytes(first_batch, str(root), str(cache), settings.device, threads=1, device=settings.device)
    speed = {name: steps * IMAGES / median(values) for name, values in times.items()}
    report.times(f"loader, {steps} steps of {IMAGES} images", times)
    report.state("loader, ours", speed["ours"], "images/s", f"in the training process, threads: {settings.threads}")
    report.state("loader, literal", speed["literal"], "images/s", f"PIL, worker processes: {settings.threads}")
    report.state("loader: mean size of the JPEG files", size, "B")
    report.state("loader, ours over literal", ratio(times, "literal", "ours"), "x")
    report.state("loader, ours: peak memory of a batch", peak, "B")
    floor = 5 * SIDE * SIDE * 3 / rates["copy"]
    report.floor("loader: read bytes and write floats at the copy rate", floor, "s", "per image")
    report.state("loader, ours: times its floor", 1 / speed["ours"] / floor, "x")

    episodes = 1 if settings.short else PER_STEP
    device = torch.device(settings.device)
    measured = precisions(device)
    step_times = alternate(
        {name: whole_step(fresh_method(device), random_episodes(episodes, device), name) for name in measured},
        settings.repeats,
    )
    report.times(f"ResNet-12 training step, G=64, {episodes * IMAGES_PER_EPISODE} images", step_times)
    fastest = min(measured, key=lambda name: median(step_times[name]))
    consumed = episodes * IMAGES_PER_EPISODE / median(step_times[fastest])
    report.state("training step consumes", consumed, "images/s", f"{fastest}, the faster precision here")
    report.claim(
        "loader + augmentation throughput over what the step consumes",
        speed["ours"] / consumed,
        at_least=AT_LEAST[settings.device],
        unit="x",
        seen=AVX512,
    )


def sampler(data: DataSet) -> EpisodeSampler:
    return EpisodeSampler(data.train.labels, TASK.way, TASK.shot, TASK.queries, seed=0)


def ours(data: DataSet, device: str) -> Callable[[int], Tensor]:
    """A function that maps a step to its images [140, 3, 84, 84] on the device, as in training."""
    place = torch.device(device)
    augment = Augmentation(AugmentationConfig(), DataConfig(name=NAME, image_size=SIDE), place)
    tasks, images = sampler(data), TrainingImages(data.train, augment, 0, place)

    def load(step: int) -> Tensor:
        indices = tasks(range(step * PER_STEP, (step + 1) * PER_STEP))
        return images.augmented(
            images.read(torch.cat([indices.support.flatten(), indices.query.flatten()]), step), step
        )

    return load


def first_batch(root: str, cache: str, device: str) -> Callable[[], Tensor]:
    """A function that loads one batch, after another batch as warm-up."""
    load = ours(opened(Path(root), Path(cache)), device)
    load(0)
    return lambda: load(1)


def literal_pass(files: list[Path], data: DataSet, steps: int, workers: int) -> Callable[[], object]:
    """A function that starts an epoch of `steps` steps and returns an iterable of (support, query, targets)."""
    loader = training_loader(files, sampler(data)(range(steps * PER_STEP)), PER_STEP, workers, SIDE)
    assert [path.parent.name for path in files] == [data.train.classes[label] for label in data.train.labels]
    return lambda: iter(loader)


def _check_alike(load: Callable[[int], Tensor], literal: Callable[[], object]) -> None:
    """Compare mean and standard deviation of the images; the two versions draw different random numbers."""
    torch.manual_seed(0)  # determines the workers' seeds
    batches = [torch.cat([support.flatten(0, 1), query.flatten(0, 1)]) for support, query, _ in literal()]
    theirs, mine = torch.cat(batches), torch.cat([load(step).cpu() for step in range(len(batches))])
    if mine.shape != theirs.shape:
        raise RuntimeError(f"ours loads {list(mine.shape)}, the literal version {list(theirs.shape)}")
    for statistic in (torch.mean, torch.std):
        one, other = statistic(mine).item(), statistic(theirs).item()
        if not abs(one - other) <= ALIKE:
            raise RuntimeError(f"{statistic.__name__} of the images: ours {one:.3f}, the literal version {other:.3f}")


if __name__ == "__main__":
    sys.exit(main("loader", run))
