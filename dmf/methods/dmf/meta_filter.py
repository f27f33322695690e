"""The meta-filter: from a class map and a query map to one filter per group and position (paper, section 4.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision, wide
from dmf.ops.dynamic_sampling import DynamicConv2d

SAMPLING_TAPS = 9
"""The filter is generated from a 3x3 neighbourhood of the class map."""


class MetaFilter(nn.Module):
    """Generates a filter for each pair of a class map and a query map.

    With dynamic sampling, a 5x5 convolution of concat(query map, class map) predicts an offset for each of the 3x3 taps
    at each position. A 3x3 convolution of the class map, deformed by these offsets, and a sigmoid then give the
    `groups` * `kernel_size`^2 weights at each position.

    The offset convolution is linear, so it splits into a convolution of the query map and one of the class map: N + Q
    convolutions instead of N * Q.

    Offsets, their sums and those of the samples stay in float32 inside `autocast`: rounded to eight bits, an offset of
    ten positions is off by a fiftieth of one.
    """

    def __init__(self, channels: int, groups: int, kernel_size: int = 1, dynamic_sampling: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.filter_conv = DynamicConv2d(channels, groups * kernel_size**2, kernel_size=3)
        self.offset_conv = (
            nn.Conv2d(2 * channels, 2 * SAMPLING_TAPS, 5, padding=2, bias=False) if dynamic_sampling else None
        )

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> filters [B, N, Q, G*k*k, H, W] in (0, 1).

        They are float32 or wider. Without dynamic sampling, all queries share a class's filters, and Q is 1 in the
        result.
        """
        offsets = None
        if self.offset_conv is not None:
            of_classes = self.class_offsets(classes.flatten(0, 1)).unflatten(0, classes.shape[:2])
            of_query = self.query_offsets(query.flatten(0, 1)).unflatten(0, query.shape[:2])
            offsets = (of_classes[:, :, None] + of_query[:, None]).flatten(0, 1)
        filters = wide(self.filter_conv(classes.flatten(0, 1), offsets)).sigmoid()
        by_class: Tensor = filters.unflatten(0, classes.shape[:2])
        return by_class

    def query_offsets(self, query: Tensor) -> Tensor:
        """The query's part of the offsets, (dy, dx) in positions for each tap: maps [I, C, H, W] -> [I, 18, H, W]."""
        return self._offset_part(query, slice(None, self.channels))

    def class_offsets(self, classes: Tensor) -> Tensor:
        """The class's part of the offsets: maps [J, C, H, W] -> [J, 18, H, W]."""
        return self._offset_part(classes, slice(self.channels, None))

    def _offset_part(self, maps: Tensor, channels: slice) -> Tensor:
        assert self.offset_conv is not None
        with full_precision(maps.device):
            return F.conv2d(wide(maps), wide(self.offset_conv.weight[:, channels]), padding=2)
