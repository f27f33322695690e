"""The embedded data set: characters in matplotlib's fonts, which give few-shot classes without a download.

The classes of the three splits come from different scripts. Each image shows a character in one of the font faces that
have it, shifted, rotated, slanted, scaled and coloured at random, on a textured background with clutter. Comparing
pixels therefore says little, and a model has to align what it compares. Everything is determined by the seed.
"""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

VERSION = 1
"""Part of a cache's key; increase it if the pixels change."""
IMAGES_PER_CLASS = 30
SCRIPTS: dict[str, dict[str, tuple[tuple[int, int], ...]]] = {
    "test": {
        "georgian": ((0x10A0, 0x10FF), (0x2D00, 0x2D2F)),
        "hebrew": ((0x05D0, 0x05EA),),
        "lao": ((0x0E80, 0x0EFF),),
        "tifinagh": ((0x2D30, 0x2D6F),),
    },
    "val": {"armenian": ((0x0531, 0x0587),), "greek": ((0x0370, 0x03E1), (0x03F0, 0x03FF))},
    "train": {
        "arabic": ((0x0620, 0x06D5),),
        "canadian": ((0x1401, 0x1500),),
        "cyrillic": ((0x0400, 0x052F),),
        "digits": ((0x0030, 0x0039),),
        "latin": ((0x0041, 0x02AF),),
    },
}
"""Unicode ranges (both ends included) by split and script. Among characters that look alike, only the first is kept.
Novel splits come first, so the training split loses the characters that resemble their classes."""
LOOK_ALIKE = 0.85
"""Correlation of two clean bitmaps from which two characters count as the same shape."""
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
)
REFERENCE_FACE = "DejaVuSans"
"""The face in which shapes are compared; it has every character of `SCRIPTS`."""
UNASSIGNED = "\U0010fffe"
"""A noncharacter, for which a face draws its glyph for missing characters."""
SUPERSAMPLING = 2
"""Masks are drawn at this multiple of the image's size and averaged."""
TEXTURE_CELLS = 6
"""Cells of the background's texture along one side."""
SHAPE_SIDE = 32
"""Side of the bitmaps in which shapes are compared, in pixels."""

Split = tuple[np.ndarray, np.ndarray, tuple[str, ...]]
"""Images uint8 [M, S, S, C], labels int64 [M], sorted class names."""


@dataclass(frozen=True)
class Face:
    """One font face at one size."""

    font: ImageFont.FreeTypeFont
    missing: bytes
    """The pixels that it draws for a missing character."""

    @classmethod
    def load(cls, name: str, size: int) -> Face:
        """Load the face `name` from matplotlib's fonts, at `size` pixels per em."""
        path = font_folder() / f"{name}.ttf"
        if not path.is_file():
            raise ValueError(f"matplotlib has no font {path} here; install matplotlib from PyPI, which has its fonts")
        font = ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
        return cls(font, missing=drawn(UNASSIGNED, font).tobytes())

    def bitmap(self, character: str) -> Image.Image | None:
        """The character in white on black, cropped to its ink; None if the face lacks it or it is blank."""
        canvas = drawn(character, self.font)
        box = canvas.getbbox()
        return None if box is None or canvas.tobytes() == self.missing else canvas.crop(box)


def drawn(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """The character in white on a black canvas, with a margin on all sides."""
    size = round(font.size)
    canvas = Image.new("L", (4 * size, 3 * size))
    ImageDraw.Draw(canvas).text((size, size // 2), character, fill=255, font=font)
    return canvas


@dataclass(frozen=True)
class Character:
    """One class: a character and its bitmaps in the faces that have it."""

    name: str
    code: int
    bitmaps: tuple[Image.Image, ...]


def glyphs(image_size: int, channels: int, seed: int = 0) -> dict[str, Split]:
    """Draw the data set: "train", "val", "test" -> images uint8 [M, S, S, C], labels int64 [M], sorted class names.

    The classes are the same for every seed, but the images are not. Each class has its own random state. Raises
    ValueError if matplotlib, whose fonts are used, is missing.
    """
    if image_size < 8 or channels not in (1, 3) or seed < 0:
        raise ValueError(
            f"glyphs(image_size={image_size}, channels={channels}, seed={seed}): image_size has to be at least 8, "
            "channels 1 or 3, and seed at least 0"
        )
    faces = [Face.load(name, SUPERSAMPLING * image_size) for name in FACES]
    splits = {}
    for split, names in class_characters().items():
        characters = [
            Character(name, ord(text), tuple(b for face in faces if (b := face.bitmap(text)) is not None))
            for name, text in sorted(names.items())
        ]
        images = np.concatenate([draw_class(c, characters, image_size, channels, seed) for c in characters])
        labels = np.repeat(np.arange(len(characters), dtype=np.int64), IMAGES_PER_CLASS)
        splits[split] = (images, labels, tuple(c.name for c in characters))
    return {split: splits[split] for split in ("train", "val", "test")}


def font_folder() -> Path:
    """The folder of the installed matplotlib's fonts."""
    try:
        import matplotlib
    except ImportError as error:
        raise ValueError(
            "the data set 'glyphs' is drawn with matplotlib's fonts, but matplotlib is not installed; "
            "run `pip install matplotlib` or use another data set"
        ) from error
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=1)
def class_characters() -> dict[str, dict[str, str]]:
    """Split -> class name ("georgian_10D0") -> character. No two characters look alike, within or between splits."""
    face = Face.load(REFERENCE_FACE, 64)
    shapes = np.zeros((0, SHAPE_SIDE * SHAPE_SIDE))
    splits: dict[str, dict[str, str]] = {}
    for split, scripts in SCRIPTS.items():
        splits[split] = {}
        for script, ranges in scripts.items():
            for character in (chr(code) for first, last in ranges for code in range(first, last + 1)):
                bitmap = face.bitmap(character) if is_plain_letter(character) else None
                if bitmap is None:
                    continue
                shape = clean_shape(bitmap)
                if (shapes @ shape).max(initial=0.0) < LOOK_ALIKE:
                    shapes = np.concatenate([shapes, shape[None]])
                    splits[split][f"{script}_{ord(character):04X}"] = character
    return splits


def is_plain_letter(character: str) -> bool:
    """Whether it is a letter or number, and not a composition such as an accented letter or a ligature."""
    return unicodedata.category(character)[0] in "LN" and not unicodedata.decomposition(character)


def clean_shape(bitmap: Image.Image) -> np.ndarray:
    """The vector by which look-alikes are found: float64 [SHAPE_SIDE ** 2] with mean 0 and length 1.

    Size and position are normalised (c and C have the same shape), and a blur tolerates a shift by a pixel.
    """
    scale = (SHAPE_SIDE - 8) / max(bitmap.size)
    width, height = (max(1, round(side * scale)) for side in bitmap.size)
    canvas = Image.new("L", (SHAPE_SIDE, SHAPE_SIDE))
    canvas.paste(
        bitmap.resize((width, height), Image.Resampling.BOX), ((SHAPE_SIDE - width) // 2, (SHAPE_SIDE - height) // 2)
    )
    shape = np.asarray(canvas.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float64).ravel()
    centred: np.ndarray = shape - shape.mean()
    return centred / float(np.linalg.norm(centred))


def draw_class(character: Character, others: list[Character], image_size: int, channels: int, seed: int) -> np.ndarray:
    """All images of one class, uint8 [IMAGES_PER_CLASS, S, S, C]; clutter is drawn from `others` in the same split."""
    random = np.random.RandomState([seed, character.code])
    count = IMAGES_PER_CLASS
    glyph = [draw_glyph(random, character, image_size) for _ in range(count)]
    fragments = [draw_fragment(random, others[random.randint(len(others))], image_size) for _ in range(2 * count)]
    strokes = [draw_strokes(random, image_size) for _ in range(count)]

    # The ground is dark. The ink is the one of four random colours whose luminance differs most from the ground's.
    ground = random.uniform(0, 0.35, (count, 3)).astype(np.float32)
    inks = random.uniform(0, 1, (count, 4, 3)).astype(np.float32)
    contrast = np.abs(luminance(inks) - luminance(ground)[:, None])
    ink = inks[np.arange(count), contrast.argmax(axis=1)]

    images = ground[:, None, None] + texture(random, count, image_size)
    for layer in (fragments[:count], fragments[count:], strokes):
        images = paint(images, layer, (ground + 3 * random.uniform(0, 1, (count, 3)).astype(np.float32)) / 4)
    images = paint(images, glyph, ink)
    images += random.normal(0, 0.04, images.shape).astype(np.float32)
    if channels == 1:
        images = luminance(images)[..., None]
    levels: np.ndarray = np.rint(255 * images.clip(0, 1))
    return levels.astype(np.uint8)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Luminance (ITU-R BT.601) of `colours` [..., 3]; written out because the order of a BLAS's sums can vary."""
    return 0.299 * colours[..., 0] + 0.587 * colours[..., 1] + 0.114 * colours[..., 2]


def paint(images: np.ndarray, masks: list[np.ndarray], colours: np.ndarray) -> np.ndarray:
    """Paint `colours` [n, 3] on `images` [n, S, S, 3] where `masks` (n times [S, S], 0..255) are set."""
    cover = np.multiply(np.stack(masks), 1 / 255, dtype=np.float32)[..., None]
    covered: np.ndarray = images + cover * (colours[:, None, None] - images)
    return covered


def texture(random: np.random.RandomState, count: int, size: int) -> np.ndarray:
    """Smooth random colours around 0, interpolated between a few cells: float32 [count, size, size, 3]."""
    cells = random.normal(0, 0.09, (count, TEXTURE_CELLS, TEXTURE_CELLS, 3)).astype(np.float32)
    places = np.linspace(0, TEXTURE_CELLS - 1, size, dtype=np.float32)
    before = np.minimum(places.astype(int), TEXTURE_CELLS - 2)
    share = (places - before.astype(np.float32))[:, None]
    rows = cells[:, before] + share[:, None] * (cells[:, before + 1] - cells[:, before])
    smooth: np.ndarray = rows[:, :, before] + share * (rows[:, :, before + 1] - rows[:, :, before])
    return smooth


def draw_glyph(random: np.random.RandomState, character: Character, size: int) -> np.ndarray:
    """The class's character, almost entirely inside the image: uint8 [size, size]."""
    bitmap = character.bitmaps[random.randint(len(character.bitmaps))]
    side = random.uniform(0.6, 0.85)
    free = (1 - side) / 2
    return place(
        bitmap,
        size,
        side=side,
        stretch=math.exp(random.uniform(-0.2, 0.2)),
        angle=math.radians(random.uniform(-25, 25)),
        slant=random.uniform(-0.2, 0.2),
        centre=(0.5 + random.uniform(-free, free), 0.5 + random.uniform(-free, free)),
    )


def draw_fragment(random: np.random.RandomState, character: Character, size: int) -> np.ndarray:
    """A piece of another character, which sticks out of the image at a random edge: uint8 [size, size]."""
    bitmap = character.bitmaps[random.randint(len(character.bitmaps))]
    along, across = random.uniform(0, 1), random.uniform(-0.12, 0.08)
    edges = ((along, across), (along, 1 - across), (across, along), (1 - across, along))
    return place(
        bitmap,
        size,
        side=random.uniform(0.4, 0.9),
        stretch=1.0,
        angle=random.uniform(0, 2 * math.pi),
        slant=0.0,
        centre=edges[random.randint(4)],
    )


def place(
    bitmap: Image.Image,
    size: int,
    side: float,
    stretch: float,
    angle: float,
    slant: float,
    centre: tuple[float, float],
) -> np.ndarray:
    """Draw `bitmap` into a black image, uint8 [size, size].

    Its longer side becomes `side`; it is stretched in width, slanted, rotated by `angle` (radians) and moved to
    `centre`. Lengths and positions are fractions of the image.

    The bitmap's point b is drawn at scale * R(angle) * [[1, slant], [0, 1]] * diag(stretch, 1 / stretch) * (b - middle)
    + centre. PIL takes the inverse map, so an output point p shows the bitmap's point

        diag(1 / stretch, stretch) * [[1, -slant], [0, 1]] * R(-angle) * (p - centre) / scale + middle.
    """
    fine = SUPERSAMPLING * size
    scale = side * fine / max(bitmap.size)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    xx, xy = (cos + slant * sin) / stretch, (sin - slant * cos) / stretch
    yx, yy = -sin * stretch, cos * stretch
    x, y = fine * centre[0], fine * centre[1]
    inverse = (xx, xy, bitmap.width / 2 - xx * x - xy * y, yx, yy, bitmap.height / 2 - yx * x - yy * y)
    mask = bitmap.transform((fine, fine), Image.Transform.AFFINE, inverse, resample=Image.Resampling.BILINEAR)
    return np.asarray(mask.reduce(SUPERSAMPLING))


def draw_strokes(random: np.random.RandomState, size: int) -> np.ndarray:
    """One to three straight strokes across the image: uint8 [size, size]."""
    fine = SUPERSAMPLING * size
    canvas = Image.new("L", (fine, fine))
    pen = ImageDraw.Draw(canvas)
    for _ in range(random.randint(1, 4)):
        ends = random.uniform(-0.1, 1.1, 4) * fine
        pen.line([float(end) for end in ends], fill=255, width=max(1, round(fine * random.uniform(0.02, 0.06))))
    return np.asarray(canvas.reduce(SUPERSAMPLING))
