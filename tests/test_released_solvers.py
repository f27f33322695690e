"""Methods that solve or adapt in every episode, and backbones, compared with the numbers of their released codes.

In float64, to a relative 1e-9 (MetaOptNet's SVM: 1e-7, RFS: 1e-6, because of the released solvers).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones.resnet12_can import ResNet12CAN
from dmf.backbones.wrn28 import WRN28
from dmf.episodes import Episode
from dmf.methods.anil.model import ANIL
from dmf.methods.baseline.model import Baseline
from dmf.methods.baseline_pp.model import BaselinePP
from dmf.methods.dual import DualMethod
from dmf.methods.fitted_head import FittedHead
from dmf.methods.maml.model import MAML
from dmf.methods.metaoptnet_ridge.model import MetaOptNetRidge
from dmf.methods.metaoptnet_svm.model import MetaOptNetSVM
from dmf.methods.negative_margin.model import NegativeMargin
from dmf.methods.r2d2.model import R2D2
from dmf.methods.rfs.model import RFS
from dmf.training.classifier import BaseHead
from tests.conftest import SHARED
from tests.released_numbers.inputs import normal

COPIES = Path(__file__).parent / "released_numbers/methods"
"""Smaller than the shared ones: integers have eight bits, and files that add no case are left out."""


class Numbers:
    """The numbers of a case, by name, and the constants in its metadata. Skips the test if there is no such file."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            pytest.skip(f"{path.stem} is not at {path.parent}")
        with safe_open(path, "pt") as file:
            self.constants = file.metadata()
            self.tensors = {name: _wide(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with `prefix`, which is removed."""
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    def support(self) -> tuple[Tensor, Tensor]:
        """The support, a leaf, and the same sorted by class: [B, N, K, ...]."""
        leaf = self["support"].clone().requires_grad_()
        order = self["support_labels"].argsort(dim=1, stable=True)
        ways = int(self["support_labels"].max()) + 1
        return leaf, leaf[torch.arange(len(leaf))[:, None], order].unflatten(1, (ways, -1))

    def episode(self, images: bool = False) -> tuple[Tensor, Tensor, Episode]:
        """Support and query as leaves, and the episode of them, as maps of one position unless they are images."""
        leaf, support = self.support()
        query = self["query"].clone().requires_grad_()
        maps = (support, query) if images else (support[..., None, None], query[..., None, None])
        return leaf, query, Episode(*maps, self["query_labels"], self["query_labels"])


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.long()


@pytest.fixture(params=["whole", "copied"])
def numbers(request: pytest.FixtureRequest) -> Callable[[str], Numbers]:
    """Cases of the released codes by name: the full ones if they are here, and the copies in this repository."""
    folder = SHARED / "fixtures/methods" if request.param == "whole" else COPIES
    return lambda name: Numbers(folder / f"{name}.safetensors")


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    """Assert closeness relative to the largest number in `theirs`."""
    assert ours.numel() == theirs.numel()
    scale = theirs.abs().max().item()
    assert (ours.detach().reshape(theirs.shape) - theirs).abs().max().item() <= tolerance * scale


def set_to(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value.reshape(parameter.shape))


@pytest.mark.parametrize(
    ("name", "build", "tolerance"),
    [
        ("metaoptnet_svm_1shot", MetaOptNetSVM, 1e-7),
        ("metaoptnet_svm_5shot", MetaOptNetSVM, 1e-7),
        ("metaoptnet_ridge_5shot", MetaOptNetRidge, 1e-9),
        ("r2d2_1shot", lambda backbone: R2D2(backbone, learn_ridge=False, smoothing=0.1), 1e-9),
        ("r2d2_5shot", lambda backbone: R2D2(backbone, learn_ridge=False, smoothing=0.1), 1e-9),
        ("r2d2_libfewshot_5shot", R2D2, 1e-9),
    ],
)
def test_duals_equal_released(
    numbers: Callable[[str], Numbers], name: str, build: Callable[[nn.Module], DualMethod], tolerance: float
) -> None:
    case = numbers(name)
    model = build(nn.Identity()).double()
    set_to(model.scale, case["param.scale"])
    if isinstance(model, R2D2) and model.log_ridge is not None:
        set_to(model.log_ridge, case["param.ridge"].log())
    support, query, episode = case.episode()
    shift = case.tensors.get("param.shift", torch.zeros(1))  # no answer depends on it, and ours has none
    close(model.score(episode.support, episode.query) + shift, case["logits"], tolerance)
    loss = model.losses(episode).total
    close(loss, case["loss"], tolerance)
    loss.backward()
    exact = "exact.grad.support" if isinstance(model, MetaOptNetSVM) else "grad.support"
    close(support.grad, case[exact], tolerance)
    close(query.grad, case["grad.query"], tolerance)
    close(model.scale.grad, case["grad.scale"], tolerance)
    if "grad.ridge" in case.tensors:
        close(model.log_ridge.grad / case["param.ridge"], case["grad.ridge"], tolerance)
    if "loss_without_smoothing" in case.tensors:
        model.smoothing = 0.0
        close(model.losses(episode).total, case["loss_without_smoothing"], tolerance)


@pytest.mark.parametrize(
    ("name", "model", "parts"),
    [
        ("baseline_fit_1shot", Baseline(nn.Identity()), ("weight", "bias")),
        ("baseline_fit_5shot", Baseline(nn.Identity()), ("weight", "bias")),
        ("baseline_pp_fit_1shot", BaselinePP(nn.Identity(), scale=2.0), ("direction", "norm")),
        ("baseline_pp_fit_5shot", BaselinePP(nn.Identity(), scale=2.0), ("direction", "norm")),
        ("negative_margin_fit_5shot", NegativeMargin(nn.Identity(), scale=5.0), ("weight",)),
    ],
)
def test_fitted_heads_equal_released(
    numbers: Callable[[str], Numbers], name: str, model: FittedHead, parts: tuple[str, ...]
) -> None:
    case = numbers(name)

    def packed(when: str) -> Tensor:
        weight, *row = (case[f"{when}.{part}"] for part in parts)
        return torch.cat([weight.mT, *(each.reshape(len(each), 1, -1) for each in row)], 1)

    _, support = case.support()
    for passes, when in ((1, "after_1_pass"), (100, "after_100_passes")):
        fitted = model.fit(packed("initial"), support, case["order"][:, :passes])
        close(fitted, packed(when))
    close(model.inputs(case["query"]) @ model.weights(fitted), case["logits"])


@pytest.mark.parametrize(
    ("name", "kind"), [("negative_margin_training", "cosine"), ("negative_margin_softmax_training", "shifted")]
)
def test_heads_with_a_margin_equal_released(numbers: Callable[[str], Numbers], name: str, kind: str) -> None:
    case = numbers(name)
    classes, channels = case["param.weight"].shape
    margin, scale = (float(case.constants[constant]) for constant in ("margin", "scale"))
    head = BaseHead(channels, classes, kind, scale, margin).double()
    set_to(head.weight, case["param.weight"])
    features = case["features"].clone().requires_grad_()
    logits = head(features, case["labels"])
    close(logits, case["logits_with_margin"])
    close(head(features), case["logits_without_label"])
    loss = F.cross_entropy(logits, case["labels"])
    loss.backward()
    close(loss, case["loss"])
    close(features.grad, case["grad.features"])
    close(head.weight.grad, case["grad.weight"])


@pytest.mark.parametrize("name", ["rfs_1shot", "rfs_5shot"])
def test_rfs_reaches_the_minimum(numbers: Callable[[str], Numbers], name: str) -> None:
    case = numbers(name)
    _, _, episode = case.episode()
    logits = RFS(nn.Identity(), float(case.constants["C"])).score(episode.support, episode.query)
    close(logits, case["optimum.decision"], 1e-6)
    close(logits, case["released.decision"], 2e-3)
    assert torch.equal(logits.argmax(-1), case["released.prediction"])


@pytest.mark.parametrize("name", ["anil_1shot", "anil_5shot"])
def test_anil_equals_released(numbers: Callable[[str], Numbers], name: str) -> None:
    case = numbers(name)
    way, steps, rate = (float(case.constants[constant]) for constant in ("way", "inner_steps", "inner_lr"))
    features = case["query"].shape[-1]
    model = ANIL(nn.Identity(), features, int(way), int(steps), 2 * int(steps), rate).double()
    set_to(model.classifier.weight, case["param.classifier.weight"])
    set_to(model.classifier.bias, case["param.classifier.bias"])
    support, query, episode = case.episode()
    close(model.score(episode.support, episode.query), case["logits"])
    loss = model.losses(episode).total
    loss.backward()
    close(loss, case["loss"])
    close(support.grad, case["grad.support"])
    close(query.grad, case["grad.query"])
    close(model.classifier.weight.grad, case["grad.classifier.weight"])
    close(model.classifier.bias.grad, case["grad.classifier.bias"])
    close(model.eval().score(episode.support, episode.query), case["logits_after_twice_the_steps"])


@pytest.mark.parametrize("order", ["first_order", "second_order"])
@pytest.mark.parametrize("name", ["maml_1shot", "maml_5shot"])
def test_maml_equals_released(numbers: Callable[[str], Numbers], name: str, order: str) -> None:
    case = numbers(name)
    way, steps, rate = (float(case.constants[constant]) for constant in ("way", "inner_steps", "inner_lr"))
    convolutions = [nn.Conv2d(inputs, 4, 3, padding=1) for inputs in (3, 4)]
    norms = [nn.BatchNorm2d(4) for _ in range(2)]
    blocks = (
        (convolution, norm, nn.ReLU(), nn.MaxPool2d(2)) for convolution, norm in zip(convolutions, norms, strict=True)
    )
    backbone = nn.Sequential(*(layer for block in blocks for layer in block))
    second_order = order == "second_order"
    model = MAML(backbone, 16, way=int(way), steps=int(steps), learning_rate=rate, second_order=second_order).double()
    named = {"conv1": convolutions[0], "conv2": convolutions[1], "norm1": norms[0], "norm2": norms[1]}
    parts: dict[str, nn.Module] = {**named, "classifier": model.classifier}
    for path, value in case.below("param.").items():
        part, _, parameter = path.partition(".")
        set_to(getattr(parts[part], parameter), value)
    _, _, episode = case.episode(images=True)
    close(model.score(episode.support, episode.query), case["logits"])
    loss = model.losses(episode).total
    close(len(episode.query) * loss, case["loss_sum"])
    (len(episode.query) * loss).backward()
    gradients = case.below(f"{order}.grad.")
    assert len(gradients) == 8
    for path, value in gradients.items():
        part, _, parameter = path.partition(".")
        close(getattr(parts[part], parameter).grad, value)


def filled(module: nn.Module, seed: int, gain: float) -> nn.Module:
    """`module` in float64 with the weights behind the numbers; its tensors are in the released code's order."""
    state: dict[str, Any] = {}
    for index, (key, value) in enumerate(module.state_dict().items()):
        if not value.is_floating_point():
            state[key] = value
            continue
        drawn = normal(seed + 1000 + index, *value.shape)
        if "running_mean" in key or key.endswith(".bias"):
            drawn = 0.1 * drawn
        elif "running_var" in key:
            drawn = 1 + 0.5 * np.tanh(drawn)
        elif value.dim() == 4:
            drawn = drawn * np.float32(math.sqrt(2 / math.prod(value.shape[1:]))) * np.float32(gain)
        else:
            drawn = 0.6 + 0.2 * np.tanh(drawn)
        state[key] = torch.from_numpy(np.asarray(drawn, np.float32))
    module.load_state_dict(state)
    return module.double()


def sketch(maps: Tensor) -> Tensor:
    """Shape, norm, sum, product with random signs, and up to 64 of the numbers, of which the files have 71 a map."""
    flat = maps.detach().flatten()
    signs = torch.from_numpy(np.random.RandomState(7).choice([-1.0, 1.0], flat.numel()))
    whole = torch.stack([flat.norm(), flat.sum(), (flat * signs).sum()])
    return torch.cat([torch.tensor(maps.shape).double(), whole, flat[:: max(1, flat.numel() // 64)][:64]])


def test_the_backbone_of_can_equals_released(numbers: Callable[[str], Numbers]) -> None:
    case = numbers("can_whole_model")
    seed = int(case.constants["seed"])
    backbone = filled(ResNet12CAN(), seed, gain=1.0).eval()
    prototypes = normal(seed, 5, 3, 84, 84)
    share = np.float32(0.7)
    images = [share * prototypes + share * normal(seed + offset, 5, 3, 84, 84) for offset in (1, 2)]
    with torch.no_grad():
        maps = backbone.stem(torch.from_numpy(np.concatenate(images)).double())
        close(sketch(maps), case["eval.stem"])
        for number, block in enumerate(backbone.blocks, 1):
            maps = block(maps)
            close(sketch(maps), case[f"eval.stage{number}"])
        assert torch.equal(backbone(torch.from_numpy(np.concatenate(images)).double()), maps)


@pytest.mark.parametrize("name", ["wrn28_10_no_bias", "wrn28_10_bias"])
def test_wrn28_equals_released(numbers: Callable[[str], Numbers], name: str) -> None:
    case = numbers(name)
    seed, images, size = (int(case.constants[constant]) for constant in ("seed", "images", "size"))
    backbone = filled(WRN28(feat=name == "wrn28_10_bias"), seed, gain=0.5)
    pixels = torch.from_numpy(normal(seed, images, 3, size, size)).double()
    modes = [mode for mode in ("eval", "train") if f"{mode}.features" in case.tensors]
    for mode in modes:
        backbone.train(mode == "train")
        with torch.no_grad():
            maps = backbone.stem(pixels)
            close(sketch(maps), case[f"{mode}.stem"])
            for number, stage in enumerate(backbone.stages, 1):
                maps = stage(maps)
                close(sketch(maps), case[f"{mode}.stage{number}"])
            close(backbone(pixels).mean((2, 3)), case[f"{mode}.features"])
