"""Training transforms of whole batches, on one device.

They follow the released code, in its order: random crop, colour jitter, flip, normalisation, random erasing. Nothing
here waits for a GPU: constants are there from the start, and what decides about sizes is drawn on the CPU.

Letters: n images, S side, C channels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
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
    "mini_imagenet": ((0.47214064, 0.45330829, 0.40996128), (0.27718385, 0.26775041, 0.28449041)),
}
"""Mean and standard deviation of red, green and blue, for values in [0, 1]; grey images use the mean of the three."""
CPU = torch.device("cpu")
GREY: Colour = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in grey, as in torchvision."""
BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2
JITTER_ORDERS = ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))

ERASED_AREA = (0.02, 0.4)
"""Smallest and largest area of an erased rectangle, as a fraction of the image."""
ERASED_ASPECT = (0.3, 1 / 0.3)
"""Smallest and largest height / width, drawn uniformly (torchvision draws log-uniformly)."""
ERASED_FILL: Colour = (0.4914, 0.4822, 0.4465)
"""Fill of erased rectangles, written after normalisation as in the released code; grey images use the mean."""
ERASING_TRIES = 100

RESIZED_AREA = (0.08, 1.0)
RESIZED_ASPECT = (3 / 4, 4 / 3)
"""Width / height, drawn log-uniformly."""
RESIZED_TRIES = 10


@dataclass(frozen=True)
class Stored:
    """Images before the transforms, in one piece of memory."""

    pixels: Tensor
    """uint8 [n, S, S, C]; with `sizes`, all windows one after another, [bytes]."""
    sizes: tuple[tuple[int, int], ...] | None = None
    """Height and width of each image's window, which is still to be resized."""


class Augmentation:
    """Turns stored images into the backbone's input: `train` augments and normalises, `evaluate` only normalises.

    Both return images on `device`.
    """

    def __init__(self, config: AugmentationConfig, data: DataConfig, device: torch.device = CPU) -> None:
        self.config, self.device = config, device
        self.image_size, self.channels = data.image_size, data.channels
        mean, std = NORMALISATIONS[data.normalisation]
        self.mean = per_channel(mean, data.channels).to(device)
        self.std = per_channel(std, data.channels).to(device)
        self.fill = per_channel(ERASED_FILL, data.channels).to(device)
        self.orders = torch.tensor(JITTER_ORDERS, device=device)

    def train(self, split: ImageSplit, indices: Tensor, generator: Generator) -> Tensor:
        """Read and augment the images `indices` [n] of `split`, with a generator of the CPU -> float32 [n, C, S, S]."""
        return self.transform(self.read(split, indices, generator), generator)

    def read(self, split: ImageSplit, indices: Tensor, generator: Generator) -> Stored:
        """Read the images `indices` [n] of `split` for `transform`, on the CPU.

        With crop="resized", this draws the windows, with `generator`, a generator of the CPU. Raises ValueError if
        `split` was then opened without full sizes.
        """
        if self.config.crop != "resized":
            return Stored(split.pixels(indices))
        if not split.full_size:
            raise ValueError(
                f"crop='resized' needs the {split.name} images at full size, but got images of {self.image_size}x"
                f"{self.image_size}; open the data with full_size_training=True, or use crop='padded'"
            )
        return windows_of([split.full(index) for index in indices.tolist()], generator)

    @torch.no_grad()
    def transform(self, stored: Stored, generator: Generator) -> Tensor:
        """Augment images that `read` returned -> float32 [n, C, S, S]; `generator` is one of the device."""
        config = self.config
        pixels = self._cropped(stored, generator)
        # Brightness, contrast and saturation do not depend on a pixel's position, so flipping the bytes first gives the
        # same result and is cheaper.
        if config.flip:
            turned = uniform((len(pixels), 1, 1, 1), 0, 1, generator) < 0.5
            pixels = torch.where(turned, pixels.flip(2), pixels)
        images = planar(pixels)
        if config.color_jitter:
            images = color_jitter(images, config.color_jitter, self.orders, generator)
        images = self._normalised(images)
        if config.erasing:
            images = erase(images, erased_boxes(images, config.erasing, generator), self.fill)
        return images

    @torch.no_grad()
    def evaluate(self, pixels: Tensor) -> Tensor:
        """Normalise uint8 `pixels` [n, S, S, C] -> float32 [n, C, S, S]."""
        return self._normalised(planar(pixels.to(self.device, non_blocking=True)))

    def _cropped(self, stored: Stored, generator: Generator) -> Tensor:
        pixels = stored.pixels.to(self.device, non_blocking=True)
        if stored.sizes is not None:
            return resized(pixels, stored.sizes, (self.channels, self.image_size, self.image_size))
        if self.config.crop == "padded" and self.config.crop_padding:
            pixels = padded_crops(pixels, self.config.crop_padding, generator)
        return pixels

    def _normalised(self, images: Tensor) -> Tensor:
        """Normalise float32 `images` [n, C, S, S] in [0, 1], in place."""
        return images.sub_(self.mean).div_(self.std)


def per_channel(colour: Colour, channels: int) -> Tensor:
    """`colour` as [C, 1, 1]; for one channel, the mean of the three."""
    values = torch.tensor(colour)
    return (values if channels == 3 else values.mean()).reshape(channels, 1, 1)


def planar(pixels: Tensor) -> Tensor:
    """[n, S, S, C] in 0..255 -> float32 [n, C, S, S] in [0, 1], contiguous and not sharing memory with `pixels`."""
    images = torch.empty(pixels.permute(0, 3, 1, 2).shape, device=pixels.device)
    return images.copy_(pixels.permute(0, 3, 1, 2)).mul_(1 / 255)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    """Random float32 numbers in [low, high), on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device) * (high - low) + low


def below(bounds: Tensor, generator: Generator) -> Tensor:
    """One random integer in [0, bound) for each bound in `bounds`."""
    return (torch.rand(bounds.shape, generator=generator, device=generator.device) * bounds).long()


def padded_crops(pixels: Tensor, padding: int, generator: Generator) -> Tensor:
    """A random S x S window of each image after padding each side with zeros: [n, S, S, C], like `pixels`."""
    count, side = pixels.shape[:2]
    padded = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    corners = torch.randint(2 * padding + 1, (2, count, 1), generator=generator, device=generator.device)
    rows, columns = corners + torch.arange(side, device=generator.device)
    images = torch.arange(count, device=generator.device)
    return padded[images[:, None, None], rows[:, :, None], columns[:, None, :]]


def windows_of(images: list[Tensor], generator: Generator) -> Stored:
    """A window of random area and aspect of each image [h, w, C], as RandomResizedCrop of torchvision draws it."""
    windows = []
    for image in images:
        top, left, height, width = resized_window(image.shape[0], image.shape[1], generator)
        windows.append(image[top : top + height, left : left + width])
    pixels = torch.cat([torch.empty(0, dtype=torch.uint8), *(window.flatten() for window in windows)])
    return Stored(pixels, tuple((window.shape[0], window.shape[1]) for window in windows))


def resized(pixels: Tensor, sizes: tuple[tuple[int, int], ...], shape: tuple[int, int, int]) -> Tensor:
    """Windows one after another, resized with antialiasing: float32 [n, S, S, C] in 0..255; `shape` is (C, S, S).

    They differ in size, hence the loop.
    """
    channels, side, _ = shape
    crops = torch.empty((len(sizes), *shape), device=pixels.device)
    windows = pixels.split([height * width * channels for height, width in sizes]) if sizes else ()
    for crop, window, (height, width) in zip(crops, windows, sizes, strict=True):
        planes = window.view(height, width, channels).permute(2, 0, 1)[None].float()
        crop.copy_(F.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)[0])
    return crops.permute(0, 2, 3, 1)


def resized_window(height: int, width: int, generator: Generator) -> tuple[int, int, int, int]:
    """Top, left, height and width of RandomResizedCrop's window; if ten tries do not fit, a central one."""
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


def color_jitter(images: Tensor, strength: float, orders: Tensor, generator: Generator) -> Tensor:
    """Change brightness, contrast and saturation of `images` [n, C, S, S] in [0, 1], in place.

    Each image has its own of the `orders` [6, 3], at random, and three factors, uniform in [1 - strength,
    1 + strength].
    """
    count = len(images)
    order = orders[torch.randint(len(orders), (count,), generator=generator, device=generator.device)]
    factors = uniform((count, 3), 1 - strength, 1 + strength, generator)
    for step in range(3):
        kind = order[:, step]
        images = adjust(images, kind, factors.gather(1, kind[:, None]).squeeze(1))
    return images


def adjust(images: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Apply adjustment `kind` [n] with `factor` [n] to `images` [n, C, S, S] in [0, 1], in place.

    As in torchvision, each adjustment blends the image with a reference r and clamps:

        x <- clamp(factor * x + (1 - factor) * r, 0, 1),    r = 0 | the mean of the image's grey | its grey,

    for brightness | contrast | saturation. With r = a * grey + b and (a, b) = (0, 0) | (0, mean) | (1, 0), images with
    different adjustments are computed together. The grey of a one-channel image is the image itself, so saturation does
    not change it.
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

    Area and aspect are drawn up to 100 times, until the rectangle is smaller than the image. If nothing is erased,
    height and width are 0.
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
    """A copy of `images` [n, C, S, S] with the rectangles `boxes` [n, 4] filled with `fill` [C, 1, 1]."""
    top, left, height, width = boxes[:, :, None].unbind(1)
    place = torch.arange(images.shape[-1], device=images.device)
    rows = (place >= top) & (place < top + height)
    columns = (place >= left) & (place < left + width)
    inside = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(inside, fill, images)
