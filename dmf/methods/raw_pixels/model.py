"""The floor under every result: nearest class by the cosine of raw pixels, nothing learnt."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod


class RawPixels(FewShotMethod):
    """Cosine between a query's normalised pixels and the mean of a class's."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Identity()

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        prototypes = F.normalize(wide(support).mean(2).flatten(2), dim=-1)
        with full_precision(query.device):
            return F.normalize(wide(query).flatten(2), dim=-1) @ prototypes.transpose(1, 2)

    def losses_of_maps(self, maps: Episode) -> dict[str, Tensor]:
        """None: there is nothing to train."""
        return {}
