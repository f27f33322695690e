"""A training step never waits for the GPU: on machines without one by `tests/waiting.py`, else by PyTorch's own check.

What has to wait is left out: adaptive steps of dopri5, and PyTorch's `odeint` for 3x3 filters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dmf.config import ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, open_data
from dmf.machine.device import staged
from dmf.training import images
from dmf.training.run import Run
from dmf.training.stage import Stage, build_stage
from tests.test_training import TINY
from tests.waiting import DEVICE, NoWaiting, Waits, autocast, generator

SETTINGS = {
    "dmf": {},
    "dmf, aligned, without dynamic sampling": {"model__global_input": "aligned", "model__dynamic_sampling": False},
    "dmf, ResNet-12 with DropBlock": {"model__backbone": "resnet12", "model__drop_block_size": 3},
    "one alignment by 3x3 filters": {"model__alignment": 1, "model__kernel_size": 3},
    "crops of full images": {"augmentation__crop": "resized"},
    "proto_net": {"model": {"method": "proto_net", "backbone": "conv64f"}},
    "pre-training": {},
}


def config_of(name: str) -> ExperimentConfig:
    config = TINY.with_paths({path.replace("__", "."): value for path, value in SETTINGS[name].items()})
    return config.with_paths({"start.head": "cosine", "start.head_margin": 0.1}) if name == "pre-training" else config


@pytest.fixture(scope="module", params=SETTINGS)
def stage_config(request: pytest.FixtureRequest) -> ExperimentConfig:
    config = config_of(request.param)
    return config.stage if request.param == "pre-training" else config


def images_of(config: ExperimentConfig, cache: Path) -> DataSet:
    return open_data(config.data, full_size_training=config.augmentation.crop == "resized", cache_dir=cache)


@pytest.fixture
def stage(stage_config: ExperimentConfig, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    monkeypatch.setattr(images, "Generator", generator)
    monkeypatch.setattr(torch, "autocast", autocast)
    return build_stage(stage_config, images_of(stage_config, cache), DEVICE, None)


def test_a_step_waits_for_nothing(stage: Stage) -> None:
    stage.module.train()
    with NoWaiting() as watched:
        losses = stage.losses(0, stage.read(0))
        losses.total.backward()
        torch.stack([losses.total.detach(), *(value.detach() for value in losses.parts.values())])
    assert losses.total.device == DEVICE
    assert 2 <= watched.copies <= 3  # images, labels and, of episodes, targets


def test_evaluation_reads_images_from_pinned_memory(cache: Path) -> None:
    split, augment = images_of(TINY, cache).val, Augmentation(TINY.augmentation, TINY.data, DEVICE)
    with NoWaiting():
        assert augment.evaluate(staged(split.pixels(torch.arange(3)), DEVICE)).device == DEVICE
        with pytest.raises(Waits, match="_to_copy"):
            augment.evaluate(split.pixels(torch.arange(3)))


@pytest.mark.parametrize(
    "wait",
    [
        lambda there: there.to("cpu"),
        lambda there: there.sum().item(),
        lambda there: there.tolist(),
        lambda there: bool((there > 0).any()),
        lambda there: there + torch.ones(3).to(DEVICE),
        lambda there: there + torch.ones(3).pin_memory().to(DEVICE),
        lambda there: there + torch.ones(3).to(DEVICE, non_blocking=True),
        lambda there: there + torch.tensor([1.0, 2.0, 3.0], device=DEVICE),
        lambda there: there[torch.tensor([0, 1])],
    ],
)
def test_what_waits_is_refused(wait: object) -> None:
    there = torch.ones(3, device=DEVICE)
    with NoWaiting(), pytest.raises((Waits, RuntimeError, NotImplementedError)):
        wait(there)


@pytest.fixture
def watched(gpu: torch.device) -> Iterator[Callable[[], None]]:
    """A function after which PyTorch raises an error where the CPU waits for the GPU."""
    yield lambda: torch.cuda.set_sync_debug_mode("error") if gpu.type == "cuda" else None
    if gpu.type == "cuda":
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_a_step_on_a_gpu_does_not_synchronise(
    stage_config: ExperimentConfig, cache: Path, tmp_path: Path, gpu: torch.device, watched: Callable[[], None]
) -> None:
    run = Run(stage_config.replace(training__device=gpu.type), images_of(stage_config, cache), tmp_path)
    run.train_steps(range(2))  # libraries are loaded, and kernels chosen
    stage, optimiser = run.stage, run.optimiser
    batch = stage.read(2)
    watched()
    losses = stage.losses(2, batch)
    optimiser.zero_grad(set_to_none=True)
    losses.total.backward()
    optimiser.step()
