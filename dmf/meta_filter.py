"""The meta-filter: from a class map and a query map to one filter per group and position (paper, section 3.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.dynamic_sampling import DynamicConv2d

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
        """Class maps [B, N, C, H, W] and query maps [B, Q, C, H, W] -> filters in (0, 1), [B, N, Q, G*k*k, H, W].

        Without dynamic sampling all queries share their class's filters, and the Q of the result is 1.
        """
        episodes, ways = classes.shape[:2]
        filters = self.filter_conv(classes.flatten(0, 1), self._offsets(classes, query)).sigmoid()
        return filters.unflatten(0, (episodes, ways))

    def _offsets(self, classes: Tensor, query: Tensor) -> Tensor | None:
        """Where the taps read: [B*N, Q, 18, H, W], (dy, dx) per tap, in positions; None for the regular places."""
        if self.offset_conv is None:
            return None
        of_query, of_support = self.offset_conv.weight.split(self.channels, dim=1)
        query_part = F.conv2d(query.flatten(0, 1), of_query, padding=2).unflatten(0, query.shape[:2])
        support_part = F.conv2d(classes.flatten(0, 1), of_support, padding=2).unflatten(0, classes.shape[:2])
        return (support_part[:, :, None] + query_part[:, None]).flatten(0, 1)
