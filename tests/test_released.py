"""Our model compared with the released code's numbers (float64, relative 1e-9)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from dmf import released
from dmf.config import DataConfig, DMFConfig
from dmf.episodes import Episode
from dmf.methods import build_method
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.model import DMF
from tests.conftest import SHARED
from tests.released_numbers import inputs

SMALL = ["head_small_g1", "head_small_g4_5shot", "head_small_g32"]
COPIES = Path(inputs.__file__).parent


def copied(name: str) -> dict[str, Any]:
    """A fixture as stored in this repository, with gradients reduced to norm, sum and every stride-th value."""
    numbers: dict[str, Any] = {}
    for key, value in load_file(COPIES / f"{name}.safetensors").items():
        field, _, part = key.partition(":")
        if part:
            numbers.setdefault(field, {})[part] = value
        else:
            numbers[field] = value if value.dim() or value.is_floating_point() else int(value)
    return numbers


@pytest.fixture(scope="session", params=["whole", "copied"])
def numbers(request) -> Callable[[str], dict[str, Any]]:
    """Fixtures of the released code by name: the full ones if they are here, and the copies in this repository."""
    if request.param == "copied":
        return copied
    shared: Path = request.getfixturevalue("shared")
    return lambda name: torch.load(shared / "fixtures" / f"{name}.pt", weights_only=True)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-9) -> None:
    """Assert closeness relative to the largest number in `theirs`."""
    assert ours.shape == theirs.shape
    scale = max(theirs.double().abs().max().item(), 1e-300)
    assert (ours.double() - theirs.double()).abs().max().item() <= tolerance * scale


def head(channels: int, groups: int, off_conv: Tensor, kernel_conv: Tensor, dtype: torch.dtype) -> DMF:
    """Our head with the released weights; its global classifier is not used."""
    model = DMF(torch.nn.Identity(), channels, base_classes=2, groups=groups, alignment=Alignment()).to(dtype)
    with torch.no_grad():
        model.meta_filter.offset_conv.weight.copy_(off_conv)
        model.meta_filter.filter_conv.weight.copy_(kernel_conv)
    return model


def bordered(scores: Tensor) -> Tensor:
    """Our score map [B, Q, N, H, W] in the released code's form, [B*Q, N, H+2, W+2]."""
    return torch.nn.functional.pad(scores.flatten(0, 1), [1] * 4)


def released_loss(scores: Tensor, seed: int) -> Tensor:
    """The scalar whose gradients the fixtures hold."""
    weights = np.random.RandomState(seed + 5).standard_normal(tuple(scores.shape)).astype(np.float32)
    return (scores * torch.from_numpy(weights).to(scores.dtype)).mean()


def sketched(ours: Tensor, sketch: dict[str, Tensor], tolerance: float) -> None:
    """Compare `ours` with the norm, the sum and every `stride`-th number of theirs."""
    flat = ours.detach().double().flatten()
    close(flat.norm(), sketch["norm"], tolerance)
    close(flat[:: int(sketch["stride"])], sketch["sample"], tolerance)
    assert abs(flat.sum().item() - float(sketch["sum"])) <= tolerance * flat.abs().sum().item()


def gradient_equals(ours: Tensor, fixture: dict[str, Any], name: str, tolerance: float) -> None:
    if f"grad_{name}" in fixture:
        close(ours, fixture[f"grad_{name}"], tolerance)
    else:
        sketched(ours, fixture[f"gradsk_{name}"], tolerance)


@pytest.mark.parametrize("name", [*SMALL, "head_full_g64"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_head_equals_released(numbers, name: str, dtype: torch.dtype, tolerance: float) -> None:
    fixture = numbers(name)
    seed, way, shots, groups = fixture["seed"], fixture["way"], fixture["shots"], fixture["groups"]
    episodes, queries, channels, side = (1, 15, 640, 11) if name == "head_full_g64" else (2, 6, 32, 5)
    maps = inputs.feature_maps(seed, episodes, way, queries, channels, side, shots)
    weights = inputs.head_weights(seed, channels, groups)
    for ours, key in zip((*maps, *weights), ("support", "query", "off_conv", "kernel_conv"), strict=True):
        assert key not in fixture or torch.equal(ours, fixture[key]), f"the {key} of the numbers is another"

    support, query = (x.to(dtype).requires_grad_() for x in maps)
    model = head(channels, groups, *weights, dtype)
    grouped = support.unflatten(1, (way, shots))
    classes = grouped.mean(2)
    scores = model.score_map(classes, query)
    close(bordered(scores), fixture["scores"], tolerance)
    close(model.score(grouped, query).flatten(0, 1), fixture["test_scores"], tolerance)
    targets = (torch.arange(queries) % way).expand(episodes, -1)
    close(model.few_shot_loss(scores, targets), fixture["ce_few_shot"], max(tolerance, 1e-7))  # stored as float32

    loss = released_loss(bordered(scores), seed)
    close(loss, fixture["loss"], tolerance)
    loss.backward()
    gradient_equals(model.meta_filter.offset_conv.weight.grad, fixture, "off_conv", tolerance)
    gradient_equals(model.meta_filter.filter_conv.weight.grad, fixture, "kernel_conv", tolerance)
    gradient_equals(support.grad, fixture, "support", tolerance)
    gradient_equals(query.grad, fixture, "query", tolerance)


@pytest.fixture(scope="session")
def official_state() -> dict[str, Tensor]:
    return inputs.official_state_dict(copied("image_g64")["seed"])


def without_dropout(model: DMF) -> DMF:
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if hasattr(module, "rate"):
            module.rate = 0.0
    return model


@pytest.mark.parametrize("numbers", ["whole" if SHARED.is_dir() else "copied"], indirect=True)  # 20 s each
def test_whole_model_equals_released(numbers, official_state: dict[str, Tensor]) -> None:
    fixture = numbers("image_g64")
    way, shots, per_class = fixture["way"], fixture["shots"], fixture["queries_per_class"]
    support, query, labels = inputs.images(fixture["seed"], way, shots, per_class)
    targets = torch.arange(way * per_class)[None] % way
    episode = Episode(support.double().unflatten(1, (way, shots)), query.double(), targets, labels[None])
    assert torch.equal(episode.labels[0], fixture["pids"])
    model = without_dropout(released.load(official_state).double())

    model.eval()
    with torch.inference_mode():
        close(model(episode)[0], fixture["eval_scores"])

    model.train()
    losses = model.losses(episode).parts
    close(losses["global"], fixture["loss_global"])
    close(losses["few_shot"], fixture["loss_few"])
    loss = losses["global"] + 0.5 * losses["few_shot"]
    close(loss, fixture["loss_official"])
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = {theirs: ours for ours, theirs in released._names(model).items()}
    compared = 0
    for key, sketch in fixture.items():
        if key.startswith("gradsk/"):
            sketched(gradients[names[key.removeprefix("gradsk/")]], sketch, 1e-9)
            compared += 1
    assert compared == len(gradients)


@pytest.mark.parametrize(
    ("prefix", "inside"), [("", "state_dict"), ("module.", "state_dict"), ("net.module.", "state_dict"), ("", "model")]
)
def test_checkpoint_round_trip(tmp_path: Path, prefix: str, inside: str, official_state: dict[str, Tensor]) -> None:
    path = tmp_path / "theirs.pth.tar"
    theirs = {prefix + key: value for key, value in official_state.items()}
    torch.save({"args": {"lr": 0.1}, inside: theirs, "acc": np.float64(0.5), "epoch": 3}, path)
    model = released.load(path)
    released.save(model, tmp_path / "ours.pth.tar")
    written = torch.load(tmp_path / "ours.pth.tar", weights_only=True)["state_dict"]
    assert set(written) == set(official_state)
    for key, value in official_state.items():
        assert torch.equal(written[key], value), key


def test_a_checkpoint_of_numpy_1_is_read(tmp_path: Path, official_state: dict[str, Tensor]) -> None:
    """The released code dates from 2021, when NumPy's scalars were in numpy.core."""
    torch.save({"state_dict": official_state, "acc": np.float64(0.5)}, tmp_path / "new.pth.tar")
    with zipfile.ZipFile(tmp_path / "new.pth.tar") as new, zipfile.ZipFile(tmp_path / "old.pth.tar", "w") as old:
        for entry in new.infolist():
            content = new.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"numpy._core.multiarray" in content
                content = content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            old.writestr(entry.filename.replace("new", "old"), content)
    assert released.load(tmp_path / "old.pth.tar").groups == 64


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"alignment": 1}, "alignment"),
        ({"rectified": False}, "alignment"),
        ({"solver": "dopri5"}, "alignment"),
        ({"kernel_size": 3}, "alignment"),
        ({"class_weight": "pooled"}, "class_weight"),
        ({"last_pooling": True}, "last_pooling"),
        ({"dynamic_sampling": False}, "meta_filter.offset_conv"),
        ({"alignment": 0}, "meta_filter"),
        ({"backbone": "conv64f"}, "backbone"),
    ],
)
def test_what_the_released_code_cannot_express_is_not_saved(options: dict, named: str) -> None:
    model = build_method(DMFConfig(**options), DataConfig(), base_classes=3)
    with pytest.raises(ValueError, match=named):
        released.to_state_dict(model)


def test_checkpoint_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"state_dict": Malicious()}, tmp_path / "bad.pth.tar")
    with pytest.raises(ValueError, match="tensors and numbers only"):
        released.load(tmp_path / "bad.pth.tar")
    assert not (tmp_path / "executed").exists()


def test_what_is_no_released_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lacks global_clasifier.weight"):
        released.load({"conv1.weight": torch.zeros(1)})
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(ValueError, match=r"best\.safetensors is a checkpoint of this program.*; name its folder"):
        released.load(tmp_path / "best.safetensors")
    with pytest.raises(ValueError, match="no checkpoint at"):
        released.load(tmp_path / "absent.pth.tar")
