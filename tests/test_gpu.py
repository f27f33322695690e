"""Training and evaluation on a GPU, held to a CPU. Without a GPU these are skipped; `benchmarks.gpu` rehearses them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.augment import Augmentation
from dmf.data.sets import DataSet, open_data
from dmf.evaluation import tables
from dmf.evaluation.bank import episode_bank
from dmf.evaluation.evaluate import correct_answers, evaluate_folder
from dmf.machine.device import has_bf16, has_tf32
from dmf.machine.precision import pinned
from dmf.methods import build_method
from dmf.training.run import Run, close, train
from tests.test_training import TINY

pytestmark = pytest.mark.gpu

PLAIN = TINY.with_paths(
    {
        "augmentation.crop": "none",
        "augmentation.color_jitter": 0.0,
        "augmentation.flip": False,
        "augmentation.erasing": 0.0,
        "training.epochs": 2,
        "training.validation_episodes": 4,
    }
)
"""Nothing is drawn on the device, so that a GPU trains on the same images as a CPU."""
METHODS = {
    "dmf": {},
    "one group": {"model.groups": 1},
    "without dynamic sampling": {"model.dynamic_sampling": False},
    "dopri5": {"model.solver": "dopri5"},
    "3x3 filters": {"model.kernel_size": 3},
    "aligned global input": {"model.global_input": "aligned"},
    "ResNet-12": {"model.backbone": "resnet12", "model.drop_rate": 0.0},
    "proto_net": {"model": {"method": "proto_net", "backbone": "conv64f"}},
}
ERRORS = {"fp32": (0.0, 2e-6), "tf32": (5e-5, 2e-3)}
"""Least and largest relative error of a convolution; a float32 product of 576 terms is off by about 1e-7 or less."""


@pytest.fixture(scope="module")
def data(cache: Path) -> DataSet:
    return open_data(PLAIN.data, cache_dir=cache)


def relative(one: Tensor, other: Tensor) -> float:
    return ((one.double().cpu() - other.double().cpu()).norm() / other.double().norm()).item()


@pytest.mark.parametrize("precision", ERRORS)
@pytest.mark.parametrize("what", ["convolution", "product"])
def test_a_precision_is_what_it_says(gpu: torch.device, precision: str, what: str) -> None:
    if precision == "tf32" and not has_tf32(gpu):
        pytest.skip("no TF32 here")
    generator = torch.Generator().manual_seed(0)
    images, weight = (torch.randn(shape, generator=generator) for shape in ((8, 64, 21, 21), (64, 64, 3, 3)))
    rows, columns = (torch.randn(576, 576, generator=generator) for _ in range(2))

    def computed(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        given = (images, weight) if what == "convolution" else (rows, columns)
        one, other = (tensor.to(device, dtype).requires_grad_() for tensor in given)
        out = F.conv2d(one, other, padding=1) if what == "convolution" else one @ other
        return [out, *torch.autograd.grad(out.square().sum(), (one, other))]

    exact = computed(torch.device("cpu"), torch.float64)
    with pinned(precision):
        found = computed(gpu, torch.float32)
    least, most = ERRORS[precision if what == "convolution" else "fp32"]
    for name, one, other in zip(("value", "by the first", "by the second"), found, exact, strict=True):
        assert least <= relative(one, other) <= most, name


def run_on(device: torch.device, config: ExperimentConfig, data: DataSet, folder: Path) -> Run:
    return Run(config.replace(training__device=device.type), data, folder)


@pytest.mark.parametrize("name", METHODS)
def test_losses_and_gradients_are_those_of_a_cpu(gpu: torch.device, data: DataSet, tmp_path: Path, name: str) -> None:
    config = PLAIN.with_paths(METHODS[name])
    found = []
    for device in (torch.device("cpu"), gpu):
        stage = run_on(device, config, data, tmp_path / f"{len(found)}").stage
        stage.module.train()
        with pinned("fp32"):
            losses = stage.losses(0, stage.read(0))
            losses.total.backward()
        assert losses.total.device.type == device.type
        found.append((losses, {name: parameter.grad for name, parameter in stage.module.named_parameters()}))
    (cpu_losses, cpu_gradients), (losses, gradients) = found
    for part, value in losses.parts.items():
        assert value.item() == pytest.approx(cpu_losses.parts[part].item(), rel=1e-4), part
    for parameter, gradient in gradients.items():
        if cpu_gradients[parameter] is not None and cpu_gradients[parameter].norm() > 1e-6:
            assert relative(gradient, cpu_gradients[parameter]) < 5e-3, parameter


@pytest.mark.parametrize("name", ["dmf", "proto_net"])
def test_whole_steps_are_those_of_a_cpu(gpu: torch.device, data: DataSet, tmp_path: Path, name: str) -> None:
    config = PLAIN.with_paths(METHODS[name])
    cpu, other = (run_on(device, config, data, tmp_path / device.type) for device in (torch.device("cpu"), gpu))
    theirs, ours = (run.train_steps(range(3)) for run in (cpu, other))
    assert ours == pytest.approx(theirs, rel=1e-3)
    for one, exact in zip(other.stage.module.parameters(), cpu.stage.module.parameters(), strict=True):
        assert relative(one.detach(), exact.detach()) < 1e-2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stopped_training_resumes(gpu: torch.device, data: DataSet, tmp_path: Path, precision: str) -> None:
    if precision == "bf16" and gpu.type == "cuda" and not has_bf16(gpu):
        pytest.skip("no bf16 here")
    config = TINY.replace(training__device=gpu.type, training__precision=precision)

    def stop(epoch: object) -> None:
        raise KeyboardInterrupt

    whole = train(config, data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, data, tmp_path / "stopped", stop)
    resumed = train(config, data, tmp_path / "stopped")
    close(tmp_path / "stopped", resumed)
    assert [epoch.epoch for epoch in resumed.history] == [epoch.epoch for epoch in whole.history]
    losses = [[epoch.loss for epoch in record.history] for record in (resumed, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # on a GPU, sums run in any order
    test = evaluate_folder(tmp_path / "stopped", config, EvaluationConfig(episodes=10), data)
    assert 0.2 < test.accuracy <= 1


@pytest.mark.parametrize("name", ["dmf", "without dynamic sampling", "dopri5", "proto_net"])
@pytest.mark.parametrize("shot", [1, 2])
@pytest.mark.parametrize("room", ["on the device", "in the CPU's memory"])
def test_evaluation_gives_the_answers_of_a_cpu(
    gpu: torch.device, data: DataSet, monkeypatch: pytest.MonkeyPatch, name: str, shot: int, room: str
) -> None:
    if room != "on the device" and gpu.type == "cuda":
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1))
    config = PLAIN.with_paths(METHODS[name])
    torch.manual_seed(0)
    method = build_method(config.model, config.data, len(data.train.classes))
    bank = episode_bank(data.test, EvaluationConfig(episodes=300, shot=shot))
    answers = []
    for device in (torch.device("cpu"), gpu):
        augment = Augmentation(config.augmentation, config.data, device)
        answers.append(correct_answers(method.to(device), data.test, bank, augment))
    assert (answers[0] - answers[1]).abs().sum() <= 0.002 * bank.query.numel()
    assert tables.device_of_method(method).type == gpu.type


def test_bf16_scores_are_near_those_of_fp32(gpu: torch.device, data: DataSet) -> None:
    torch.manual_seed(0)
    method = build_method(PLAIN.model, PLAIN.data, len(data.train.classes)).to(gpu)
    bank = episode_bank(data.test, EvaluationConfig(episodes=100, shot=1))
    augment = Augmentation(PLAIN.augmentation, PLAIN.data, gpu)
    exact, low = (correct_answers(method, data.test, bank, augment, name) for name in ("fp32", "bf16"))
    assert (exact - low).abs().sum() <= 0.02 * bank.query.numel()


def test_too_little_memory_is_told_as_such(gpu: torch.device, data: DataSet, tmp_path: Path) -> None:
    if gpu.type != "cuda":
        pytest.skip("a CPU's memory has no limit that a test can set")
    from orchestrator.running.faults import kind_of

    run = run_on(gpu, PLAIN.replace(training__episodes_per_step=8), data, tmp_path)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved(gpu) / torch.cuda.get_device_properties(gpu).total_memory
    torch.cuda.set_per_process_memory_fraction(held)
    try:
        with pytest.raises(torch.OutOfMemoryError) as told:
            run.train_steps(range(1))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert kind_of(told.value) == "memory"
