"""Settings of the Dynamic Meta-filter. Where paper and released code differ, one field offers both values."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import model_validator

from dmf.methods.config import EmbeddingMethodConfig
from dmf.values import NO_BOOL, Count, NonNegative

LOSS_WEIGHTS = ("few_shot_weight", "global_weight")
OF_FILTERS = ("groups", "kernel_size", "dynamic_sampling", "solver", "rectified", "global_input")


class DMFConfig(EmbeddingMethodConfig):
    """Dynamic Meta-filter (Xu et al., CVPR 2021)."""

    method: Literal["dmf"] = "dmf"
    groups: Count = 64
    """Filters per position (Table 2c); has to divide the backbone's channels."""
    kernel_size: Annotated[Literal[1, 3], NO_BOOL] = 1
    """Side of the meta-filter, in positions."""
    dynamic_sampling: bool = True
    """Generate filters from deformed 3x3 neighbourhoods; False: from regular ones (Table 2a)."""
    alignment: Annotated[Literal[0, 1, 2, 3, "ode"], NO_BOOL] = "ode"
    """Number of alignments, or the neural ODE (Table 2d)."""
    solver: Literal["rk4", "dopri5", "exact"] = "rk4"
    """Solver of the neural ODE: `rk4` takes one 3/8-rule step (released), `dopri5` is adaptive Dormand-Prince (paper),
    `exact` is the closed form (`kernel_size` 1 only)."""
    rectified: bool = True
    """Whether dX/dt = relu(filter (*) X) (released), or without the relu (paper, eq. 7 as printed)."""
    score_border: Annotated[Literal[0, 1], NO_BOOL] = 1
    """Width of the zero border of the score map: 1 (released, from a padded 1x1 convolution) or 0 (paper)."""
    class_weight: Literal["normalised", "pooled"] = "normalised"
    """From class map to class weight: divide by the L2 norm over channels at each position, then take the mean over
    positions (released); or only the mean (`pooled`, paper)."""
    global_input: Literal["query", "aligned"] = "query"
    """Input of the global classifier: the query map (released), or the query map aligned to its own class (paper)."""
    few_shot_weight: NonNegative = 0.5
    global_weight: NonNegative = 1.0
    """The loss is global_weight * global + few_shot_weight * few-shot (released: 1, 0.5; paper, eq. 10: 0.5, 1)."""

    @property
    def unread(self) -> dict[str, str]:
        unread = super().unread
        if self.alignment == 0:
            return unread | dict.fromkeys(OF_FILTERS, "alignment=0")
        return unread if self.alignment == "ode" else unread | {"solver": f"alignment={self.alignment}"}

    def identity(self) -> dict[str, dict[str, Any]]:
        """In the form of the first records, when DMF was the only method.

        It has no name, and the loss weights are in the section `training`.
        """
        model = super().identity()["model"]
        del model["method"]
        return {"model": model, "training": {name: model.pop(name) for name in LOSS_WEIGHTS if name in model}}

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        if self.channels % self.groups:
            divisors = [g for g in range(1, self.channels + 1) if self.channels % g == 0]
            raise ValueError(
                f"groups={self.groups} does not divide the {self.channels} channels of {self.backbone}; "
                f"try one of {', '.join(map(str, divisors))}"
            )
        if self.solver == "exact" and self.kernel_size != 1:
            raise ValueError("solver='exact' works only for kernel_size=1; use 'rk4' or 'dopri5'")
        if self.few_shot_weight == 0 and self.global_weight == 0:
            raise ValueError("few_shot_weight and global_weight are both 0, so nothing would be learnt; raise one")
        return self
