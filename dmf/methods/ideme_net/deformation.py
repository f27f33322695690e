"""Networks that predict, from two images, the weights of the cells in which they are mixed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmf.machine.precision import full_precision, wide
from dmf.methods.heads import embeddings

WIDTHS = (32, 64, 64, 32)
"""Channels of all blocks but the last."""
LAST_WIDTH = 16


class OneBranch(nn.Module):
    """Blocks of convolution, normalisation, ReLU and pooling on both images, one above the other, and a linear layer.

    Its batch normalisation keeps the mean 0 and the variance 1 of its beginning, because it is never in training mode.
    """

    def __init__(self, in_channels: int, image_size: int, cells: int, blocks: int = 5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = 2 * in_channels
        for channels in (*WIDTHS[: blocks - 1], LAST_WIDTH):
            layers.append(
                nn.Sequential(
                    nn.Conv2d(width, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.MaxPool2d(2), nn.ReLU()
                )
            )
            width = channels
        self.encoder = nn.Sequential(*layers)
        self.to_weights = nn.Linear(LAST_WIDTH * (image_size // 2**blocks) ** 2, cells)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Images [n, C, S, S] -> weights [n, cells], any numbers, in float32 at least."""
        maps = self.encoder(torch.cat([ours, theirs], 1).contiguous(memory_format=torch.channels_last))
        return wide(self.to_weights(maps.flatten(1)))


class TwoBranches(nn.Module):
    """A backbone for each of the two images, and a linear layer of both embeddings."""

    def __init__(self, ours: nn.Module, theirs: nn.Module, channels: int, cells: int) -> None:
        super().__init__()
        self.ours, self.theirs = ours, theirs
        self.to_weights = nn.Linear(2 * channels, cells)

    def forward(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Images [n, C, S, S] -> weights [n, cells], any numbers, in float32 at least."""
        images = (each.contiguous(memory_format=torch.channels_last) for each in (ours, theirs))
        both = [embeddings(net(each)) for net, each in zip((self.ours, self.theirs), images, strict=True)]
        with full_precision(ours.device):
            return wide(self.to_weights(torch.cat(both, 1)))
