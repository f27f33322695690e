"""Settings of Associative Alignment with centroids."""

from __future__ import annotations

from typing import Literal

from dmf.methods.config import AlignmentConfig


class CentroidAlignmentConfig(AlignmentConfig):
    """Associative Alignment (Afrasiyabi et al., ECCV 2020) that draws base images to the centroids of the support."""

    method: Literal["centroid_alignment"] = "centroid_alignment"
