"""Precision: what "fp32", "tf32" and "bf16" mean, on every thread, and what stays in float32."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, backends, nn

from dmf.config import EvaluationConfig, ExperimentConfig
from dmf.data.sets import DataSet, open_data
from dmf.evaluation.evaluate import evaluate
from dmf.machine.precision import autocast, full_precision, pinned, wide
from dmf.methods import build_method
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.model import DMF
from dmf.training.run import Run
from tests.test_training import TINY

PLACES = {
    "products on a GPU": backends.cuda.matmul,
    "convolutions on a GPU": backends.cudnn.conv,
    "recurrent layers on a GPU": backends.cudnn.rnn,
    "products on a CPU": backends.mkldnn.matmul,
    "convolutions on a CPU": backends.mkldnn.conv,
}
IEEE = dict.fromkeys(PLACES, "ieee")
IN_TF32 = IEEE | {"convolutions on a GPU": "tf32", "recurrent layers on a GPU": "tf32"}


def settings() -> dict[str, str]:
    return {name: place.fp32_precision for name, place in PLACES.items()}


def reduces() -> bool:
    return backends.cuda.matmul.allow_bf16_reduced_precision_reduction


@pytest.fixture(params=["PyTorch's defaults", "high"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """PyTorch's settings, as a process may have them when it asks for a model."""
    if request.param == "high":
        torch.set_float32_matmul_precision("high")
    yield settings()
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(("precision", "expected"), [("fp32", IEEE), ("tf32", IN_TF32), ("bf16", IN_TF32)])
def test_a_precision_sets_all_of_pytorchs_settings_and_puts_them_back(
    before: dict[str, str], precision: str, expected: dict[str, str]
) -> None:
    assert reduces()
    with autocast(torch.device("cpu"), precision):
        assert settings() == expected and not reduces()
        # Where PyTorch's older settings contradict these, reading them is an error, and its profiler reads them.
        assert backends.cudnn.allow_tf32 == (precision != "fp32") and not backends.cuda.matmul.allow_tf32
    assert settings() == before and reduces()


def test_the_last_of_several_threads_puts_settings_back(before: dict[str, str]) -> None:
    both, one_left = threading.Barrier(2), threading.Event()
    seen: list[dict[str, str]] = []

    def stay() -> None:
        with pinned("fp32"):
            both.wait()
            one_left.wait()
            seen.append(settings())

    other = threading.Thread(target=stay)
    other.start()
    with pinned("fp32"):
        both.wait()
    one_left.set()
    other.join()
    assert seen == [IEEE]
    assert settings() == before


def test_another_precision_waits_for_those_that_compute() -> None:
    seen: list[dict[str, str]] = []

    def need_tf32() -> None:
        with pinned("tf32"):
            seen.append(settings())

    with pinned("fp32"):
        other = threading.Thread(target=need_tf32)
        other.start()
        other.join(0.2)
        assert not seen and settings() == IEEE
    other.join()
    assert seen == [IN_TF32]


def test_a_training_pins_its_precision_forward_and_backward(tmp_path: Path, data: DataSet) -> None:
    run = Run(TINY, data, tmp_path)
    seen = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            seen.append(settings())
            return x.clone()

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            seen.append(settings())
            return grad

    run.stage.method.backbone.register_forward_hook(lambda module, inputs, maps: Watched.apply(maps))
    run.train_steps(range(1))
    assert len(seen) > 1 and all(each == IEEE for each in seen)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return open_data(TINY.data, cache_dir=tmp_path_factory.mktemp("cache"))


def test_tf32_is_refused_where_nothing_has_it(tmp_path: Path, data: DataSet) -> None:
    config = TINY.replace(training__precision="tf32")
    with pytest.raises(ValueError, match="training.precision='tf32' needs an NVIDIA GPU .* use fp32, bf16 or auto"):
        Run(config, data, tmp_path)
    method = build_method(config.model, config.data, len(data.train.classes))
    with pytest.raises(ValueError, match="training.precision='tf32' needs an NVIDIA GPU"):
        evaluate(method, config, EvaluationConfig(episodes=2), data, epoch=0)


def test_tf32_is_another_training() -> None:
    keys = {ExperimentConfig().replace(training__precision=name).key for name in ("fp32", "tf32", "bf16")}
    assert len(keys) == 3 and ExperimentConfig().key in keys


@pytest.mark.parametrize("alignment", [Alignment(), Alignment(solver="dopri5"), Alignment(kernel_size=3)])
def test_large_offsets_keep_their_places_in_bf16(alignment: Alignment) -> None:
    """Rounded to eight bits, offsets of 30 positions are off by a tenth of one, and logits by a tenth of their spread.

    What is left is the rounding of taps: offsets, their sums and those of the samples are float32.
    """
    generator = torch.Generator().manual_seed(0)
    maps = torch.relu(torch.randn(1, 20, 32, 7, 7, generator=generator)).bfloat16()
    torch.manual_seed(1)
    model = DMF(nn.Identity(), 32, 10, groups=8, alignment=alignment)
    with torch.no_grad():
        offset_conv, filter_conv = model.meta_filter.offset_conv, model.meta_filter.filter_conv
        offset_conv.weight *= 30 / model.meta_filter.query_offsets(maps[0].float()).std()
        with autocast(maps.device, "bf16"):
            taps = wide(filter_conv.tap_maps(maps[0, :5]))
            low = model.score(maps[:, :5, None], maps)
            assert model.meta_filter.query_offsets(maps[0]).dtype == torch.float32
        filter_conv.tap_maps = lambda classes: taps  # type: ignore[method-assign]
        with full_precision(maps.device):
            exact = model.score(wide(maps[:, :5, None]), wide(maps))
    assert low.dtype == torch.float32
    assert (low - exact).abs().max() < 1e-4 * exact.std()
