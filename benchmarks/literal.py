"""DMF as the released code computes it, operation by operation, rewritten as a reference for the fast paths.

tests/test_literal.py checks it against the released code's numbers. Letters: B episodes, N way, K shot, Q queries,
C channels, H W space, G groups, P = B*Q*N pairs of a query and a class.

Two things that would only make it slower are left out: two DropBlock counters, and opening image files anew in
evaluation. The backbone is dmf's, in contiguous layout.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchdiffeq import odeint
from torchvision import transforms
from torchvision.ops import deform_conv2d

from dmf.config import DMFConfig
from dmf.data.augment import ERASED_AREA, ERASED_ASPECT, ERASED_FILL, ERASING_TRIES, NORMALISATIONS, Augmentation
from dmf.data.sets import ImageSplit
from dmf.episodes import Episode, EpisodeIndices
from dmf.machine.precision import pinned
from dmf.methods.base import FewShotMethod, Losses
from dmf.methods.dmf.alignment import Alignment
from dmf.methods.dmf.model import DMF

SAMPLING_TAPS = 9


class LiteralMetaFilter(nn.Module):
    """Generates a filter for each pair, sharing nothing between pairs with the same query or the same class."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.offset_conv = nn.Conv2d(2 * channels, 2 * SAMPLING_TAPS, 5, padding=2, bias=False)
        self.filter_conv = nn.Conv2d(channels, groups, 3, padding=1, bias=False)

    def forward(self, classes: Tensor, query: Tensor) -> Tensor:
        """Pairs of maps [P, C, H, W] and [P, C, H, W] -> filters in (0, 1), [P, G, H, W]."""
        offsets = self.offset_conv(torch.cat([query, classes], dim=1))
        return deform_conv2d(classes, offsets, self.filter_conv.weight, padding=(1, 1)).sigmoid()


class LiteralDMF(FewShotMethod):
    """The released model for 1x1 filters. It can load `DMF`'s state dict, and the reverse."""

    def __init__(self, backbone: nn.Module, channels: int, base_classes: int, groups: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.groups = groups
        self.meta_filter = LiteralMetaFilter(channels, groups)
        self.global_classifier = nn.Conv2d(channels, base_classes, 1)

    @classmethod
    def like(cls, model: DMF) -> Self:
        """A copy of `model` in contiguous layout, with its device and type.

        Raises ValueError if `model` differs from the released one in anything but its backbone.
        """
        choices = (model.alignment, model.class_weight, model.score_border, model.global_input)
        if choices != (Alignment(), "normalised", 1, "query"):
            raise ValueError(f"the literal version supports only the released code's settings, got {choices}")
        base_classes, channels = model.global_classifier.weight.shape[:2]
        made = cls(copy.deepcopy(model.backbone), channels, base_classes, model.groups)
        made.load_state_dict(model.state_dict())
        made.train(model.training)
        return made.to(model.global_classifier.weight).to(memory_format=torch.contiguous_format)

    def maps(self, images: Tensor) -> Tensor:
        """Images [P, 1 or 3, h, w] -> feature maps [P, C, H, W], in PyTorch's default layout."""
        return self.backbone(images.contiguous())

    def score(self, support: Tensor, query: Tensor) -> Tensor:
        """Logits [B, Q, N], the mean of the score map including its border."""
        return self.score_map(*self.pairs(support, query)).mean((-2, -1))

    def losses_of_maps(self, maps: Episode) -> Losses:
        classes, queries = self.pairs(maps.support, maps.query)
        scores = self.score_map(classes, queries).flatten(0, 1)
        # A product with the one-hot target selects each query's map from its pairs.
        own = F.one_hot(maps.targets, classes.shape[2]).to(queries)[:, :, :, None]
        seen = (queries.flatten(3).transpose(2, 3) @ own).view_as(maps.query)
        logits = self.global_classifier(seen.flatten(0, 1))
        few_shot = _cross_entropy(scores, maps.targets.flatten())
        global_loss = _cross_entropy(logits, maps.labels.flatten())
        settings = DMFConfig()
        total = settings.few_shot_weight * few_shot + settings.global_weight * global_loss
        return Losses(total, {"few_shot": few_shot, "global": global_loss})

    def pairs(self, support: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """Class maps and query maps of all pairs, both [B, Q, N, C, H, W] and copied."""
        classes = support.mean(2)
        ways, queries = classes.shape[1], query.shape[1]
        by_class = classes[:, :, None].repeat(1, 1, queries, 1, 1, 1)
        by_query = query[:, None].repeat(1, ways, 1, 1, 1, 1)
        return by_class.transpose(1, 2).contiguous(), by_query.transpose(1, 2).contiguous()

    def score_map(self, classes: Tensor, queries: Tensor) -> Tensor:
        """Class maps and query maps [B, Q, N, C, H, W] -> scores with a border of zeros [B, Q, N, H+2, W+2]."""
        pairs, shape = classes.shape[:3], classes.shape[3:]
        weights = F.normalize(classes, dim=3).flatten(0, 2).mean((-2, -1), keepdim=True)  # [P, C, 1, 1]
        filters = self.meta_filter(classes.flatten(0, 2), queries.flatten(0, 2))
        aligned = self.align(queries.flatten(0, 2), filters)
        together = aligned.reshape(1, pairs.numel() * shape[0], *shape[1:])
        scores = F.conv2d(together, weights, padding=1, groups=pairs.numel())
        return scores.view(*pairs, *scores.shape[2:])

    def align(self, queries: Tensor, filters: Tensor) -> Tensor:
        """One rk4 step over t in [0, 1]. The filters are part of the state, with derivative zero."""

        def rate(_: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            maps, constant = state
            return F.relu(self.filtered(maps, constant)), torch.zeros_like(constant)

        times = torch.tensor([0.0, 1.0], dtype=queries.dtype, device=queries.device)
        return odeint(rate, (queries, filters), times, method="rk4")[0][1]

    def filtered(self, maps: Tensor, filters: Tensor) -> Tensor:
        """`maps` [P, C, H, W] times `filters` [P, G, H, W] per group and position, as a batch of [C/G, 1] x [1, 1]."""
        pairs, channels, height, width = maps.shape
        positions, members = height * width, channels // self.groups
        columns = F.unfold(maps, 1).view(pairs, self.groups, members, positions)
        columns = columns.transpose(2, 3).reshape(-1, members, 1)
        products = torch.bmm(columns, filters.reshape(-1, 1, 1))
        products = products.view(pairs, self.groups, positions, members).transpose(2, 3)
        return products.reshape(pairs, channels, height, width)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of logit maps [P, classes, H, W] with one target per map [P], averaged over maps and positions."""
    logs = F.log_softmax(logits, dim=1)
    one_hot = F.one_hot(targets, logits.shape[1]).to(logits)[:, :, None, None]
    return -(one_hot * logs).sum(1).mean()


@torch.inference_mode()
def episode_logits(
    method: FewShotMethod, split: ImageSplit, bank: EpisodeIndices, augment: Augmentation, device: str = "cpu"
) -> Tensor:
    """Logits [episodes, Q, N] in float32, with every episode forwarded separately; the method's mode is not changed."""
    logits = []
    for index in range(len(bank)):
        rows = bank[index : index + 1]
        support, query = (
            augment.evaluate(split.pixels(part.flatten())).unflatten(0, part.shape)
            for part in (rows.support, rows.query)
        )
        targets = rows.targets.to(device)
        with pinned("fp32"):
            logits.append(method(Episode(support, query, targets, targets)).cpu())
    return torch.cat(logits)


class Erasing:
    """Fills a rectangle of random area and aspect with a given probability, after normalisation."""

    def __init__(self, probability: float = 0.5) -> None:
        self.probability = probability

    def __call__(self, image: Tensor) -> Tensor:
        """Erase in `image` [3, S, S], in place."""
        if random.uniform(0, 1) >= self.probability:
            return image
        _, height, width = image.shape
        for _ in range(ERASING_TRIES):
            area = random.uniform(*ERASED_AREA) * height * width
            aspect = random.uniform(*ERASED_ASPECT)
            tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if tall < height and wide < width:
                top, left = random.randint(0, height - tall), random.randint(0, width - wide)
                image[:, top : top + tall, left : left + wide] = torch.tensor(ERASED_FILL)[:, None, None]
                return image
        return image


def training_transform(side: int = 84) -> transforms.Compose:
    """The transform from a PIL image to the backbone's training input."""
    mean, std = NORMALISATIONS["imagenet"]
    return transforms.Compose(
        [
            transforms.RandomCrop(side, padding=8),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
            Erasing(),
        ]
    )


class EpisodeFiles(Dataset):
    """Episodes of image files; getting an item opens and transforms all images of one episode."""

    def __init__(self, files: Sequence[Path], episodes: EpisodeIndices, transform: transforms.Compose) -> None:
        self.files, self.episodes, self.transform = list(files), episodes, transform

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Support [N*K, 3, S, S], query [Q, 3, S, S], targets [Q]."""
        support, query = (
            torch.stack([self._image(row) for row in rows[index].flatten().tolist()])
            for rows in (self.episodes.support, self.episodes.query)
        )
        return support, query, self.episodes.targets[index]

    def _image(self, row: int) -> Tensor:
        with Image.open(self.files[row], formats=("JPEG", "PNG")) as image:
            return self.transform(image.convert("RGB"))


def training_loader(
    files: Sequence[Path], episodes: EpisodeIndices, episodes_per_step: int, workers: int, side: int = 84
) -> DataLoader:
    """A loader of batches of `episodes_per_step` episodes, with `workers` processes."""
    return DataLoader(
        EpisodeFiles(files, episodes, training_transform(side)),
        batch_size=episodes_per_step,
        num_workers=workers,
        drop_last=True,
    )
