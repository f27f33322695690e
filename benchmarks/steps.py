"""Training steps to time: ResNet-12 on given images, whole or in parts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmf.config import DataConfig, DMFConfig, EpisodeConfig, TrainingConfig
from dmf.episodes import Episode
from dmf.machine.precision import autocast, pinned
from dmf.methods import build_method
from dmf.methods.base import FewShotMethod

SIDE, BASE_CLASSES = 84, 64
TASK, SETTINGS = EpisodeConfig(), TrainingConfig()
IMAGES_PER_EPISODE = TASK.way * (TASK.shot + TASK.queries)


def fresh_method(device: torch.device, **model: object) -> FewShotMethod:
    """The released configuration's model with the given fields of `DMFConfig` changed, in training mode."""
    torch.manual_seed(0)
    return build_method(DMFConfig().replace(**model), DataConfig(), BASE_CLASSES).to(device).train()


def random_episodes(episodes: int, device: torch.device, side: int = SIDE) -> Episode:
    """Episodes of noise images of `side` pixels, with the released training's way, shot and queries."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(episodes, TASK.way, TASK.shot + TASK.queries, 3, side, side, generator=generator)
    support, query = images.split([TASK.shot, TASK.queries], dim=2)
    targets = torch.arange(TASK.way).repeat_interleave(TASK.queries).expand(episodes, -1)
    return Episode(*(part.to(device) for part in (support.contiguous(), query.flatten(1, 2), targets, targets)))


def backbone_flops(method: FewShotMethod) -> int:
    """Forward FLOPs of the backbone's convolutions for one image (backward: twice as many), two per multiply-add."""
    image = torch.zeros(1, 3, SIDE, SIDE, device=next(method.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        method.maps(image)
    return counter.get_total_flops()


def optimizer_of(module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of `dmf.training.run`, with a learning rate at which training on noise does not diverge."""
    return torch.optim.SGD(
        module.parameters(),
        lr=1e-4,
        momentum=SETTINGS.momentum,
        nesterov=SETTINGS.nesterov,
        weight_decay=SETTINGS.weight_decay,
        fused=True,
    )


def whole_step(method: FewShotMethod, episode: Episode, precision: str) -> Callable[[], None]:
    """A function that runs forward, backward and optimiser of the whole model."""
    return _step(method, lambda: method.losses(episode).total, next(method.parameters()).device, precision)


def backbone_step(method: FewShotMethod, episode: Episode, precision: str) -> Callable[[], None]:
    """The same for the backbone alone, with the mean of its map as the loss."""
    images = torch.cat([episode.support.flatten(0, 2), episode.query.flatten(0, 1)])
    return _step(method.backbone, lambda: method.maps(images).float().mean(), images.device, precision)


def head_step(method: FewShotMethod, episode: Episode, precision: str) -> Callable[[], None]:
    """A function that runs forward and backward of everything after the backbone, on its maps."""
    device = episode.query.device
    with torch.no_grad(), autocast(device, precision):
        maps = method.features(episode)
    support, query = (part.detach().requires_grad_() for part in (maps.support, maps.query))

    def step() -> None:
        with pinned(precision):
            with autocast(device, precision):
                loss = method.losses_of_maps(Episode(support, query, maps.targets, maps.labels)).total
            loss.backward()
        for tensor in (support, query, *method.parameters()):
            tensor.grad = None

    return step


def _step(module: nn.Module, loss: Callable[[], Tensor], device: torch.device, precision: str) -> Callable[[], None]:
    optimizer = optimizer_of(module)

    def step() -> None:
        with pinned(precision):
            with autocast(device, precision):
                value = loss()
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()

    return step
