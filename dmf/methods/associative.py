"""Associative Alignment (Afrasiyabi et al., "Associative alignment for few-shot image classification", ECCV 2020).

Every episode adapts a copy of the network and a head of its own. Letters: N ways, K shots, n related images per way, D
features.
"""

from __future__ import annotations

import contextlib
import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from dmf.draws import derived_seed
from dmf.machine.precision import uncached
from dmf.machine.watchdog import alive
from dmf.methods.base import Adaptation, FewShotMethod, Table
from dmf.methods.config import AlignmentConfig, NovelHeadConfig
from dmf.methods.heads import vectors
from dmf.methods.novel_head import FittedHeads, NovelHead, adam, fitted
from dmf.methods.related import BaseImages, Related, related

SAMPLES, NETWORK = 1, 2
"""Streams of an episode's seed: its related images; dropout, and what an alignment draws."""
EMPTY_WAYS = "ways_without_related_images"
"""What a record counts: ways for which no base image is predicted (`Related.empty`)."""

AlignmentLoss = Callable[[Tensor, Tensor], Tensor]
"""From the features of related images [N, n, D] and of the support [N, K, D], the loss that aligns the network."""


ARC = NovelHead()
"""The released head."""


class NovelHeadMethod(FewShotMethod):
    """Fits a head (`dmf.methods.novel_head`) to each episode's support embeddings, by the trained, frozen network."""

    adapts = True
    reads_order = True

    def __init__(
        self,
        backbone: nn.Module,
        head: NovelHead = ARC,
        steps: int = 200,
        learning_rate: float = 1e-3,
        flattened: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head, self.steps, self.learning_rate, self.flattened = head, steps, learning_rate, flattened

    @staticmethod
    def head_of(config: NovelHeadConfig) -> NovelHead:
        """The head that `config` describes."""
        return NovelHead(config.novel_head, config.novel_scale, config.novel_margin)

    def embed(self, maps: Tensor) -> Tensor:
        """Feature maps [..., C, H, W] -> embeddings [..., D]."""
        return vectors(maps, self.flattened)

    def fit(self, support: Tensor, seeds: Sequence[int]) -> FittedHeads:
        """Heads fitted to support embeddings [B, N, K, D]; `seeds` [B] determine their initial parameters."""
        ways, shots, length = support.shape[1:]
        starts = (self.head.initial(seed, ways, length) for seed in seeds)
        start = [torch.stack(each).to(support) for each in zip(*starts, strict=True)]
        labels = torch.arange(ways, device=support.device).repeat_interleave(shots)
        return fitted(self.head, start, support.flatten(1, 2), labels, self.steps, self.learning_rate)


@dataclass(frozen=True)
class AlignmentSettings:
    """How copies of network and head are aligned; defaults as released."""

    iterations: int = 150
    learning_rate: float = 1e-3
    scale: float = 15.0
    """Of the head, once it is fitted."""
    related_classes: int = 10
    """Base classes per way."""
    related_images: int = 50
    """Most of their images per way and iteration."""

    @classmethod
    def of(cls, config: AlignmentConfig) -> Self:
        """The settings in a configuration."""
        return cls(
            config.alignment_iterations,
            config.alignment_learning_rate,
            config.aligned_scale,
            config.related_classes,
            config.related_images,
        )


class EpisodeCopy:
    """Copies of network and head that adapt to one episode, and their three optimisers.

    Adam keeps moments of its own for each kind of update: those of the alignment, which moves the network; those of the
    head's fit, which go on on related images and move the head; and those of the support, which move both.
    """

    def __init__(
        self,
        method: AlignedMethod,
        heads: FittedHeads,
        number: int,
        support: Tensor,
        alignment: AlignmentLoss,
    ) -> None:
        """For episode `number` of `heads`, whose support images are [N, K, channels, h, w]."""
        rate = method.settings.learning_rate
        self.embed, self.alignment = method.embed, alignment
        self.head = method.head.rescaled(method.settings.scale)
        self.ways, self.shots = support.shape[:2]
        self.support = support.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        self.labels = torch.arange(self.ways, device=support.device).repeat_interleave(self.shots)
        self.network = copy.deepcopy(method.backbone).requires_grad_(True)
        self.parameters, self.fitting = heads.one(number, rate)
        self.aligning = adam(self.network.parameters(), rate)
        self.tuning = adam([*self.network.parameters(), *self.parameters], rate)

    def features(self, images: Tensor) -> Tensor:
        """Images [P, channels, h, w] -> embeddings [P, D] by the copy as it is."""
        return self.embed(self.network(images.contiguous(memory_format=torch.channels_last)))

    def step(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One iteration on related images [N * n, channels, h, w], way by way; its three losses.

        Related images pass before the support, each with batch statistics of its own, so that the running statistics,
        which the other passes use, end as 70 % those of the support.
        """
        of_ways = self.labels[:: self.shots].repeat_interleave(len(images) // self.ways)
        self.network.train()
        base, own = (self.features(each).unflatten(0, (self.ways, -1)) for each in (images, self.support))
        aligned = self._update(self.aligning, self.alignment(base, own))
        self.network.eval()
        with torch.no_grad():
            base = self.features(images)
        of_base = self._update(self.fitting, self.head.loss(self.parameters, base[None], of_ways))
        self.network.train()
        own = self.features(self.support)[None]
        of_support = self._update(self.tuning, self.head.loss(self.parameters, own, self.labels))
        return aligned, of_base, of_support

    @torch.no_grad()
    def logits(self, query: Tensor) -> Tensor:
        """Query images [Q, channels, h, w] -> logits [Q, N]."""
        self.network.eval()
        return self.head.logits(self.parameters, self.features(query))

    @staticmethod
    def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()


class AlignedMethod(NovelHeadMethod):
    """Aligns copies of network and head, after the head's fit, to base images that resemble the episode's classes.

    The images of an episode pass through its own copy of the network in every iteration, so the feature maps of
    `FewShotMethod` are the images here. Episodes are adapted one after the other: batched over episodes, grouped
    convolutions take 1.4 times the CPU time of this loop, and `torch.vmap` twice. The network's dropout acts in its
    training mode; DropBlock's ramp starts over, so it drops next to nothing.
    """

    reads_base: ClassVar[bool] = True

    def __init__(
        self,
        backbone: nn.Module,
        head: NovelHead = ARC,
        steps: int = 200,
        learning_rate: float = 1e-3,
        flattened: bool = False,
        settings: AlignmentSettings = AlignmentSettings(),
    ) -> None:
        super().__init__(backbone, head, steps, learning_rate, flattened)
        self.settings = settings

    @abstractmethod
    def alignment(self, ways: int, length: int) -> AlignmentLoss:
        """The loss that aligns the copy for one episode of `ways` classes, from features of `length` numbers."""

    def maps(self, images: Tensor) -> Tensor:
        """The images, unchanged."""
        return images

    def base_features(self, images: Tensor) -> Tensor:
        return self.embed(super().maps(images))

    def image_table(self, maps: Tensor) -> Table:
        return {"images": maps, "embeddings": self.base_features(maps)}

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} needs base images; call adapt_each")

    def adapt_each(
        self,
        images: Table,
        support: Tensor,
        query: Tensor,
        seeds: Sequence[int],
        base: BaseImages | None = None,
        first: int = 0,
    ) -> Iterator[Adaptation]:
        assert base is not None
        heads = self.fit(images["embeddings"][support], seeds)
        predicted = self.head.predicted(heads.parameters, base.features)
        for number in range(first, len(support)):
            found = related(base.labels, predicted[number], support.shape[1], self.settings.related_classes)
            own, queries = images["images"][support[number]], images["images"][query[number]]
            with _drawing(derived_seed(seeds[number], NETWORK), own.device), uncached(own.device), torch.enable_grad():
                loss = self.alignment(support.shape[1], heads.parameters[0].shape[-1])
                episode = EpisodeCopy(self, heads, number, own, loss)
                for rows in self._samples(found, seeds[number]):
                    episode.step(base.images(rows))
                    alive()
                logits = episode.logits(queries)
            yield Adaptation(logits, {EMPTY_WAYS: found.empty})

    def _samples(self, found: Related, seed: int) -> Iterable[Tensor]:
        generator = torch.Generator().manual_seed(derived_seed(seed, SAMPLES))
        for _ in range(self.settings.iterations):
            yield found.sample(self.settings.related_images, generator)


@contextlib.contextmanager
def _drawing(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators within the block, and leave them as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
