"""Training transforms for a whole batch at once, on the device of the generator that they draw from.

The released recipe, in its order: random crop, colour jitter, flip, normalisation, random erasing. Each step is a
function of images and drawn numbers; only `Augmentation.train` draws.

Letters: n images, S side, C channels, p crop padding.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dmf.config import AugmentationConfig, DataConfig

if TYPE_CHECKING:
    from dmf.data.sets import ImageSplit

Colour = tuple[float, float, float]

NORMALISATIONS: dict[str, tuple[Colour, Colour]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of red, green and blue in [0, 1]; a grey image takes the mean of the three."""
GREY: Colour = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue, torchvision's."""
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
JITTER_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

ERASED_AREA = (0.02, 0.4)
"""Least and greatest area of an erased rectangle, as a fraction of the image's."""
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Least and greatest height / width, drawn uniformly (not log-uniformly, unlike torchvision)."""
ERASED_FILL: Colour = (0.4914, 0.4822, 0.4465)
"""Written after normalisation, as the released code does; a grey image takes the mean of the three."""
ERASING_TRIES = 100

RESIZED_AREA = (0.08, 1.0)
RESIZED_ASPECT = (3 / 4, 4 / 3)
"""Width / height, drawn log-uniformly."""
RESIZED_TRIES = 10


Stored = Tensor | list[Tensor]
"""Images as read: uint8 [n, S, S, C], or n of any size [h, w, C]."""


class Augmentation:
    """From stored images to what a backbone sees: `train` with the recipe, `evaluate` with the normalisation only."""

    def __init__(self, config: AugmentationConfig, data: DataConfig) -> None:
        self.config = config
        self.image_size = data.image_size
        mean, std = NORMALISATIONS[data.normalisation]
        self.mean = per_channel(mean, data.channels)
        self.std = per_channel(std, data.channels)
        self.fill = per_channel(ERASED_FILL, data.channels)

    def train(self, split: ImageSplit, indices: Tensor, generator: Generator) -> Tensor:
        """Read and transform the images `indices` [n] of `split` -> float32 [n, C, S, S] on `generator.device`."""
        return self.transform(self.read(split, indices), generator)

    def read(self, split: ImageSplit, indices: Tensor) -> Stored:
        """The images `indices` [n] of `split`, as `transform` takes them. Nothing is drawn, nothing leaves the CPU.

        crop="resized" reads images in full size; a ValueError says when `split` was opened without them.
        """
        if self.config.crop != "resized":
            return split.pixels(indices)
        if not split.full_size:
            raise ValueError(
                f"crop='resized' needs the {split.name} images in full size and got images of {self.image_size}x"
                f"{self.image_size}; open the data with full_size_training=True or take crop='padded'"
            )
        return [split.full(index) for index in indices.tolist()]

    @torch.no_grad()
    def transform(self, stored: Stored, generator: Generator) -> Tensor:
        """Transform images that were read -> float32 [n, C, S, S] on `generator.device`."""
        config = self.config
        pixels = self._cropped(stored, generator)
        # Brightness, contrast and saturation do not depend on where a pixel is: flipping bytes first is the same, and
        # cheaper.
        if config.flip:
            turned = uniform((len(pixels), 1, 1, 1), 0, 1, generator) < 0.5
            pixels = torch.where(turned, pixels.flip(2), pixels)
        images = planar(pixels)
        if config.color_jitter:
            images = color_jitter(images, config.color_jitter, generator)
        images = self._normalised(images)
        if config.erasing:
            images = erase(images, erased_boxes(images, config.erasing, generator), self.fill)
        return images

    @torch.no_grad()
    def evaluate(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 `pixels` [n, S, S, C] -> float32 [n, C, S, S], on the same device."""
        return self._normalised(planar(pixels))

    def _cropped(self, stored: Stored, generator: Generator) -> Tensor:
        if isinstance(stored, list):
            return resized_crops(stored, (len(self.mean), self.image_size, self.image_size), generator)
        pixels = stored.to(generator.device, non_blocking=True)
        if self.config.crop == "padded" and self.config.crop_padding:
            pixels = padded_crops(pixels, self.config.crop_padding, generator)
        return pixels

    def _normalised(self, images: Tensor) -> Tensor:
        """Normalise float32 `images` [n, C, S, S] in [0, 1], in place."""
        return images.sub_(self.mean.to(images.device)).div_(self.std.to(images.device))


def per_channel(colour: Colour, channels: int) -> Tensor:
    """`colour` as [C, 1, 1]; one channel takes the mean of the three."""
    values = torch.tensor(colour)
    return (values if channels == 3 else values.mean()).reshape(channels, 1, 1)


def planar(pixels: Tensor) -> Tensor:
    """[n, S, S, C] in 0..255 -> float32 [n, C, S, S] in [0, 1], contiguous and never the memory of `pixels`."""
    images = torch.empty(pixels.permute(0, 3, 1, 2).shape, device=pixels.device)
    return images.copy_(pixels.permute(0, 3, 1, 2)).mul_(1 / 255)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Random float32 numbers in [low, high), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def below(bounds: Tensor, generator: Generator) -> Tensor:
    """One random integer per entry of `bounds`, from 0 to the bound (excluded)."""
    return (torch.rand(bounds.shape, generator=generator, device=generator.device) * bounds).long()


def padded_crops(pixels: Tensor, padding: int, generator: Generator) -> Tensor:
    """One random window [S, S] of each image with `padding` zeros on every side: [n, S, S, C], as `pixels`."""
    count, side = pixels.shape[:2]
    padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    corners = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=generator.device)
    rows, columns = corners + torch.arange(side, device=generator.device)
    images = torch.arange(count, device=generator.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def resized_crops(images: list[Tensor], shape: tuple[int, int, int], generator: Generator) -> Tensor:
    """One random window of each image [h, w, C], of random area and aspect, resized: float32 [n, S, S, C] in 0..255.

    torchvision's RandomResizedCrop with antialiasing; `shape` is (C, S, S). Images differ in size, hence the loop.
    """
    side = shape[-1]
    crops = torch.empty((len(images), *shape), device=generator.device)
    for crop, image in zip(crops, images, strict=True):
        top, left, height, width = resized_window(image.shape[0], image.shape[1], generator)
        window = image[top : top + height, left : left + width].to(generator.device)
        planes = window.permute(2, 0, 1)[None].float()
        crop.copy_(F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)[0])
    return crops.permute(0, 2, 3, 1)


def resized_window(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of RandomResizedCrop's window in an image; after ten misfits a central one."""
    areas = uniform((RESIZED_TRIES,), *RESIZED_AREA, generator).tolist()
    logs = uniform((RESIZED_TRIES,), math.log(RESIZED_ASPECT[0]), math.log(RESIZED_ASPECT[1]), generator).tolist()
    place = torch.rand(2, generator=generator, device=generator.device).tolist()
    for area, log in zip(areas, logs, strict=True):
        crop_width = round(math.sqrt(area * height * width * math.exp(log)))
        crop_height = round(math.sqrt(area * height * width / math.exp(log)))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(place[0] * (height - crop_height + 1)), int(place[1] * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width = min(width, round(height * RESIZED_ASPECT[1]))
    crop_height = min(height, round(width / RESIZED_ASPECT[0]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def color_jitter(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation of `images` [n, C, S, S] in [0, 1], in a random order for each image.

    The three factors of an image are uniform in [1 - strength, 1 + strength]. Works in place.
    """
    count = len(images)
    orders = torch.tensor(JITTER_ORDERS, device=images.device)
    order = orders[torch.randint(len(JITTER_ORDERS), (count,), generator=generator, device=generator.device)]
    factors = uniform((count, 3), 1 - strength, 1 + strength, generator)
    for step in range(3):
        kind = order[:, step]
        images = adjust(images, kind, factors.gather(1, kind[:, None]).squeeze(1))
    return images


def adjust(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Apply adjustment `kind` [n] with `factor` [n] to `images` [n, C, S, S] in [0, 1], in place.

    All three blend the image with something of no brightness, contrast or saturation, and clamp (torchvision):

        x <- clamp(factor * x + (1 - factor) * r, 0, 1),    r = 0 | the mean of the image's grey | its grey,

    so that r = a * grey + b with (a, b) = (0, 0) | (0, mean) | (1, 0) does images of all kinds in one go. The grey of a
    one-channel image is the image: saturation leaves it.
    """
    grey = luminance(images)
    rest = 1 - factor
    slope = torch.where(kind == SATURATION, rest, 0)
    level = torch.where(kind == CONTRAST, rest * grey.mean(dim=(1, 2, 3)), 0)
    reference = grey * slope[:, None, None, None] + level[:, None, None, None]
    return images.mul_(factor[:, None, None, None]).add_(reference).clamp_(0, 1)


def luminance(images: Tensor) -> Tensor:
    """Grey [n, 1, S, S] of `images` [n, C, S, S]."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, dim=1)
    grey: Tensor = (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])
    return grey


def erased_boxes(images: Tensor, probability: float, generator: Generator) -> Tensor:
    """Top, left, height and width of the rectangle to erase in each of `images` [n, C, S, S]: int64 [n, 4].

    Area and aspect are drawn until the rectangle is smaller than the image, up to 100 times; height and width are 0
    where nothing is erased.
    """
    count, _, side, _ = images.shape
    area = uniform((count, ERASING_TRIES), *ERASED_AREA, generator) * side * side
    aspect = uniform((count, ERASING_TRIES), *ERASED_ASPECT, generator)
    heights, widths = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (heights < side) & (widths < side)
    first = fits.int().argmax(dim=1, keepdim=True)
    chosen = fits.any(dim=1) & (uniform((count,), 0, 1, generator) < probability)
    height = heights.gather(1, first).squeeze(1) * chosen
    width = widths.gather(1, first).squeeze(1) * chosen
    return torch.stack((below(side - height + 1, generator), below(side - width + 1, generator), height, width), dim=1)


def erase(images: Tensor, boxes: Tensor, fill: Tensor) -> Tensor:
    """`images` [n, C, S, S] with `fill` [C, 1, 1] in the rectangles `boxes` [n, 4]."""
    top, left, height, width = boxes[:, :, None].unbind(1)
    place = torch.arange(images.shape[-1], device=images.device)
    rows = (place >= top) & (place < top + height)
    columns = (place >= left) & (place < left + width)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, fill.to(images.device), images)
