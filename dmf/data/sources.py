"""Where a data set's original images are, and the folder into which they are decoded."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from dmf.config import DataConfig
from dmf.data import cache as image_cache
from dmf.data.known import DATASETS, EMBEDDED, check_classes, check_counts, check_name, in_rgb
from dmf.data.layouts.layouts import SPLITS, find_layout
from dmf.data.layouts.pictures import Look
from dmf.data.layouts.raw import RawImage, RawSplit
from dmf.data.layouts.trees import open_tree
from dmf.data.store import Form
from dmf.machine.paths import default_cache_dir, expanded
from dmf.values import digest

if TYPE_CHECKING:  # matplotlib is not needed for other images
    from dmf.data import glyphs


def form_of(config: DataConfig) -> Form:
    """The form in which the images of `config` are stored."""
    return Form(config.image_size, config.channels, config.resize, config.background, config.orientation)


def look_of(config: DataConfig) -> Look:
    """How the pixels of `config` are taken from its images."""
    return Look(config.channels, config.background, config.orientation)


@dataclass(frozen=True)
class Source:
    """The original images. `identity` changes when they do; `read` is called if they are not in the cache yet."""

    layout: str
    identity: Any
    read: Callable[[], dict[str, RawSplit]]
    ignored: Callable[[], str] = str
    """A doubt about files that are left out because other programs put them there; empty if there are none."""
    root: str = ""
    """What messages about the images leave out of file names."""

    def doubts(self, kept: tuple[str, ...]) -> tuple[str, ...]:
        """The doubts `kept` with the decoded images, and those of today, with file names relative to the root."""
        found = (*kept, *filter(None, [self.ignored()]))
        return tuple(doubt.replace(f"{self.root}/", "").replace(f"{self.root}:", "") for doubt in found)


def source_of(config: DataConfig) -> Source:
    """The original images of `config`. Raises ValueError if there are none, or in no known layout."""
    check_name(config.name)
    return _embedded(config) if config.name == EMBEDDED else _found(config)


def doubts_of(config: DataConfig, source: Source, kept: tuple[str, ...], counts: tuple[int, ...]) -> tuple[str, ...]:
    """Every doubt about images: those `kept` with the decoded ones, today's, and those about `counts` by split."""
    return tuple(filter(None, (*source.doubts(kept), check_counts(config, counts))))


def cache_folder(config: DataConfig, source: Source, full_size: frozenset[str], cache_dir: Path | None = None) -> Path:
    """The folder that the images are decoded into; the splits named in `full_size` are stored at full size."""
    key = digest([image_cache.VERSION, source.identity, *vars(form_of(config)).values(), sorted(full_size)])
    return (cache_dir or default_cache_dir()) / f"{config.name}-{key}"


def _found(config: DataConfig) -> Source:
    """The source of the images in `config.root`."""
    facts = DATASETS.get(config.name)
    if config.root is None:
        obtained = f"{config.name} is: {facts.obtained}" if facts else "in any of the layouts in dmf.data.layouts"
        raise ValueError(f"data.root is not set; expected the folder or zip archive of the data set ({obtained})")
    root = Path(expanded(config.root, "data.root")).absolute()
    found = find_layout(open_tree(root))
    layout = found.layout
    if facts and layout.only not in (None, config.name):
        raise ValueError(f"{root} holds the {layout.name} of {layout.only}, but data.name is {config.name}")
    if facts and config.orientation != "stored":
        raise ValueError(
            f"data.orientation={config.orientation}, but {config.name} is read as stored, as published code reads it; "
            f"for turned images use another name, such as data.name={config.name}_mine"
        )
    stamps = hashlib.sha256(json.dumps(found.stamps()).encode()).hexdigest()

    def read() -> dict[str, RawSplit]:
        splits = found.read()
        check_classes(config, splits)
        check_counts(config, tuple(len(splits[name].class_ids) for name in SPLITS))
        return in_rgb(config, splits) if layout.arrays else splits

    identity = [str(root.resolve()), layout.name, stamps]
    if layout.arrays:  # whether they count as BGR depends on the name
        identity.append(config.name)
    return Source(layout.name, identity, read, found.ignored, str(root))


def _embedded(config: DataConfig) -> Source:
    """The source of the glyphs. Pillow draws them in matplotlib's fonts, so both versions are part of the identity."""
    from dmf.data import glyphs

    if config.root is not None:
        raise ValueError(f"data.root={config.root!r}, but glyphs are embedded; leave out data.root")
    glyphs.font_folder()  # raises now if matplotlib is missing

    @functools.cache
    def drawn() -> dict[str, glyphs.Split]:
        return glyphs.glyphs(config.image_size, config.channels)

    def read() -> dict[str, RawSplit]:
        splits = {}
        for split in SPLITS:
            classes = sorted(glyphs.class_characters()[split])
            class_ids = [name for name in classes for _ in range(glyphs.IMAGES_PER_CLASS)]
            splits[split] = RawSplit(class_ids, partial(_raw_images, split, drawn))
        return splits

    return Source("embedded", ["glyphs", glyphs.VERSION, version("matplotlib"), version("pillow")], read)


def _raw_images(split: str, drawn: Callable[[], dict[str, glyphs.Split]]) -> Iterator[RawImage]:
    for index, pixels in enumerate(drawn()[split][0]):
        plain = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        yield RawImage(f"glyphs {split}, image {index}", partial(Image.fromarray, plain))
