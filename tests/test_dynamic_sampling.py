"""The dynamic-sampling operator and its PyTorch definition, compared with loops and with torchvision."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import deform_conv2d

from dmf.ops import library as operators
from dmf.ops.dynamic_sampling import DynamicConv2d, sample_taps, sample_taps_definition
from dmf.ops.library import COMPILED
from tests import oracles

ROOT = Path(__file__).resolve().parents[1]
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
KERNELS = [(3, 3), (3, 2), (5, 5)]
Sampler = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]


def compiled_on(device: str) -> Sampler:
    if device not in COMPILED:
        pytest.skip(f"no compiled operator for {device}; python setup.py build_ext --inplace makes it")
    return torch.ops.dmf.sample_taps


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["compiled", "definition"])
def sampler(request: pytest.FixtureRequest, device: str) -> Sampler:
    return compiled_on(device) if request.param == "compiled" else sample_taps_definition


def random_inputs(
    kernel_size: tuple[int, int], groups: int, device: str, maps: int = 2, queries: int = 3, reach: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Taps and offsets in float64, with samples inside, on the border of and outside a 5x4 map, none on the grid."""
    generator = torch.Generator().manual_seed(groups)
    count = kernel_size[0] * kernel_size[1]
    taps = torch.randn(maps, count, 5, 4, groups, generator=generator, dtype=torch.float64)
    offsets = torch.randn(maps, queries, 2 * count, 5, 4, generator=generator, dtype=torch.float64) * reach
    whole = offsets.round()
    fraction = (offsets - whole).abs().clamp(min=0.02) * (offsets - whole).sign()
    return taps.to(device), (whole + fraction).to(device)


def gradients(
    sampler: Sampler, grad: Tensor, taps: Tensor, offsets: Tensor, kernel_size: tuple[int, int]
) -> tuple[Tensor, ...]:
    taps, offsets = taps.detach().requires_grad_(), offsets.detach().requires_grad_()
    return torch.autograd.grad(sampler(taps, offsets, kernel_size), (taps, offsets), grad)


@pytest.mark.parametrize("groups", [1, 4, 64])
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_values_and_gradients_are_the_loops(
    sampler: Sampler, device: str, kernel_size: tuple[int, int], groups: int
) -> None:
    taps, offsets = random_inputs(kernel_size, groups, device)
    out = sampler(taps, offsets, kernel_size)
    arrays = taps.cpu().numpy(), offsets.cpu().numpy()
    np.testing.assert_allclose(out.cpu(), oracles.sample_taps(*arrays, kernel_size), rtol=0, atol=1e-12)
    grad = torch.randn_like(out)
    expected = oracles.sample_taps_gradients(grad.cpu().numpy(), *arrays, kernel_size)
    for ours, loops in zip(gradients(sampler, grad, taps, offsets, kernel_size), expected, strict=True):
        np.testing.assert_allclose(ours.cpu(), loops, rtol=0, atol=1e-11)


def test_gradients_on_the_grid_are_those_from_the_right(sampler: Sampler, device: str) -> None:
    taps, offsets = random_inputs((3, 3), 4, device)
    whole = offsets.round()
    out = sampler(taps, whole, (3, 3))
    grad = torch.randn_like(out)
    expected = oracles.sample_taps_gradients(*(tensor.cpu().numpy() for tensor in (grad, taps, whole)), (3, 3))
    for ours, loops in zip(gradients(sampler, grad, taps, whole, (3, 3)), expected, strict=True):
        np.testing.assert_allclose(ours.cpu(), loops, rtol=0, atol=1e-11)


def test_gradcheck(sampler: Sampler, device: str) -> None:
    taps, offsets = random_inputs((3, 2), 3, device, maps=1, queries=2)
    inputs = taps.requires_grad_(), offsets.requires_grad_()
    assert torch.autograd.gradcheck(lambda t, o: sampler(t, o, (3, 2)), inputs, nondet_tol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(device: str, dtype: torch.dtype) -> None:
    operator = compiled_on(device)
    taps, offsets = (tensor.to(dtype) for tensor in random_inputs((3, 3), 4, device))
    grad = torch.randn_like(operator(taps, offsets, (3, 3)))
    inputs = taps.clone().requires_grad_(), offsets.clone().requires_grad_(), (3, 3)
    for results in (
        torch.library.opcheck(torch.ops.dmf.sample_taps.default, inputs),
        torch.library.opcheck(torch.ops.dmf.sample_taps_backward.default, (grad, taps, offsets, (3, 3))),
    ):
        assert set(results.values()) == {"SUCCESS"} and len(results) == 4


@pytest.mark.parametrize("groups", [1, 7, 64, 100, 640])
def test_compiled_equals_definition_in_float32(device: str, groups: int) -> None:
    operator = compiled_on(device)
    taps, offsets = (tensor.float() for tensor in random_inputs((3, 3), groups, device))
    grad = torch.randn_like(operator(taps, offsets, (3, 3)))
    torch.testing.assert_close(
        operator(taps, offsets, (3, 3)), sample_taps_definition(taps, offsets, (3, 3)), atol=1e-5, rtol=1e-5
    )
    for ours, definition in zip(
        gradients(operator, grad, taps, offsets, (3, 3)),
        gradients(sample_taps_definition, grad, taps, offsets, (3, 3)),
        strict=True,
    ):
        torch.testing.assert_close(ours, definition, atol=1e-4, rtol=1e-5)


def test_layout_in_memory_does_not_matter(sampler: Sampler, device: str) -> None:
    taps, offsets = random_inputs((3, 3), 4, device)
    shared = offsets[:, :1].expand(-1, 3, -1, -1, -1)
    strided = taps.permute(4, 3, 2, 1, 0).contiguous().permute(4, 3, 2, 1, 0)
    assert not strided.is_contiguous() and not shared.is_contiguous()
    out = sampler(strided, shared, (3, 3))
    assert out.is_contiguous()
    assert torch.equal(out, sampler(taps, shared.contiguous(), (3, 3)))
    grad = torch.randn(2, 3, 4, 5, 4, dtype=out.dtype, device=device).transpose(2, 3)
    assert not grad.is_contiguous()
    for one, other in zip(
        gradients(sampler, grad, strided, shared, (3, 3)),
        gradients(sampler, grad.contiguous(), taps, shared.contiguous(), (3, 3)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("maps", "queries", "groups"), [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0)])
def test_nothing_in_nothing_out(sampler: Sampler, device: str, maps: int, queries: int, groups: int) -> None:
    taps, offsets = random_inputs((3, 3), groups, device, maps=maps, queries=queries)
    out = sampler(taps, offsets, (3, 3))
    assert out.shape == (maps, queries, 5, 4, groups)
    for grad, tensor in zip(gradients(sampler, out.clone(), taps, offsets, (3, 3)), (taps, offsets), strict=True):
        assert grad.shape == tensor.shape and not grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1e3, 3e9, 1e30, float("inf"), -1e3, -3e9, -1e30, -float("inf")])
def test_far_samples_read_zero(sampler: Sampler, device: str, far: float, dtype: torch.dtype) -> None:
    taps, offsets = (tensor.to(dtype) for tensor in random_inputs((3, 3), 4, device))
    offsets[0, 1, 4] = far
    offsets[1, 2, 7] = far
    out = sampler(taps, offsets, (3, 3))
    without = taps.clone()
    without[0, 2] = 0
    torch.testing.assert_close(out[0, 1], sampler(without, offsets.clamp(-9, 9), (3, 3))[0, 1])
    grad_taps, grad_offsets = gradients(sampler, torch.ones_like(out), taps, offsets, (3, 3))
    assert grad_taps.isfinite().all() and grad_offsets.isfinite().all()
    assert not grad_offsets[0, 1, 4:6].any() and not grad_offsets[1, 2, 6:8].any()


def test_nan_offsets_spread_where_they_are_read_and_nowhere_else(sampler: Sampler, device: str) -> None:
    taps, offsets = random_inputs((3, 3), 4, device)
    offsets[0, 1, 5, 2, 3] = float("nan")
    out = sampler(taps, offsets, (3, 3))
    wrong = out.isnan()
    assert wrong[0, 1, 2, 3].all() and wrong.sum() == 4
    grad_taps, grad_offsets = gradients(sampler, torch.ones_like(out), taps, offsets, (3, 3))
    assert grad_taps.isfinite().all()
    assert grad_offsets[0, 1, 4:6, 2, 3].isnan().any()
    grad_offsets[0, 1, 4:6, 2, 3] = 0
    assert grad_offsets.isfinite().all()


def test_nan_in_a_map_stays_where_it_is_read(sampler: Sampler, device: str) -> None:
    taps, offsets = random_inputs((3, 3), 4, device)
    taps[0, 0, 0, 0] = float("nan")
    offsets[:, :, 0:2] = 100.0
    assert sampler(taps, offsets, (3, 3)).isfinite().all()


def test_results_do_not_depend_on_threads() -> None:
    operator = compiled_on("cpu")
    generator = torch.Generator().manual_seed(0)
    taps = torch.randn(5, 9, 11, 11, 64, generator=generator)
    offsets = torch.randn(5, 20, 18, 11, 11, generator=generator)
    results = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        out = operator(taps, offsets, (3, 3))
        results.append((out, *gradients(operator, out.cos(), taps, offsets, (3, 3))))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(device: str, dtype: torch.dtype) -> None:
    taps, offsets = (tensor.to(dtype) for tensor in random_inputs((3, 3), 4, device))
    out = sample_taps(taps, offsets, (3, 3))
    assert out.dtype == dtype
    assert torch.equal(out, sample_taps(taps.float(), offsets.float(), (3, 3)).to(dtype))


def test_says_once_which_implementation_runs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    taps, offsets = random_inputs((3, 3), 1, "cpu")
    for compiled in ({"cpu"} & COMPILED, set()):
        monkeypatch.setattr(operators, "COMPILED", compiled)
        operators.say_which.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.INFO, "dmf"):
            sample_taps(taps, offsets, (3, 3))
            sample_taps(taps, offsets, (3, 3))
        expected = "compiled operator" if compiled else "PyTorch definition"
        assert [expected in record.getMessage() for record in caplog.records] == [True]
    operators.say_which.cache_clear()


@pytest.mark.parametrize(
    ("taps", "offsets", "message"),
    [
        (torch.zeros(2, 9, 5, 4), torch.zeros(2, 3, 18, 5, 4), "expected taps"),
        (torch.zeros(2, 6, 5, 4, 1), torch.zeros(2, 3, 18, 5, 4), "expected taps"),
        (torch.zeros(2, 9, 5, 4, 1), torch.zeros(2, 3, 9, 5, 4), "expected offsets"),
        (torch.zeros(2, 9, 5, 4, 1), torch.zeros(3, 3, 18, 5, 4), "expected offsets"),
        (torch.zeros(2, 9, 5, 4, 1), torch.zeros(2, 3, 18, 4, 5), "expected offsets"),
        (torch.zeros(2, 9, 5, 4, 1), torch.zeros(2, 18, 5, 4), "expected offsets"),
        (torch.zeros(2, 9, 5, 4, 1, dtype=torch.int64), torch.zeros(2, 3, 18, 5, 4), "floating-point"),
        (torch.zeros(2, 9, 5, 4, 1), torch.zeros(2, 3, 18, 5, 4, device="meta"), "one device"),
    ],
)
def test_what_does_not_fit_is_refused(taps: Tensor, offsets: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_taps(taps, offsets, (3, 3))
    if message != "one device":
        with pytest.raises(RuntimeError, match="dmf::sample_taps"):
            compiled_on("cpu")(taps, offsets, (3, 3))


def test_second_derivatives_are_refused_not_wrong() -> None:
    operator = compiled_on("cpu")
    taps, offsets = random_inputs((3, 3), 2, "cpu")
    taps.requires_grad_()
    (grad,) = torch.autograd.grad(operator(taps, offsets, (3, 3)).square().sum(), taps, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivative"):
        grad.sum().backward()


def convolution(kernel_size: tuple[int, int], out_channels: int, device: str) -> tuple[DynamicConv2d, Tensor, Tensor]:
    torch.manual_seed(0)
    layer = DynamicConv2d(6, out_channels, kernel_size).to(device, torch.float64)
    _, offsets = random_inputs(kernel_size, out_channels, device)
    return layer, torch.randn(2, 6, 5, 4, dtype=torch.float64, device=device), offsets


def by_torchvision(layer: DynamicConv2d, maps: Tensor, offsets: Tensor) -> Tensor:
    """torchvision's operator, query by query. With an even kernel it gives an extra position, which is dropped."""
    kernel_height, kernel_width = layer.kernel_size
    height, width = maps.shape[2:]
    padded = F.pad(offsets, (0, 1 - kernel_width % 2, 0, 1 - kernel_height % 2))
    padding = (kernel_height // 2, kernel_width // 2)
    results = [deform_conv2d(maps, padded[:, q], layer.weight, padding=padding) for q in range(offsets.shape[1])]
    return torch.stack(results, dim=1)[..., :height, :width]


@pytest.mark.parametrize("groups", [1, 4, 64])
@pytest.mark.parametrize("kernel_size", KERNELS)
def test_layer_is_the_deformable_convolution(device: str, kernel_size: tuple[int, int], groups: int) -> None:
    layer, maps, offsets = convolution(kernel_size, groups, device)
    inputs = maps.requires_grad_(), offsets.requires_grad_(), layer.weight
    out = layer(maps, offsets)
    arrays = (tensor.detach().cpu().numpy() for tensor in (maps, layer.weight, offsets))
    np.testing.assert_allclose(out.detach().cpu(), oracles.deformable_convolution(*arrays), rtol=0, atol=1e-12)
    grad = torch.randn_like(out)
    expected = by_torchvision(layer, maps, offsets)
    torch.testing.assert_close(out, expected, atol=1e-12, rtol=0)
    ours, theirs = torch.autograd.grad(out, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("kernel_size", KERNELS)
def test_zero_offsets_are_an_ordinary_convolution(device: str, kernel_size: tuple[int, int]) -> None:
    layer, maps, offsets = convolution(kernel_size, 4, device)
    plain, dynamic = layer(maps), layer(maps, torch.zeros_like(offsets))
    assert plain.shape == (2, 1, 4, 5, 4) and dynamic.shape == (2, 3, 4, 5, 4)
    torch.testing.assert_close(dynamic, plain.expand_as(dynamic), atol=1e-12, rtol=0)


def test_whole_offsets_are_a_convolution_of_the_shifted_map(device: str) -> None:
    layer, maps, offsets = convolution((3, 3), 4, device)
    offsets[:, :, 0::2], offsets[:, :, 1::2] = 2.0, -1.0
    # out(y, x) of the shifted samples is the convolution at (y + 2, x - 1) of the map padded with zeros.
    wide = layer(F.pad(maps, (3, 3, 3, 3)))
    expected = wide[..., 3 + 2 : 3 + 2 + 5, 3 - 1 : 3 - 1 + 4]
    torch.testing.assert_close(layer(maps, offsets), expected.expand(-1, 3, -1, -1, -1), atol=1e-12, rtol=0)


def test_layer_of_no_maps(device: str) -> None:
    layer, maps, offsets = convolution((3, 3), 4, device)
    assert layer(maps[:0], offsets[:0]).shape == (0, 3, 4, 5, 4)
    assert layer(maps[:0]).shape == (0, 1, 4, 5, 4)


def test_layer_starts_uniform_within_its_bound() -> None:
    torch.manual_seed(0)
    weight = DynamicConv2d(64, 32, 3).weight.detach()
    bound = 1 / np.sqrt(9 * 64)
    assert weight.shape == (32, 64, 3, 3)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert abs(weight.var().item() - bound**2 / 3) < 0.02 * bound**2


@pytest.mark.parametrize("name", ["dynamic_sampling", "aligned_score"])
def test_cuda_source_compiles(tmp_path: Path, name: str) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on PATH")
    include = Path(torch.__file__).parent / "include"
    command = [nvcc, "-c", str(ROOT / f"csrc/{name}.cu"), "-o", str(tmp_path / f"{name}.o")]
    flags = ["-std=c++20", "-arch=sm_80", "-Xcompiler", "-fPIC", "-I", str(include)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr, done.stderr
