"""Associative Alignment with a conditional critic: a design of this project, after Afrasiyabi et al. (ECCV 2020).

The paper names a conditional adversarial alignment by the Wasserstein distance. Of its code only the critic's shape was
released, which nothing calls, and its settings are not known: this is not the authors' method.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmf.machine.precision import full_precision
from dmf.methods.adversarial_alignment.config import AdversarialAlignmentConfig
from dmf.methods.associative import AlignedMethod, AlignmentLoss, AlignmentSettings
from dmf.methods.novel_head import adam


class AdversarialAlignment(AlignedMethod):
    """For a critic, the network makes related base images of a way like the support of that way (our own design).

    In each iteration the critic D, conditioned on the way, takes `critic_steps` steps on the features of the iteration
    to minimise E_related D - E_support D + penalty * E (|grad D| - 1)^2, and the network one to minimise
    E_support D - E_related D, in place of the centroid loss (update (a) of three). A weight of that loss would change
    nothing, since it has an Adam of its own. Each episode starts with a new critic.
    """

    def __init__(
        self,
        *args: Any,
        critic_width: int = 256,
        critic_steps: int = 5,
        critic_learning_rate: float = 1e-3,
        gradient_penalty: float = 10.0,
        **settings: Any,
    ) -> None:
        super().__init__(*args, **settings)
        self.critic_width, self.critic_steps = critic_width, critic_steps
        self.critic_learning_rate, self.gradient_penalty = critic_learning_rate, gradient_penalty

    @classmethod
    def build(cls, backbone: nn.Module, config: AdversarialAlignmentConfig, base_classes: int) -> Self:
        """Build the method that `config` describes; `base_classes` is not used."""
        return cls(
            backbone,
            cls.head_of(config),
            config.novel_steps,
            config.novel_learning_rate,
            config.flattened,
            AlignmentSettings.of(config),
            critic_width=config.critic_width,
            critic_steps=config.critic_steps,
            critic_learning_rate=config.critic_learning_rate,
            gradient_penalty=config.gradient_penalty,
        )

    def alignment(self, ways: int, length: int) -> AlignmentLoss:
        device = next(self.backbone.parameters()).device
        dtype = next(self.backbone.parameters()).dtype
        critic = Critic(length, ways, self.critic_width).to(device, dtype)
        optimizer = adam(critic.parameters(), self.critic_learning_rate)

        def loss(base: Tensor, support: Tensor) -> Tensor:
            with full_precision(base.device):
                for _ in range(self.critic_steps):
                    optimizer.zero_grad(set_to_none=True)
                    critic_loss(critic, base.detach(), support.detach(), self.gradient_penalty).backward()
                    optimizer.step()
                gap: Tensor = critic(support).mean() - critic(base).mean()
                return gap

        return loss


class Critic(nn.Module):
    """Linear, ReLU, Linear, on features with the one-hot way behind them: the released shape."""

    def __init__(self, length: int, ways: int, width: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(length + ways, width), nn.Linear(width, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, n, D] of N ways -> values [N, n]."""
        ways, each = features.shape[:2]
        condition = torch.eye(ways, dtype=features.dtype, device=features.device)[:, None].expand(-1, each, -1)
        value: Tensor = self.out(F.relu(self.hidden(torch.cat([features, condition], dim=-1))))
        return value[..., 0]


def critic_loss(critic: Critic, base: Tensor, support: Tensor, penalty: float) -> Tensor:
    """What the critic minimises: the Wasserstein gap with its sign turned, and the penalty of its gradients' lengths.

    The penalty is taken at random points between each related feature of `base` [N, n, D] and a random support feature
    of its way, of `support` [N, K, D] (Gulrajani et al., NeurIPS 2017).
    """
    ways, each = base.shape[:2]
    partners = torch.randint(support.shape[1], (ways, each), device=base.device)
    partner = support.gather(1, partners[..., None].expand_as(base))
    share = torch.rand(ways, each, 1, dtype=base.dtype, device=base.device)
    between = (share * base + (1 - share) * partner).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    excess = (slopes.norm(dim=-1) - 1).square().mean()
    loss: Tensor = critic(base).mean() - critic(support).mean() + penalty * excess
    return loss
