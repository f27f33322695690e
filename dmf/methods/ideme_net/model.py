"""IDeMe-Net (Chen et al., "Image deformation meta-networks for one-shot learning", CVPR 2019)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dmf.backbones import build_backbone
from dmf.episodes import Episode
from dmf.machine.precision import full_precision, wide
from dmf.methods.base import FewShotMethod, Losses, Table
from dmf.methods.heads import embeddings, episode_cross_entropy, squared_distances
from dmf.methods.ideme_net.config import IDeMeNetConfig
from dmf.methods.ideme_net.deformation import OneBranch, TwoBranches
from dmf.methods.ideme_net.frozen import folded
from dmf.methods.ideme_net.fusion import mixed
from dmf.methods.ideme_net.gallery import Gallery

PIXELS_AT_ONCE = 16 * 224**2
"""Size of a chunk of images. A chunk's activations are the only ones of the deformation that are kept at a time."""
PIXELS_KEPT = 160 * 224**2
"""Deformed images whose activations in the embedding are kept for the way back; those of others are computed again."""
GALLERY_CHUNK = 128
"""Images of the gallery that pass through the embedding at a time, in the order of their classes, as released: in the
released protocol, each chunk is normalised by its own statistics."""


@dataclass(frozen=True)
class Drawn:
    """How n deformed images are made: that of row i from a support image and an image of the gallery."""

    support: Tensor
    """[n]: rows of the support images, flattened."""
    gallery: Tensor
    """[n]: rows of the gallery."""
    support_flipped: Tensor
    """[n], bool"""
    gallery_flipped: Tensor
    """[n], bool"""

    def to(self, device: torch.device) -> Drawn:
        """The same on a device."""
        return Drawn(*(each.to(device) for each in (self.support, self.gallery, *self._flips)))

    @property
    def _flips(self) -> tuple[Tensor, Tensor]:
        return self.support_flipped, self.gallery_flipped

    def chunks(self, rows: int) -> Iterator[Drawn]:
        """The same in chunks of at most `rows`."""
        parts = (each.split(rows) for each in (self.support, self.gallery, *self._flips))
        yield from (Drawn(*part) for part in zip(*parts, strict=True))


class IDeMeNet(FewShotMethod):
    """Logits are -scale * |z - m|^2, where m is the mean embedding of a class's support images and deformed images.

    A deformed image is made of a support image A, flipped in half of the cases, and an image B of the gallery, flipped
    likewise, which is drawn from the `candidates` that are nearest to the mean of the class's support embeddings: in
    each cell of a grid it is w A + (1 - w) B, with weights w that the deformation network predicts from A and B. They
    may be any numbers, so a deformed image may leave the range of colours. A negative scale, which nothing forbids,
    turns the nearest into the farthest.

    Rounds alternate. Odd ones train the deformation network and the scale by the cross-entropy of the queries, even
    ones the embedding and a classifier of the base classes by that of all support and deformed images. Batch
    normalisation is never in training mode. The gallery's embeddings are those of the weights at the start of the
    epoch, or of the evaluation; in the released protocol, of a pass in training mode at the start of the round.

    Feature maps of `FewShotMethod` are the images here, since deformed images have to be forwarded in each episode. In
    training, draws come from PyTorch's generator; a test draws from its episode's seed.
    """

    adapts = True
    needs_image_shape: ClassVar[bool] = True

    kept_features: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        deformation: OneBranch | TwoBranches,
        channels: int,
        gallery: Gallery,
        deformed: int = 7,
        candidates: int = 15,
        flips: bool = True,
        trains_embedding: bool = False,
        released: bool = False,
    ) -> None:
        super().__init__()
        self.backbone, self.deformation, self.gallery = backbone, deformation, gallery
        classes, per_class = gallery.pixels.shape[:2]
        self.classifier = nn.Linear(channels, classes)
        self.scale = nn.Parameter(torch.ones(()))
        self.deformed, self.candidates, self.flips = deformed, candidates, flips
        self.reads_order = deformed > 0  # draws go to places
        self.trains_embedding, self.released = trains_embedding, released
        if released:
            self.register_buffer("kept_features", torch.zeros(classes, per_class, channels))
        for part in (self.backbone, self.classifier):
            part.requires_grad_(trains_embedding)
        self.deformation.requires_grad_(not trains_embedding and deformed > 0)
        self.scale.requires_grad_(not trains_embedding or released)
        self._made: dict[str, tuple[object, Any]] = {}
        self._stretch = 0
        self.train()

    @classmethod
    def build(
        cls, backbone: nn.Module, config: IDeMeNetConfig, base_classes: int, image_shape: tuple[int, int, int]
    ) -> Self:
        """Build the method that `config` describes, for images [C, S, S] of that shape, with an empty gallery."""
        deformation: OneBranch | TwoBranches
        channels, size, _ = image_shape
        cells = config.deform_grid**2
        if config.deform_branches == 1:
            deformation = OneBranch(channels, size, cells, config.deform_blocks)
        else:
            ours, theirs = (build_backbone(config, channels) for _ in range(2))
            deformation = TwoBranches(ours, theirs, config.channels, cells)
        return cls(
            backbone,
            deformation,
            config.channels,
            Gallery(base_classes, config.gallery_per_class, channels, size),
            config.deformed_images,
            config.gallery_candidates,
            config.deform_flips,
            config.trains_embedding,
            config.protocol == "released",
        )

    def train(self, mode: bool = True) -> Self:
        """As in `nn.Module`, but both networks stay in evaluation mode. The gallery's embeddings are renewed."""
        super().train(mode)
        self.backbone.eval()
        self.deformation.eval()
        self._stretch += 1
        return self

    def maps(self, images: Tensor) -> Tensor:
        """The images, unchanged."""
        return images

    def embed(self, images: Tensor) -> Tensor:
        """Images [n, C, S, S] -> embeddings [n, D]."""
        return embeddings(self.backbone(images.contiguous(memory_format=torch.channels_last)))

    def embed_all(self, images: Tensor) -> Tensor:
        """Images [..., C, S, S] -> embeddings [..., D], chunk by chunk, without gradients."""
        rows = _rows(images, PIXELS_AT_ONCE)
        with torch.no_grad():
            found = torch.cat([self.embed(chunk) for chunk in images.flatten(0, -4).split(rows)])
        return found.view(*images.shape[:-3], -1)

    def image_table(self, maps: Tensor) -> Table:
        return {"images": maps, "embeddings": self.embed(maps)}

    def adapt(self, images: Table, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        pixels, found = images["images"], images["embeddings"]
        return self._logits(pixels[support], found[support], found[query], seeds)

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """As in `FewShotMethod`; episode b of the batch draws from seed b."""
        return self._logits(support, self.embed_all(support), self.embed_all(query), range(len(support)))

    def _logits(self, images: Tensor, support: Tensor, query: Tensor, seeds: Sequence[int]) -> Tensor:
        """Support images, and embeddings of support and query -> logits."""
        with torch.no_grad():
            deformed = self.embed_deformed(images, self.drawn(self.nearest(support), images.shape[2], seeds))
            return self.score_embeddings(support, deformed, query)

    def score_embeddings(self, support: Tensor, deformed: Tensor, query: Tensor) -> Tensor:
        """Embeddings [B, N, K, D], [B, N, K * A, D] and [B, Q, D] -> logits [B, Q, N]."""
        with full_precision(query.device):
            return -self.scale * squared_distances(query, torch.cat([support, deformed], 2).mean(2))

    def nearest(self, support: Tensor) -> Tensor:
        """Embeddings [B, N, K, D] -> each class's candidates [B, N, n], rows of the gallery, nearest first."""
        gallery = self.gallery_features()
        with torch.no_grad(), full_precision(support.device):
            centres = support.mean(2)
            squares = centres.square().sum(-1, keepdim=True) + gallery.square().sum(-1)
            distances = self.scale * (squares - 2 * centres @ gallery.T)
            nearest: Tensor = distances.argsort(dim=-1, stable=True)[..., : self.candidates]
        return nearest

    def drawn(self, candidates: Tensor, shots: int, seeds: Sequence[int] | None = None) -> Drawn:
        """Draw the deformed images of episodes with candidates [B, N, n]: B * N * K * A rows, image by image.

        Without `seeds`, one of each episode's, they come from PyTorch's generator.
        """
        episodes, ways, many = candidates.shape
        if seeds is None:
            seeds = torch.randint(2**32, (episodes,)).tolist()
        size = ways * shots * self.deformed
        flipped, picks, flipped_too = np.empty((3, episodes, size), np.int64)
        for episode, seed in enumerate(seeds):
            random = np.random.RandomState(np.random.SeedSequence(seed).generate_state(4))
            flipped[episode], picks[episode] = draws(random, size, many)
            flipped_too[episode] = random.randint(0, 2, size)
        support = torch.arange(episodes * ways * shots).repeat_interleave(self.deformed)
        rows = torch.from_numpy(picks).view(episodes, ways, -1).to(candidates.device)
        flips = ((torch.from_numpy(each.reshape(-1)) == 0) & self.flips for each in (flipped, flipped_too))
        return Drawn(support, candidates.gather(2, rows).flatten(), *flips).to(candidates.device)

    def deformed_images(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Support images [m, C, S, S] -> deformed images [n, C, S, S]."""
        ours, theirs = self.pairs(images, drawn)
        return mixed(ours, theirs, self.deformation(ours, theirs).to(ours.dtype))

    def pairs(self, images: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor]:
        """The two images of which each deformed image is made, [n, C, S, S] each, flipped where it was drawn."""
        ours = _flipped(images[drawn.support], drawn.support_flipped)
        return ours, _flipped(self.gallery.images(drawn.gallery).to(images.dtype), drawn.gallery_flipped)

    def embed_deformed(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Support images [B, N, K, C, S, S] -> embeddings of their deformed images [B, N, K * A, D].

        Gradients reach the deformation network only. Its activations are computed again on the way back, chunk by
        chunk, because they take more room than the embedding's and less time; those of the embedding are kept for
        PIXELS_KEPT.
        """
        flat, found = images.flatten(0, 2), []
        learning = torch.is_grad_enabled() and self.deformation.to_weights.weight.requires_grad
        embed = self._frozen() if learning else self.embed
        rows, room = _rows(images, PIXELS_AT_ONCE), _rows(images, PIXELS_KEPT) if learning else 0
        if self.deformed == 0:
            return images.new_zeros(*images.shape[:2], 0, self.classifier.in_features)
        for chunk in drawn.chunks(rows):
            if not learning:
                found.append(embed(self.deformed_images(flat, chunk)))
            elif (room := room - len(chunk.support)) >= 0:
                found.append(embed(_again(self.deformed_images, flat, chunk)))
            else:
                found.append(_again(lambda *given: embed(self.deformed_images(*given)), flat, chunk))
        return torch.cat(found).view(*images.shape[:2], -1, self.classifier.in_features)

    def losses_of_maps(self, maps: Episode) -> Losses:
        """Losses from an episode of images."""
        if self.trains_embedding:
            classes = maps.labels.new_zeros(maps.support.shape[:2]).scatter(1, maps.targets, maps.labels)
            query = self.embed_all(maps.query) if self.released else None
            return self.embedding_losses(maps.support, classes, query, maps.targets)
        embedded = self.embed_all(maps.support), self.embed_all(maps.query)
        return self.deformation_losses(maps.support, *embedded, maps.targets)

    def deformation_losses(self, images: Tensor, support: Tensor, query: Tensor, targets: Tensor) -> Losses:
        """Losses of an odd round, from support images, embeddings of support and query, and the queries' classes."""
        drawn = self.drawn(self.nearest(support), images.shape[2], self._seeds(len(images)))
        logits = self.score_embeddings(support, self.embed_deformed(images, drawn), query)
        loss = episode_cross_entropy(logits, targets)
        return Losses(loss, {"few_shot": loss})

    def embedding_losses(
        self, images: Tensor, classes: Tensor, query: Tensor | None = None, targets: Tensor | None = None
    ) -> Losses:
        """Losses of an even round, from support images of base classes [B, N].

        `query` [B, Q, D] and `targets` [B, Q] are for the scale, in the released protocol. Images come in chunks, and
        the gradient of each is computed at once, so that only one chunk's activations are kept.
        """
        flat, shots = images.flatten(0, 2), images.shape[2]
        labels = classes.repeat_interleave(shots, 1).flatten()
        rows = _rows(images, PIXELS_AT_ONCE)
        learnt = _InChunks([*self.backbone.parameters(), *self.classifier.parameters()])
        weight = 1 / (len(flat) * (1 + self.deformed))

        def learn(chunk: Tensor, its_labels: Tensor) -> Tensor:
            with torch.enable_grad():
                found = self.embed(chunk)
                loss = F.cross_entropy(wide(self.classifier(found)), its_labels, reduction="sum")
            learnt.add(weight * loss)
            return found.detach()

        chunks = zip(flat.split(rows), labels.split(rows), strict=True)
        support = torch.cat([learn(*chunk) for chunk in chunks]).unflatten(0, images.shape[:3])
        drawn = self.drawn(self.nearest(support), shots, self._seeds(len(images)))
        found = [support.new_zeros(0, support.shape[-1])]
        for part in drawn.chunks(rows) if self.deformed else ():
            with torch.no_grad():
                made = self.deformed_images(flat, part)
            found.append(learn(made, labels[part.support]))
        loss = learnt.loss()
        if query is None or targets is None:
            return Losses(loss, {"classification": loss})
        deformed = torch.cat(found).view(*images.shape[:2], -1, support.shape[-1])
        few_shot = episode_cross_entropy(self.score_embeddings(support, deformed, query), targets)
        return Losses(loss + few_shot, {"classification": loss, "few_shot": few_shot})

    def _seeds(self, episodes: int) -> Sequence[int] | None:
        """What episodes draw from in a step; in evaluation mode, each as if it were alone."""
        return None if self.training else [0] * episodes

    def gallery_features(self) -> Tensor:
        """Embeddings [G, D] of the gallery's images."""
        if self.released:
            return self.kept_features.flatten(0, 1)
        found: Tensor = self._make("gallery", lambda: torch.cat(list(self._gallery_pass())))
        return found

    @torch.no_grad()
    def _gallery_pass(self) -> Iterator[Tensor]:
        chunks = list(torch.arange(len(self.gallery), device=self.scale.device).split(GALLERY_CHUNK))
        if len(chunks) > 1 and len(chunks[-1]) == 1:  # of one image, batch normalisation has no statistics
            chunks[-2:] = [torch.cat(chunks[-2:])]
        for rows in chunks:
            yield self.embed(self.gallery.images(rows))

    @torch.no_grad()
    def keep_gallery_features(self) -> None:
        """The released protocol's pass: batch normalisation is in training mode, and its statistics move."""
        norms = [each for each in self.backbone.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
        try:
            self.kept_features.copy_(torch.cat(list(self._gallery_pass())).view_as(self.kept_features))
        finally:
            for norm in norms:
                norm.eval()

    def _frozen(self) -> Callable[[Tensor], Tensor]:
        """`embed` with the weights of this moment, for gradients with respect to images only."""
        network = self._make("frozen", lambda: folded(self.backbone, self.gallery.images(torch.zeros(1).long())))
        return lambda images: embeddings(network(images.contiguous(memory_format=torch.channels_last)))

    def _make(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` returns, which is kept until the embedding's weights change.

        If they are trained, it is kept until the next call of `train` or `eval`, and in training no change ends it: an
        epoch begins with such a call. (PyTorch's fused optimisers do not count versions, as other changes do.)
        """
        weights = [*self.backbone.parameters(), *self.backbone.buffers(), self.gallery.pixels]
        learning = self.trains_embedding and self.training
        sign = (
            [(each.data_ptr(), 0 if learning else each._version) for each in weights],
            torch.is_autocast_enabled(self.scale.device.type),
            self._stretch if self.trains_embedding else 0,
        )
        if name not in self._made or self._made[name][0] != sign:
            self._made[name] = sign, make()
        return self._made[name][1]


def draws(random: np.random.RandomState, rows: int, candidates: int) -> tuple[list[int], list[int]]:
    """Of each row in turn, 0 where the support image is flipped, and which of the candidates it is mixed with."""
    drawn = [(random.randint(0, 2), random.randint(0, candidates)) for _ in range(rows)]
    return [flip for flip, _ in drawn], [pick for _, pick in drawn]


def _flipped(images: Tensor, where: Tensor) -> Tensor:
    """Mirror the images [n, C, h, w] `where` [n] says so."""
    return torch.where(where[:, None, None, None], images.flip(-1), images)


def _rows(images: Tensor, pixels: int) -> int:
    """How many images [..., h, w] have as many `pixels`; at least one."""
    return max(1, pixels // (images.shape[-1] * images.shape[-2]))


def _again(function: Callable[..., Tensor], *arguments: object) -> Tensor:
    """Call a function without keeping what its gradient needs; that is computed again on the way back."""
    result: Tensor = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


class _InChunks:
    """A sum of losses, of each of which the gradient is computed when it is added."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.gradients = [torch.zeros_like(each) for each in parameters]
        self.total: Tensor | None = None

    def add(self, loss: Tensor) -> None:
        """Add a loss, and free its graph."""
        for total, each in zip(self.gradients, torch.autograd.grad(loss, self.parameters), strict=True):
            total += each
        self.total = loss.detach() if self.total is None else self.total + loss.detach()

    def loss(self) -> Tensor:
        """The sum; its gradient is known already."""
        assert self.total is not None
        loss: Tensor = _Known.apply(self.total, self.gradients, *self.parameters)
        return loss


class _Known(torch.autograd.Function):
    """A value of which the gradients are known."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *(gradient * each for each in ctx.gradients))
