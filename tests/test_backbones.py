"""Backbones: shapes and DropBlock."""

from __future__ import annotations

import pytest
import torch

from dmf.backbones import BACKBONES, build_backbone
from dmf.backbones.config import CHANNELS, BackboneConfig
from dmf.backbones.drop_block import DropBlock, count_forwards, reset_forwards


@pytest.mark.parametrize(
    ("name", "size", "last_pooling", "side"),
    [
        ("resnet12", 84, False, 11),
        ("resnet12", 84, True, 6),
        ("resnet12", 64, True, 4),
        ("conv64f", 84, False, 10),
        ("conv64f", 84, True, 5),
        ("conv64f", 28, False, 3),
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
