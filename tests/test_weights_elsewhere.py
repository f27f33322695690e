"""Backbones start from checkpoints of LibFewShot, CAN, S2M2 and FEAT: every key is known, and the maps are theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.backbones import build_backbone
from dmf.backbones.config import BackboneConfig
from dmf.backbones.elsewhere import namings
from dmf.weights import backbone_weights

TABLES: dict[str, dict[str, list[int]]] = json.loads(
    (Path(__file__).parent / "released_numbers/keys_of_backbones.json").read_text(encoding="utf-8")
)
"""Code and backbone -> name -> shape, of its checkpoints; CAN's is a whole model."""
HEADS = ("cam.", "clasifier.")
"""What CAN's names begin with, beside those of its backbone."""
GENERATOR = torch.Generator().manual_seed(5)


def config_of(table: str, **settings: object) -> BackboneConfig:
    variant = {"wrn_variant": "feat"} if table == "feat wrn28" else {}
    return BackboneConfig().with_paths({"backbone": table.split()[1]} | variant | settings)


def state_of(table: str) -> dict[str, Tensor]:
    """A state dict with a table's names and shapes; no two tensors are equal."""
    found = {}
    for number, (name, shape) in enumerate(TABLES[table].items()):
        if name.endswith("num_batches_tracked"):
            found[name] = torch.tensor(number)
        elif name.endswith("running_var"):
            found[name] = 0.5 + torch.rand(shape, generator=GENERATOR)
        else:
            scale = max(1, torch.Size(shape[1:]).numel()) ** -0.5
            found[name] = torch.randn(shape, generator=GENERATOR) * scale
    return found


def loaded(table: str, path: Path, **settings: object) -> nn.Module:
    backbone = build_backbone(config_of(table, **settings), in_channels=3)
    backbone.load_state_dict({**backbone.state_dict(), **backbone_weights(str(path), backbone.state_dict())})
    return backbone


SAVED: dict[str, Callable[[dict[str, Tensor]], dict[str, object]]] = {
    "alone": lambda state: dict(state),
    "a last state": lambda state: {
        "epoch": 3,
        "model": {f"emb_func.{name}": value for name, value in state.items()} | {"classifier.weight": torch.ones(2)},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]},
        "lr_scheduler": {"T_max": 100, "last_epoch": 3},
    },
    "several GPUs": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
}
"""How codes save a state dict."""


@pytest.mark.parametrize(
    ("table", "how"), [*((table, "alone") for table in TABLES), *(("can resnet12_can", how) for how in list(SAVED)[1:])]
)
def test_every_key_of_a_checkpoint_is_known(table: str, how: str, tmp_path: Path) -> None:
    state = state_of(table)
    torch.save(SAVED[how](state), tmp_path / "theirs.pth")
    wanted = build_backbone(config_of(table), in_channels=3).state_dict()
    found = backbone_weights(str(tmp_path / "theirs.pth"), wanted)
    own = {name.removeprefix("base.") for name in state if not name.startswith(HEADS)}
    (naming,) = (each for each in namings(tuple(wanted)) if own <= {*each.names.values(), *each.biases.values()})
    begin = "base." if table.startswith("can") else ""
    for ours, value in found.items():
        theirs = state[begin + naming.names[ours]]
        assert torch.equal(value, theirs - state[naming.biases[ours]] if ours in naming.biases else theirs), ours
    missing = wanted.keys() - found.keys()
    assert all(name.endswith("drop.forwards") for name in missing)


class Theirs:
    """Networks of other codes, computed from their state dicts."""

    def __init__(self, state: dict[str, Tensor], begin: str = "", training: bool = False) -> None:
        self.state, self.begin, self.training = state, begin, training

    def norm(self, maps: Tensor, name: str) -> Tensor:
        mean, variance, weight, bias = (
            self.state[f"{self.begin}{name}.{each}"] for each in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(maps, mean.clone(), variance.clone(), weight, bias, training=self.training)

    def conv(self, maps: Tensor, name: str, stride: int = 1) -> Tensor:
        weight, bias = self.state[f"{self.begin}{name}.weight"], self.state.get(f"{self.begin}{name}.bias")
        return F.conv2d(maps, weight, bias, stride, padding=weight.shape[-1] // 2)

    def convolutions(self, images: Tensor, slope: float) -> Tensor:
        """Conv64F of LibFewShot, with the last pooling."""
        for layer in range(1, 5):
            active = F.leaky_relu(self.norm(self.conv(images, f"layer{layer}.0"), f"layer{layer}.1"), slope)
            images = F.max_pool2d(active, 2)
        return images

    def residual(self, images: Tensor, strided: bool) -> Tensor:
        """ResNet-12: CAN's if `strided`, which has a stem, else LibFewShot's with its last poolings."""
        slope = 0.0 if strided else 0.1
        maps = F.relu(self.norm(self.conv(images, "conv1"), "bn1")) if strided else images
        for layer in range(1, 5):
            of, stride = f"layer{layer}.0", 2 if strided else 1
            out = F.leaky_relu(self.norm(self.conv(maps, f"{of}.conv1"), f"{of}.bn1"), slope)
            out = F.leaky_relu(self.norm(self.conv(out, f"{of}.conv2", stride), f"{of}.bn2"), slope)
            out = self.norm(self.conv(out, f"{of}.conv3"), f"{of}.bn3")
            out = out + self.norm(self.conv(maps, f"{of}.downsample.0", stride), f"{of}.downsample.1")
            maps = F.leaky_relu(out, slope)
            maps = maps if strided else F.max_pool2d(maps, 2)
        return maps


IMAGES = torch.rand(3, 3, 32, 32, generator=GENERATOR)


def near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("slope", [0.0, 0.2])
@pytest.mark.parametrize("table", ["libfewshot conv64f", "libfewshot conv32f"])
def test_libfewshots_convolutions(table: str, slope: float, training: bool, tmp_path: Path) -> None:
    state = state_of(table)
    torch.save(state, tmp_path / "emb_func_best.pth")
    ours = loaded(table, tmp_path / "emb_func_best.pth", last_pooling=True, conv_slope=slope).train(training)
    near(ours(IMAGES), Theirs(state, training=training).convolutions(IMAGES, slope))


@pytest.mark.parametrize(("table", "begin"), [("libfewshot resnet12", ""), ("can resnet12_can", "base.")])
def test_resnet_12_of_both_codes(table: str, begin: str, tmp_path: Path) -> None:
    state = state_of(table)
    torch.save({"state_dict": state}, tmp_path / "best.pth.tar")
    ours = loaded(table, tmp_path / "best.pth.tar", last_pooling=not begin).eval()
    near(ours(IMAGES), Theirs(state, begin).residual(IMAGES, strided=bool(begin)))


def test_a_bias_of_another_size_is_refused(tmp_path: Path) -> None:
    state = state_of("libfewshot conv64f") | {"layer2.0.bias": torch.zeros(1)}
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"layer2\.0\.bias has the shape \(1,\), expected \(64,\); use another file"):
        loaded("libfewshot conv64f", tmp_path / "x.pth")


def test_another_codes_network_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save(state_of("libfewshot resnet12"), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="does not have the backbone's 20 tensors, such as layers.0.weight; it holds "):
        loaded("libfewshot conv64f", tmp_path / "x.pth")
    torch.save(state_of("can resnet12_can"), tmp_path / "x.pth")
    with pytest.raises(ValueError, match="another model: .* of its tensors differ"):
        loaded("libfewshot resnet12", tmp_path / "x.pth")
