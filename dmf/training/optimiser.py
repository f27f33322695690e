"""The optimiser that a configuration asks for, and its state as tensors with names, which checkpoints hold."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmf.config import OptimisationConfig
from dmf.records.checkpoints import check_shapes

STATE = {
    "sgd": {"momentum": "momentum_buffer"},
    "adam": {"exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq", "step": "step"},
}
"""Optimiser -> the name in a checkpoint of each tensor that it keeps for a parameter -> the name in PyTorch."""
BACKBONE = "backbone."
"""What the names of a backbone's parameters start with, in methods and in classifiers."""


def build_optimiser(module: nn.Module, settings: OptimisationConfig) -> torch.optim.Optimizer:
    """The optimiser of all parameters, in a group for the backbone's and one for the others; `set_rate` follows."""
    named = list(module.named_parameters())
    inside = [parameter for name, parameter in named if name.startswith(BACKBONE)]
    outside = [parameter for name, parameter in named if not name.startswith(BACKBONE)]
    groups = [
        {"params": parameters, "factor": factor}
        for parameters, factor in ((inside, 1.0), (outside, settings.head_rate_factor))
        if parameters
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimiser == "adam":
        return torch.optim.Adam(groups, lr=rate, weight_decay=decay, fused=True)
    momentum, nesterov = settings.momentum, settings.nesterov
    return torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=nesterov, weight_decay=decay, fused=True)


def set_rate(optimiser: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of every group, times the group's factor."""
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * group["factor"]


def state_of(optimiser: torch.optim.Optimizer, module: nn.Module, settings: OptimisationConfig) -> dict[str, Tensor]:
    """Everything that the optimiser remembers, as `KIND.PARAMETER`; nothing for parameters that had no gradient."""
    found = {}
    for name, parameter in module.named_parameters():
        kept = optimiser.state.get(parameter, {})
        for kind, theirs in STATE[settings.optimiser].items():
            if kept.get(theirs) is not None:
                found[f"{kind}.{name}"] = kept[theirs]
    return found


def restore(
    optimiser: torch.optim.Optimizer,
    module: nn.Module,
    settings: OptimisationConfig,
    state: dict[str, Tensor],
    where: str,
) -> None:
    """Let the optimiser remember `state`, as from `state_of`.

    Raises ValueError, naming the source `where`, for a tensor that it would not keep.
    """
    kinds = STATE[settings.optimiser]
    wanted = {
        f"{kind}.{name}": (parameter, theirs)
        for name, parameter in module.named_parameters()
        for kind, theirs in kinds.items()
    }
    known = {name: _like(*wanted[name]) for name in state if name in wanted}
    check_shapes(known, state, where)
    for name, into in known.items():
        parameter, theirs = wanted[name]
        optimiser.state[parameter][theirs] = into.copy_(state[name])


def _like(parameter: Tensor, kind: str) -> Tensor:
    """An empty tensor in the layout that the optimiser's state of this kind has for a parameter."""
    return torch.empty((), device=parameter.device) if kind == "step" else torch.empty_like(parameter)
