"""Settings of image deformation meta-networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import NO_BOOL, Count

OF_DEFORMATION = ("deform_grid", "deform_branches", "deform_blocks", "deform_flips", "gallery_candidates")


class IDeMeNetConfig(EmbeddingMethodConfig):
    """IDeMe-Net (Chen et al., CVPR 2019): support images mixed with base images, cell by cell, by learnt weights.

    Defaults are the released code's for 1-shot; its 5-shot training has deformed_images 5 and gallery_candidates 30. As
    published, the pre-training has `start.training.mixing_grid: 3`.
    """

    method: Literal["ideme_net"] = "ideme_net"
    needs_start: ClassVar[bool] = True
    start_heads: ClassVar[tuple[str, ...]] = ("linear",)
    augments: ClassVar[bool] = False
    stage_module: ClassVar[str] = "dmf.training.rounds"
    rounds: Count = 1
    """Trainings after the pre-training, each from the one before: odd ones train the deformation and the scale, even
    ones the embedding and its classifier."""
    deformed_images: Annotated[int, Field(ge=0, le=1000)] = 7
    """Deformed images per support image."""
    deform_grid: Annotated[Literal[3, 5, 7], NO_BOOL] = 3
    """Cells per side of the grid; each cell has a weight of its own."""
    deform_branches: Annotated[Literal[1, 2], NO_BOOL] = 1
    """1: one small network reads both images (released); 2: one backbone for each (the paper's figure)."""
    deform_blocks: Annotated[int, Field(ge=1, le=5)] = 5
    """Blocks of the small network. Each halves the image, so five need 32 pixels."""
    deform_flips: bool = True
    """Whether half of the images are mirrored before they are mixed; not for characters."""
    gallery_per_class: Count = 30
    """Images of every base class that support images may be mixed with."""
    gallery_candidates: Count = 15
    """How many of them, the nearest to a class's mean, its support images are mixed with."""
    protocol: Literal["clean", "released"] = "clean"
    """`released` does these as the released code does: the gallery passes through the embedding once at the start of a
    round, in training mode, which shifts the statistics of batch normalisation; a query of a training episode may be
    one of its support images; the scale is also trained in even rounds; and episodes of the test split select the
    epoch, here by accuracy and there by loss. There, the embedding is not trained in the first epoch of an even round.
    The tests themselves are the same."""

    @property
    def trains_embedding(self) -> bool:
        """Whether its last round trains the embedding and the classifier, and not the deformation."""
        return self.rounds % 2 == 0

    @property
    def earlier(self) -> Self | None:
        return self.replace(rounds=self.rounds - 1) if self.rounds > 1 else None

    @property
    def unread(self) -> dict[str, str]:
        found = super().unread
        if self.deform_branches == 2:
            found["deform_blocks"] = "deform_branches=2"
        if self.deformed_images == 0:
            found |= dict.fromkeys(OF_DEFORMATION, "deformed_images=0")
        return found

    def check_image_size(self, size: int) -> None:
        least = 2**self.deform_blocks
        if self.deform_branches == 1 and size < least:
            raise ValueError(
                f"data.image_size={size} is too small for model.deform_blocks={self.deform_blocks}, which halve it "
                f"{self.deform_blocks} times; use {least} pixels or more, or fewer blocks"
            )

    @property
    def read_of_base_classes(self) -> tuple[int, ...]:
        return self.gallery_per_class, self.gallery_candidates

    def check_base_classes(self, sizes: Sequence[int]) -> None:
        each, smallest = self.gallery_per_class, min(sizes)
        if each > smallest:
            raise ValueError(
                f"model.gallery_per_class={each} is more than the {smallest} images of the smallest class of the train "
                "split; lower it"
            )
        if self.gallery_candidates > each * len(sizes):
            raise ValueError(
                f"model.gallery_candidates={self.gallery_candidates} is more than the {each * len(sizes)} images of "
                f"the gallery ({each} of each of {len(sizes)} classes); lower it, or raise model.gallery_per_class"
            )
