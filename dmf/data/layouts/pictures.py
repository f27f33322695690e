"""Image files and their pixels: which formats are opened, and what is made of transparency and orientation."""

from __future__ import annotations

import io
import threading
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import ExifTags, Image, ImageOps

SUFFIXES_OF = {
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp",),
    "DIB": (".dib",),
    "GIF": (".gif",),
    "ICO": (".ico",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c"),
    "MPO": (".mpo",),
    "PCX": (".pcx",),
    "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "PSD": (".psd",),
    "QOI": (".qoi",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
"""Formats of images that consist of pixels, by Pillow's names, with their suffixes. No other format is opened, whatever
a file is called: for PostScript, Pillow would start Ghostscript, which runs the file as a program."""
SUFFIXES = tuple(suffix for suffixes in SUFFIXES_OF.values() for suffix in suffixes)
"""Suffixes of image files; upper case counts too."""
USUAL = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".bmp", ".gif", ".ppm")
"""Suffixes that messages name."""
INKS = ("CMYK", "YCbCr", "LAB", "HSV")
"""Modes that become RGB by a formula, without a colour profile."""
UPRIGHT = 1
"""The EXIF orientation of an image that is stored as it is seen."""
GROUNDS = {"white": (255, 255, 255, 255), "black": (0, 0, 0, 255)}


def open_picture(data: bytes) -> Image.Image:
    """Open the image file `data`, whose pixels are decoded on first use.

    Raises an error of Pillow's for data in a format that is not in `SUFFIXES_OF`.
    """
    Image.init()
    return Image.open(io.BytesIO(data), formats=[name for name in SUFFIXES_OF if name in Image.OPEN])


@dataclass(frozen=True)
class Look:
    """How pixels are taken from an image: with `channels`, on the ground `background`, turned as `orientation` says."""

    channels: int
    background: str = "white"
    orientation: str = "stored"
    """`stored`: as in the file; `exif`: as its EXIF orientation says."""

    def size(self, image: Image.Image) -> tuple[int, int]:
        """Height and width of the pixels, from the file's header."""
        turned = self.orientation == "exif" and image.format != "TIFF" and _orientation(image)[0] >= 5
        return (image.width, image.height) if turned else (image.height, image.width)

    def pixels(self, image: Image.Image) -> tuple[np.ndarray, frozenset[str]]:
        """The pixels, uint8 [h, w, C], and the keys of `TOLD` that are true of the image.

        Pixels that are transparent in part show the ground, so that strokes on a transparent page stay visible; a
        transparency that is the same everywhere is dropped. Pillow turns TIFF files by itself.
        """
        if image.mode in ("I", "F") or image.mode.startswith("I;"):
            raise ValueError(f"it has mode {image.mode}, expected 8 bits per channel")
        if not image.width or not image.height:
            raise ValueError(f"it is {image.width}x{image.height} and has no pixels")
        several = getattr(image, "is_animated", False) and image.format != "PSD"  # whose layers make one picture
        image.load()
        told = {"several"} if several else set()
        orientation, readable = _orientation(image)
        if not readable:
            told.add("exif")
        elif orientation != UPRIGHT:
            told.add("turned" if self.orientation == "exif" else "oriented")
            if self.orientation == "exif":
                image = ImageOps.exif_transpose(image)
        if image.mode in INKS:
            told.add("ink")
        if image.has_transparency_data:
            image, seen_through = _on_ground(image, self.background)
            told |= {"transparent"} if seen_through else set()
        mode = "RGB" if self.channels == 3 else "L"
        array = np.asarray(image if image.mode == mode else image.convert(mode))
        return (array if self.channels == 3 else array[..., None]), frozenset(told)


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """The EXIF orientation, 1 to 8, which is 1 if there is none; and whether the EXIF data could be read."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except Exception:  # Pillow raises all kinds of errors for damaged EXIF data, and the pixels can be sound
        return UPRIGHT, False
    return (found if isinstance(found, int) and 1 <= found <= 8 else UPRIGHT), True


def _on_ground(image: Image.Image, background: str) -> tuple[Image.Image, bool]:
    """An image with transparency on its ground, and whether the ground is seen anywhere."""
    colours = image.convert("RGBA")
    least, most = colours.getchannel("A").getextrema()
    if least == most:
        return colours.convert("RGB"), False
    return Image.alpha_composite(Image.new("RGBA", image.size, GROUNDS[background]), colours).convert("RGB"), True


TOLD = {
    "transparent": "with transparent pixels, which show {background} (data.background)",
    "oriented": "with an EXIF orientation, read as stored (data.orientation=exif turns them)",
    "turned": "turned as their EXIF orientation says (data.orientation)",
    "exif": "whose EXIF data cannot be read; they are not turned",
    "several": "of several pictures, of which the first is read",
    "ink": "converted to RGB without a colour profile",
}
"""What can be true of an image and change its pixels, in words that follow `12 images`."""


@dataclass(frozen=True)
class Noted:
    """Counts what is true of images, from several threads."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, told: frozenset[str], where: str) -> None:
        """Count the image `where`."""
        if told:
            with self._lock:
                for key in told:
                    self.counts[key] += 1
                    self.first[key] = min(where, self.first.get(key, where))

    def sentences(self, look: Look) -> list[str]:
        """`12 images with ..., first ...`, one for each thing that was true of some image."""
        return [
            f"{images(self.counts[key])} {words.format(background=look.background)}, first {self.first[key]}"
            for key, words in TOLD.items()
            if self.counts[key]
        ]


def counted(count: int, what: str) -> str:
    """`1 image`, `2 images`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def images(count: int) -> str:
    """`1 image`, `2 images`."""
    return counted(count, "image")
