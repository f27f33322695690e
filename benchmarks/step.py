"""The cost of a ResNet-12 training step, compared with its backbone and with plain PyTorch.

The whole step is that of `dmf.training.run`: draw episodes, read images from the uint8 cache, augment them, forward,
backward, optimiser. It is compared, at the same precision, with the backbone alone on given images and the head alone
on given maps. The literal version is the same model in contiguous layout, eager and in float32, in a separate process
with glibc's default malloc.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.harness import (
    AVX512,
    NO_BF16,
    Report,
    Settings,
    alternate,
    main,
    median,
    number,
    precisions,
    ratio,
    seconds,
    state_rates,
)
from benchmarks.images import NAME, SIDE, opened, write_images
from benchmarks.steps import (
    IMAGES_PER_EPISODE,
    backbone_flops,
    backbone_step,
    fresh_method,
    head_step,
    random_episodes,
    whole_step,
)
from dmf.config import ExperimentConfig
from dmf.data.sets import DataSet
from dmf.machine.device import set_up
from dmf.training.run import Run

COUNTS = {"train": (20, 20), "val": (5, 20), "test": (5, 20)}
SHARES = {64: 0.03, 160: 0.05, 640: 0.12}
"""Largest share of the head in a step, by groups."""
WHOLE = {"fp32": 1.10, "bf16": 1.15}
"""Largest ratio of the whole step's time to the backbone's."""
OVER_PLAIN = 2.4
OF_BF16 = "bf16 + channels last training step over contiguous eager fp32"
OF_STEP = "whole training step over backbone only, G=64, {}"


def run(report: Report) -> None:
    """Time steps, their parts, and the literal step."""
    settings = report.settings
    device = torch.device(settings.device)
    set_up(settings.threads)
    episodes = 1 if settings.short else 4
    measured = precisions(device)
    rates = state_rates(report)
    with tempfile.TemporaryDirectory() as room, PlainProcess(episodes, settings.threads, settings.device) as plain:
        write_images(Path(room) / "images", COUNTS)
        data = opened(Path(room) / "images", Path(room) / "cache")
        variants: dict[str, Callable[[], object]] = {"plain contiguous fp32": plain.step}
        for precision in measured:
            variants[f"step {precision}"] = training_step(data, Path(room) / precision, episodes, settings, precision)
            method, images = fresh_method(device), random_episodes(episodes, device)
            variants[f"backbone {precision}"] = backbone_step(method, images, precision)
            for groups in SHARES:
                method = fresh_method(device, groups=groups)
                variants[f"head {precision} G={groups}"] = head_step(method, images, precision)
        contiguous = fresh_method(device).to(memory_format=torch.contiguous_format)
        contiguous.maps = contiguous.backbone
        variants["contiguous fp32"] = whole_step(contiguous, random_episodes(episodes, device), "fp32")
        times = alternate(variants, settings.repeats)
    flops = backbone_flops(contiguous)
    report.floor("backbone's products for an image, forward", flops, "FLOP")
    images_per_step = episodes * IMAGES_PER_EPISODE
    report.times(f"one step, {images_per_step} images of {SIDE} x {SIDE}", times)
    for precision in measured:
        report.state(f"images/s of the step, {precision}", images_per_step / median(times[f"step {precision}"]))
        floor = 3 * flops * images_per_step / rates[precision]
        report.floor(f"backbone's products at the matrix rate, {precision}", floor, "s")
        report.state(
            f"backbone's share of the matrix rate, {precision}", floor / median(times[f"backbone {precision}"])
        )
        report.claim(
            OF_STEP.format(precision),
            ratio(times, f"step {precision}", f"backbone {precision}"),
            at_most=WHOLE[precision],
            unit="x",
            seen=AVX512,
        )
        for groups, most in SHARES.items():
            head, small = times[f"head {precision} G={groups}"], times[f"head {precision} G=64"]
            rounds = zip(head, small, times[f"step {precision}"], strict=True)
            share = median([part / (step - of_64 + part) for part, of_64, step in rounds])
            name = f"share of the head in a training step, G={groups}, {precision}"
            if precision == "fp32":
                report.claim(name, share, at_most=most, seen=AVX512)
            else:
                report.state(name, number(share))
    report.state("contiguous over channels last, fp32", ratio(times, "contiguous fp32", "step fp32"), "x")
    if "bf16" in measured:
        report.state("contiguous fp32 over bf16 step, malloc alike", ratio(times, "contiguous fp32", "step bf16"), "x")
        report.claim(
            OF_BF16,
            ratio(times, "plain contiguous fp32", "step bf16"),
            at_least=OVER_PLAIN,
            unit="x",
            note="the latter without loading and augmentation, malloc as glibc has it",
            seen=AVX512,
        )
    else:
        report.skip(OF_STEP.format("bf16"), NO_BF16)
        report.skip(OF_BF16, NO_BF16)


def training_step(
    data: DataSet, folder: Path, episodes: int, settings: Settings, precision: str
) -> Callable[[], object]:
    """A function that runs the next step of a real training."""
    config = ExperimentConfig().replace(
        data__name=NAME,
        training__episodes_per_step=episodes,
        training__validation_episodes=2,
        training__precision=precision,
        training__threads=settings.threads,
        training__device=settings.device,
    )
    training = Run(config, data, folder)
    done = iter(range(10**6))

    def step() -> None:
        number = next(done)
        training.train_steps(range(number, number + 1))

    return step


class PlainProcess:
    """The literal step in another process, which answers each call with the seconds that the step took."""

    def __init__(self, episodes: int, threads: int, device: str) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, episodes, threads, device))

    def __enter__(self) -> PlainProcess:
        self.process.start()
        return self

    def step(self) -> float:
        """Run one step. It is timed by the caller, like every variant; the messages take microseconds."""
        self.connection.send(True)
        return self.connection.recv()

    def __exit__(self, *exception: object) -> None:
        self.connection.send(False)
        self.process.join()


def _serve(connection: Connection, episodes: int, threads: int, device: str) -> None:
    torch.set_num_threads(threads)
    method = fresh_method(torch.device(device)).to(memory_format=torch.contiguous_format)
    method.maps = method.backbone
    step = whole_step(method, random_episodes(episodes, torch.device(device)), "fp32")
    while connection.recv():
        connection.send(seconds(step))


if __name__ == "__main__":
    sys.exit(main("step", run))
