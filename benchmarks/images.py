"""Images for benchmarks: JPEG files with noise textures of 84 x 84."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from dmf.config import DataConfig
from dmf.data.sets import DataSet, open_data

NAME, SIDE = "noise_textures", 84


def write_images(root: Path, counts: dict[str, tuple[int, int]]) -> list[Path]:
    """Write class folders of JPEG files below `root`, for (classes, images per class) by split.

    Returns the training files, in order.
    """
    random = np.random.default_rng(0)
    files = []
    for split, (classes, per_class) in counts.items():
        for number in range(classes):
            folder = root / split / f"{split}{number:02}"
            folder.mkdir(parents=True)
            for index in range(per_class):
                path = folder / f"{index:03}.jpg"
                texture(random).save(path, quality=90)
                if split == "train":
                    files.append(path)
    return files


def texture(random: np.random.Generator) -> Image.Image:
    """Noise with most of its power in low frequencies, like photographs."""
    total = np.full((SIDE, SIDE, 3), 128.0)
    for cells, strength in ((3, 50), (10, 30), (28, 15), (84, 6)):
        coarse = random.normal(0, strength, (cells, cells, 3)).clip(-127, 127).astype(np.int8)
        planes = Image.fromarray((coarse.astype(np.int16) + 128).astype(np.uint8))
        total += np.asarray(planes.resize((SIDE, SIDE), Image.Resampling.BICUBIC), float) - 128
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def opened(root: Path, cache: Path) -> DataSet:
    """Open the images that `write_images` wrote, with the uint8 cache in the folder `cache`."""
    return open_data(DataConfig(name=NAME, root=str(root), image_size=SIDE), cache_dir=cache)
