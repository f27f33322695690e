"""Backbones: shapes, DropBlock, and DMF behind each of them."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from dmf.backbones import BACKBONES, build_backbone
from dmf.backbones.config import CHANNELS, BackboneConfig
from dmf.backbones.drop_block import DropBlock, count_forwards, reset_forwards
from dmf.config import DataConfig, DMFConfig, ExperimentConfig
from dmf.episodes import Episode
from dmf.methods import build_method


@pytest.mark.parametrize(
    ("name", "size", "last_pooling", "side"),
    [
        ("resnet12", 84, False, 11),
        ("resnet12", 84, True, 6),
        ("resnet12", 64, True, 4),
        ("conv64f", 84, False, 10),
        ("conv64f", 84, True, 5),
        ("conv64f", 28, False, 3),
        ("conv32f", 84, True, 5),
        ("conv32f", 28, False, 3),
        ("conv4_relu", 84, True, 5),
        ("conv4_relu", 28, False, 3),
        ("resnet12_can", 84, False, 6),
        ("resnet12_can", 28, False, 2),
        ("resnet18", 84, False, 11),
        ("resnet18_imagenet", 224, False, 7),
        ("wrn28", 28, False, 7),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_map_sizes(name: str, size: int, last_pooling: bool, side: int, channels: int) -> None:
    config = BackboneConfig(backbone=name, last_pooling=last_pooling)
    backbone = build_backbone(config, in_channels=channels)
    maps = backbone(torch.randn(2, channels, size, size))  # in training mode, so DropBlock has to handle a 4x4 map
    assert maps.shape == (2, CHANNELS[name], side, side)


def fully_ramped(rate: float, block: int) -> DropBlock:
    drop = DropBlock(rate, block, ramp=10)
    drop.forwards.fill_(10)
    return drop.train()


@pytest.mark.parametrize("block", [1, 3, 5])
def test_dropblock_drops_about_its_rate_in_whole_blocks(block: int) -> None:
    torch.manual_seed(0)
    out = fully_ramped(0.1, block)(torch.ones(64, 32, 12, 12))
    dropped = out == 0
    # Overlapping blocks, and the missing seeds at the border, make it a little less than the rate.
    assert 0.07 < dropped.float().mean() <= 0.105
    # Every dropped position belongs to a dropped block that lies inside the map.
    whole = -torch.nn.functional.max_pool2d(-dropped.float(), block, stride=1)
    covered = torch.nn.functional.max_pool2d(torch.nn.functional.pad(whole, [block - 1] * 4), block, stride=1)
    assert torch.equal(covered, dropped.float())


def test_the_size_of_blocks_is_a_setting() -> None:
    for given, expected in ((BackboneConfig(), 5), (BackboneConfig(drop_block_size=3), 3)):
        drops = [part for part in build_backbone(given, in_channels=3).modules() if isinstance(part, DropBlock)]
        assert [drop.block for drop in drops] == [expected, expected]


def test_dropblock_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = fully_ramped(0.3, 3)(torch.ones(8, 16, 9, 9))
    assert out.mean().item() == pytest.approx(1, abs=1e-5)


def test_dropblock_ramps_up_over_training_forwards_only() -> None:
    drop = DropBlock(0.5, 3, ramp=1000)
    maps = torch.ones(16, 16, 10, 10)
    drop.eval()
    assert torch.equal(drop(maps), maps)
    assert drop.forwards == 0
    drop.train()
    torch.manual_seed(0)
    early = (drop(maps) == 0).float().mean()
    drop.forwards.fill_(1000)
    late = (drop(maps) == 0).float().mean()
    assert early < 0.01 < 0.3 < late
    assert drop.forwards == 1001


def test_every_backbone_has_channels() -> None:
    assert BACKBONES.keys() == CHANNELS.keys()


def test_the_forwards_of_validation_are_counted_by_who_validates() -> None:
    """In the released code, 300 forward passes per epoch and 500 in each of 31 validations end the ramp at epoch 84."""
    backbone = build_backbone(BackboneConfig(), in_channels=3)
    drop = next(module for module in backbone.modules() if isinstance(module, DropBlock))
    for epoch in range(1, 85):
        count_forwards(backbone, 300)
        if epoch == 1 or epoch % 10 == 0 or epoch >= 60:
            count_forwards(backbone, 2000 // 4)
        assert (drop.forwards >= drop.ramp) == (epoch == 84)
    reset_forwards(backbone)
    assert drop.forwards == 0


def test_dropblock_never_exceeds_the_map() -> None:
    torch.manual_seed(0)
    out = fully_ramped(0.2, 5)(torch.ones(200, 50, 3, 4))
    channels = (out == 0).flatten(2).float().mean(2)
    assert channels.max() > 0.5 and 0.1 < channels.mean() < 0.25


def test_resnet18_is_torchvisions_with_another_stem() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    theirs.avgpool = theirs.fc = nn.Identity()
    ours = build_backbone(BackboneConfig(backbone="resnet18"), in_channels=3)
    values = [value for name, value in theirs.state_dict().items()]
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    images = torch.randn(2, 3, 20, 20)
    for mode in (True, False):
        expected = theirs.train(mode)(images)
        torch.testing.assert_close(ours.train(mode)(images).flatten(1), expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_head_of_dmf_goes_behind_every_backbone(name: str) -> None:
    torch.manual_seed(0)
    config = DMFConfig(backbone=name, groups=16)
    method = build_method(config, DataConfig(image_size=28), base_classes=7)
    targets = torch.tensor([[0, 1, 1]])
    episode = Episode(torch.randn(1, 2, 1, 3, 28, 28), torch.randn(1, 3, 3, 28, 28), targets, targets)
    method.losses(episode).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    assert method.eval()(episode).shape == (1, 3, 2)


@pytest.mark.parametrize("name", BACKBONES)
def test_settings_that_a_backbone_ignores_change_no_key(name: str) -> None:
    base = ExperimentConfig().with_paths({"model.backbone": name, "model.groups": 32})
    changed = {"drop_rate": 0.3, "last_pooling": True, "wrn_variant": "feat", "conv_slope": 0.0}
    for setting, value in changed.items():
        same = base.with_paths({f"model.{setting}": value}).key == base.key
        assert same == (setting in base.model.unread)
    assert ("last_pooling" in base.model.unread) == (name in ("resnet12_can", "resnet18", "resnet18_imagenet", "wrn28"))


@pytest.mark.parametrize("name", ["conv64f", "conv32f"])
def test_images_too_small_for_four_poolings_are_refused(name: str) -> None:
    settings = {"model.backbone": name, "model.groups": 32, "model.last_pooling": True, "data.image_size": 15}
    settings["augmentation.crop_padding"] = 2
    with pytest.raises(ValueError, match=f"data.image_size=15 is too small for {name}'s four poolings"):
        ExperimentConfig().with_paths(settings)
