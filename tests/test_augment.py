"""Training transforms: required distributions, and torchvision as the reference for each adjustment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as torchvision_functional

from dmf.config import AugmentationConfig, DataConfig
from dmf.data.augment import (
    BRIGHTNESS,
    CONTRAST,
    ERASED_FILL,
    JITTER_ORDERS,
    NORMALISATIONS,
    RESIZED_ASPECT,
    SATURATION,
    Augmentation,
    adjust,
    color_jitter,
    erase,
    erased_boxes,
    padded_crops,
    resized,
    resized_window,
    uniform,
    windows_of,
)

ORDERS = torch.tensor(JITTER_ORDERS)
OFF = AugmentationConfig(crop="none", color_jitter=0.0, flip=False, erasing=0.0)


@dataclass(frozen=True)
class MemorySplit:
    """Images in memory, with the part of `dmf.data.sets.ImageSplit` that augmentation uses."""

    images: tuple[Tensor, ...]
    full_size: bool = False
    name: str = "train"

    def pixels(self, indices: np.ndarray | Tensor) -> Tensor:
        return torch.stack([self.images[int(index)] for index in indices])

    def full(self, index: int) -> Tensor:
        return self.images[index]


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def random_pixels(count: int, side: int = 20, channels: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, side, side, channels), generator=seeded(9), dtype=torch.uint8)


def split_of(pixels: Tensor) -> MemorySplit:
    return MemorySplit(tuple(pixels))


def data(side: int = 20, channels: int = 3, **fields: object) -> DataConfig:
    return DataConfig().replace(image_size=side, channels=channels, **fields)


@pytest.mark.parametrize("name", NORMALISATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_everything_off_is_the_plain_normalisation(name: str, channels: int) -> None:
    pixels = random_pixels(5, channels=channels)
    augmentation = Augmentation(OFF, data(channels=channels, normalisation=name))
    mean, std = (torch.tensor(values) for values in NORMALISATIONS[name])
    if channels == 1:
        mean, std = mean.mean(), std.mean()
    expected = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)

    trained = augmentation.train(split_of(pixels), torch.arange(5), seeded())
    torch.testing.assert_close(trained, expected)
    torch.testing.assert_close(augmentation.evaluate(pixels), expected)
    assert trained.is_contiguous() and trained.dtype == torch.float32


def test_evaluation_leaves_its_input_and_all_random_states_alone() -> None:
    pixels = random_pixels(4)
    before, state = pixels.clone(), torch.get_rng_state()
    augmentation = Augmentation(AugmentationConfig(), data())
    assert torch.equal(augmentation.evaluate(pixels), augmentation.evaluate(pixels))
    assert torch.equal(pixels, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", ["none", "padded", "resized"])
def test_the_generator_is_the_only_randomness(channels: int, crop: str) -> None:
    pixels = random_pixels(8, channels=channels)
    split = MemorySplit(tuple(pixels), full_size=True)
    augmentation = Augmentation(AugmentationConfig(crop=crop), data(channels=channels))
    state = torch.get_rng_state()
    first, again, other = (augmentation.train(split, torch.arange(8), seeded(s)) for s in (1, 1, 2))
    assert first.shape == (8, channels, 20, 20) and first.is_contiguous() and not first.requires_grad
    assert first.isfinite().all()
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(torch.stack(split.images), pixels)


@pytest.mark.parametrize("crop", ["none", "padded", "resized"])
def test_an_empty_batch_stays_empty(crop: str) -> None:
    pixels = torch.zeros(0, 20, 20, 3, dtype=torch.uint8)

    @dataclass(frozen=True)
    class Empty(MemorySplit):
        def pixels(self, indices: np.ndarray | Tensor) -> Tensor:
            return pixels

    augmentation = Augmentation(AugmentationConfig(crop=crop), data())
    assert augmentation.train(Empty((), full_size=True), torch.arange(0), seeded()).shape == (0, 3, 20, 20)


def test_crops_start_at_every_offset_equally_often() -> None:
    """Pixel (r, c) has the value 1 + r * S + c, which reveals the position of the window."""
    count, side, padding = 20_000, 6, 2
    image = torch.arange(1, side * side + 1, dtype=torch.uint8).reshape(1, side, side, 1)
    crops = padded_crops(image.expand(count, -1, -1, -1), padding, seeded())[..., 0].long()
    first = crops[:, padding, padding] - 1  # at most `padding` from the window's corner, so never padding itself
    row, column = first // side, first % side
    counts = torch.bincount(row * (2 * padding + 1) + column, minlength=(2 * padding + 1) ** 2)
    expected = count / (2 * padding + 1) ** 2
    assert len(counts) == 25 and ((counts - expected).abs() < 5 * expected**0.5).all()

    padded = torch.nn.functional.pad(image[0, ..., 0].long(), (padding,) * 4)
    for crop, y, x in zip(crops[:200], row, column, strict=False):
        assert torch.equal(crop, padded[y : y + side, x : x + side])


def test_padding_is_zero_before_the_normalisation() -> None:
    white = torch.full((200, 20, 20, 3), 255, dtype=torch.uint8)
    config = OFF.replace(crop="padded", crop_padding=4)
    images = Augmentation(config, data()).train(split_of(white), torch.arange(200), seeded())
    mean, std = (torch.tensor(values) for values in NORMALISATIONS["imagenet"])
    for channel in range(3):
        values = images[:, channel].unique()
        torch.testing.assert_close(values, torch.stack((-mean / std, (1 - mean) / std))[:, channel])


def test_half_of_the_images_are_flipped_and_only_sideways() -> None:
    pixels = random_pixels(2000, side=8)
    augmentation = Augmentation(OFF.replace(flip=True), data(side=8))
    images, plain = augmentation.train(split_of(pixels), torch.arange(2000), seeded()), augmentation.evaluate(pixels)
    flipped = (images == plain.flip(3)).flatten(1).all(1)
    assert ((images == plain).flatten(1).all(1) ^ flipped).all()
    assert abs(flipped.float().mean() - 0.5) < 5 * 0.5 / 2000**0.5


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        (BRIGHTNESS, torchvision_functional.adjust_brightness),
        (CONTRAST, torchvision_functional.adjust_contrast),
        (SATURATION, torchvision_functional.adjust_saturation),
    ],
)
def test_adjustments_are_torchvisions(kind: int, oracle: object, channels: int) -> None:
    images = torch.rand(6, channels, 9, 9, generator=seeded())
    factors = torch.tensor([0.0, 0.6, 0.9, 1.0, 1.4, 2.0])
    expected = torch.stack([oracle(image, float(f)) for image, f in zip(images, factors, strict=True)])
    torch.testing.assert_close(adjust(images.clone(), torch.full((6,), kind), factors), expected, atol=1e-5, rtol=0)


def test_adjustments_of_different_kinds_share_a_batch() -> None:
    images = torch.rand(3, 3, 9, 9, generator=seeded())
    factors = torch.tensor([0.7, 1.3, 0.8])
    mixed = adjust(images.clone(), torch.tensor([SATURATION, BRIGHTNESS, CONTRAST]), factors)
    expected = [
        torchvision_functional.adjust_saturation(images[0], 0.7),
        torchvision_functional.adjust_brightness(images[1], 1.3),
        torchvision_functional.adjust_contrast(images[2], 0.8),
    ]
    torch.testing.assert_close(mixed, torch.stack(expected), atol=1e-5, rtol=0)


def test_jitter_is_one_of_the_six_orders_each_equally_often() -> None:
    """Some order of torchvision's adjustments, with the factors that were drawn, gives every image."""
    count, strength = 600, 0.4
    image = torch.rand(1, 3, 5, 5, generator=seeded(4))
    jittered = color_jitter(image.repeat(count, 1, 1, 1), strength, ORDERS, seeded())

    generator = seeded()
    torch.randint(6, (count,), generator=generator)
    factors = uniform((count, 3), 1 - strength, 1 + strength, generator)
    functions = (
        torchvision_functional.adjust_brightness,
        torchvision_functional.adjust_contrast,
        torchvision_functional.adjust_saturation,
    )
    seen = torch.zeros(6)
    for result, factor in zip(jittered, factors, strict=True):
        errors = []
        for order in JITTER_ORDERS:
            expected = image[0]
            for kind in order:
                expected = functions[kind](expected, float(factor[kind]))
            errors.append((result - expected).abs().max())
        assert min(errors) < 1e-5
        seen[int(torch.stack(errors).argmin())] += 1
    assert (seen > 50).all()


def test_jitter_factors_are_uniform_around_one() -> None:
    """On a uniform grey image only brightness has an effect: contrast and saturation leave it as it is."""
    grey = torch.full((5000, 1, 2, 2), 0.5)
    factors = color_jitter(grey, 0.4, ORDERS, seeded())[:, 0, 0, 0] / 0.5
    assert factors.min() >= 0.6 - 1e-5 and factors.max() <= 1.4 + 1e-5
    quantiles = torch.quantile(factors, torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.68, 0.8, 1.0, 1.2, 1.32]), atol=0.03, rtol=0)


@pytest.mark.parametrize("probability", [0.5, 1.0])
def test_erased_rectangles_have_the_recipes_area_aspect_and_frequency(probability: float) -> None:
    count, side = 20_000, 84
    boxes = erased_boxes(torch.empty(count, 3, side, side), probability, seeded())
    erased = boxes[:, 2] > 0
    assert abs(erased.float().mean() - probability) <= 5 * (probability * (1 - probability) / count) ** 0.5
    top, left, height, width = boxes[erased].unbind(1)
    assert (height < side).all() and (width < side).all()
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + height).max() == side and (left + width).max() == side
    slack = (height + width) / 2 + 1  # for rounding both sides
    assert (height * width >= 0.02 * side**2 - slack).all() and (height * width <= 0.4 * side**2 + slack).all()
    assert ((height + 0.5) / (width - 0.5) >= 0.3).all() and ((height - 0.5) / (width + 0.5) <= 1 / 0.3).all()
    # Small rectangles always fit, so their aspect is uniform, with mean 1.8; log-uniform would give 1.26.
    small = height * width < 0.05 * side**2
    assert abs((height[small] / width[small]).mean() - (0.3 + 1 / 0.3) / 2) < 0.1


def test_erased_rectangles_are_filled_after_normalisation() -> None:
    pixels = random_pixels(64, side=32)
    augmentation = Augmentation(OFF.replace(erasing=1.0), data(side=32))
    images, plain = augmentation.train(split_of(pixels), torch.arange(64), seeded()), augmentation.evaluate(pixels)
    changed = (images != plain).all(1)
    fill = torch.tensor(ERASED_FILL)[:, None]
    for image, inside in zip(images, changed, strict=True):
        assert inside.any()
        torch.testing.assert_close(image[:, inside], fill.expand(-1, int(inside.sum())))
        rows, columns = inside.any(1), inside.any(0)
        assert torch.equal(inside, rows[:, None] & columns[None])
    assert torch.equal(images[~changed[:, None].expand_as(images)], plain[~changed[:, None].expand_as(images)])


def test_erase_writes_exactly_its_boxes() -> None:
    images = torch.zeros(2, 1, 5, 5)
    erased = erase(images, torch.tensor([[1, 2, 3, 2], [0, 0, 0, 0]]), torch.ones(1, 1, 1))
    expected = torch.zeros(2, 1, 5, 5)
    expected[0, 0, 1:4, 2:4] = 1
    assert torch.equal(erased, expected)


def test_one_channel_takes_the_mean_fill() -> None:
    pixels = random_pixels(16, channels=1)
    augmentation = Augmentation(OFF.replace(erasing=1.0), data(channels=1))
    images = augmentation.train(split_of(pixels), torch.arange(16), seeded())
    changed = images[images != augmentation.evaluate(pixels)]
    torch.testing.assert_close(changed, torch.full_like(changed, sum(ERASED_FILL) / 3))


def test_resized_windows_have_torchvisions_area_and_aspect() -> None:
    height, width, generator = 300, 400, seeded()
    windows = torch.tensor([resized_window(height, width, generator) for _ in range(4000)])
    top, left, crop_height, crop_width = windows.unbind(1)
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + crop_height <= height).all() and (left + crop_width <= width).all()
    area = crop_height * crop_width / (height * width)
    assert area.min() > 0.075 and area.max() <= 1
    # Up to half of the area every aspect fits, so the area is uniform there and its mean is the middle.
    assert abs(area[area < 0.5].mean() - (0.08 + 0.5) / 2) < 0.02
    small = area < 0.5
    logs = (crop_width[small] / crop_height[small]).log()
    assert abs(logs.mean()) < 0.02 and abs(logs.abs().max() - torch.tensor(RESIZED_ASPECT[1]).log()) < 0.02


@pytest.mark.parametrize(("height", "width", "window"), [(10, 400, (0, 193, 10, 13)), (400, 9, (194, 0, 12, 9))])
def test_of_an_extreme_image_the_centre_is_taken(height: int, width: int, window: tuple[int, int, int, int]) -> None:
    generator = seeded(3)
    windows = [resized_window(height, width, generator) for _ in range(200)]
    assert window in windows
    ratios = [w / h for _, _, h, w in windows]
    assert min(ratios) > 0.6 and max(ratios) < 1.6


def test_resized_crops_read_images_of_any_size_and_equal_torchvisions() -> None:
    sizes = [(30, 45, 3), (64, 20, 3), (12, 12, 3)]
    images = tuple(torch.randint(0, 256, size, generator=seeded(), dtype=torch.uint8) for size in sizes)
    stored = windows_of([images[index] for index in (2, 0, 1)], seeded(5))
    assert stored.sizes is not None
    crops = resized(stored.pixels, stored.sizes, (3, 16, 16))
    generator = seeded(5)
    for crop, image in zip(crops, (images[2], images[0], images[1]), strict=True):
        window = resized_window(image.shape[0], image.shape[1], generator)
        planes = image.permute(2, 0, 1).float()
        expected = torchvision_functional.resized_crop(planes, *window, size=[16, 16], antialias=True)
        torch.testing.assert_close(crop, expected.permute(1, 2, 0), atol=1e-3, rtol=1e-5)


def test_resized_crops_of_small_images_are_refused() -> None:
    augmentation = Augmentation(AugmentationConfig(crop="resized"), data())
    with pytest.raises(ValueError, match="full_size_training=True"):
        augmentation.train(split_of(random_pixels(2)), torch.arange(2), seeded())


@pytest.mark.gpu
@pytest.mark.parametrize("crop", ["none", "padded", "resized"])
def test_a_gpu_augments_as_a_cpu_does(crop: str) -> None:
    """With everything random off, apart from the window, which the CPU draws for both."""
    pixels, config = random_pixels(8, side=31), OFF.replace(crop=crop, crop_padding=0)
    split = MemorySplit(tuple(pixels), full_size=True)
    cpu, gpu = (Augmentation(config, data(31), torch.device(name)) for name in ("cpu", "cuda"))
    stored = cpu.read(split, torch.arange(8), seeded())
    images = gpu.transform(stored, Generator("cuda").manual_seed(0))
    assert images.device.type == "cuda" and images.shape == (8, 3, 31, 31)
    torch.testing.assert_close(images.cpu(), cpu.transform(stored, seeded()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gpu.evaluate(pixels).cpu(), cpu.evaluate(pixels))
