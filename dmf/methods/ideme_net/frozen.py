"""A copy of a network for gradients with respect to its inputs: batch normalisation is folded into convolutions."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def folded(network: nn.Module, image: Tensor) -> nn.Module:
    """A copy, in evaluation mode and without gradients of its weights, of a network that reads `image` [1, C, h, w].

    In evaluation mode, batch normalisation after a convolution is a factor and a shift per channel. Folded into the
    convolution, it takes no pass over the map, and keeps none for the way back.
    """
    found = copy.deepcopy(network).eval().requires_grad_(False)
    for conv, norm in _pairs(found, image):
        convolution, normalisation = found.get_submodule(conv), found.get_submodule(norm)
        assert isinstance(convolution, nn.Conv2d) and isinstance(normalisation, nn.BatchNorm2d)
        found.set_submodule(conv, fuse_conv_bn_eval(convolution, normalisation).requires_grad_(False))
        found.set_submodule(norm, nn.Identity())
    return found


def _pairs(network: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Names of each convolution and of the batch normalisation that reads its result."""
    made_by: dict[int, tuple[str, Tensor]] = {}
    pairs: list[tuple[str, str]] = []

    def note(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], result: Tensor) -> None:
            if isinstance(module, nn.Conv2d):
                made_by[id(result)] = name, result  # holds the result, so that its id stays its own
            elif id(inputs[0]) in made_by:
                pairs.append((made_by[id(inputs[0])][0], name))

        return hook

    layers = [(name, each) for name, each in network.named_modules() if isinstance(each, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [layer.register_forward_hook(note(name)) for name, layer in layers]  # type: ignore[arg-type]
    network(image)
    for hook in hooks:
        hook.remove()
    return pairs
