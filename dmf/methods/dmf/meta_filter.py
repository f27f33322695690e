"""The meta-filter: from a class map and a query map to one filter per group and position (paper, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import wide
from dmf.ops.dynamic_sampling import DynamicConv2d

SAMPLING_TAPS = 9
"""The filter is generated from a 3x3 neighbourhood of the class map."""


class MetaFilter(nn.Module):
    """Filters from pairs of maps.

    A 5x5 convolution over concat(query, support) says where each of the 3x3 taps reads the class map (dynamic
    sampling); the 3x3 convolution at these places, then a sigmoid, gives `groups` * `kernel_size`^2 weights per
    position. The offset convolution is linear, so it is the sum of a part of the query and a part of the class map:
    N + Q convolutions in place of N * Q.
    """

    def __init__(self, channels: int, groups: int, kernel_size: int = 1, dynamic_sampling: bool = True) -> None:
        super().__init__()
        self.channels = channels
        self.filter_conv = DynamicConv2d(channels, groups * kernel_size**2, kernel_size=3)
        self.offset_conv = (
            nn.Conv2d(2 * channels, 2 * SAMPLING_TAPS, 5, padding=2, bias=False) if dynamic_sampling else None
        )

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> filters in (0, 1), [B, N, Q, G*k*k, H, W],
        in float32 at least.

        Without dynamic sampling all queries share their class's filters, and the Q of the result is 1.
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
        """What query maps [I, C, H, W] add to where the taps read: [I, 18, H, W], (dy, dx) per tap, in positions."""
        return self._offset_part(query, slice(None, self.channels))

    def class_offsets(self, classes: Tensor) -> Tensor:
        """What class maps [J, C, H, W] add: [J, 18, H, W]."""
        return self._offset_part(classes, slice(self.channels, None))

    def _offset_part(self, maps: Tensor, channels: slice) -> Tensor:
        assert self.offset_conv is not None
        return F.conv2d(maps, self.offset_conv.weight[:, channels], padding=2)
