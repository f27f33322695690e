"""Writes figures as SVG, PNG and text; the same drawing gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib

from dmf.machine.files import replacing
from reports.figures.drawing import FIGURES, Drawing
from reports.figures.episode import Seen
from reports.owners import Owner, check_owner, note_files

DOTS_PER_INCH = 300
"""Of PNG files and of the images in SVG files."""
LOOK: Any = {"svg.hashsalt": "dmf", "svg.fonttype": "path", "font.family": "DejaVu Sans", "savefig.dpi": DOTS_PER_INCH}
"""Text is drawn as outlines, so that no reader needs the font."""


@contextmanager
def look() -> Iterator[None]:
    """Draw with our settings and matplotlib's defaults, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(LOOK)
        yield


def write_figures(seen: Seen, output: Path, owner: Owner) -> list[Path]:
    """Draw every figure and write it to the folder `output` as .svg, .png and, its text alternative, .txt.

    The folder above, of the training, is of `owner` alone. Raises ValueError if it is another owner's.
    """
    check_owner(output.parent, owner, "figures")
    contents: dict[str, bytes] = {}
    with look():
        for drawing in (draw(seen) for draw in FIGURES):
            contents |= {f"{drawing.name}.svg": to_svg(drawing), f"{drawing.name}.png": to_png(drawing)}
            contents[f"{drawing.name}.txt"] = f"{drawing.title}. {drawing.text}\n".encode()
    note_files(output.parent, owner, [f"{output.name}/{name}" for name in contents])
    for name, content in contents.items():
        with replacing(output / name) as aside:
            aside.write_bytes(content)
    return [output / name for name in contents]


def to_svg(drawing: Drawing) -> bytes:
    """An SVG image whose title and description a screen reader reads. Call it inside `look`."""
    file = io.StringIO()
    drawing.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    told = f"<title>{escape(drawing.title)}</title>\n<desc>{escape(drawing.text)}</desc>\n"
    before, opening, rest = file.getvalue().partition("<svg ")
    attributes, end, rest = rest.partition(">\n")
    return f'{before}{opening}role="img" {attributes}{end}{told}{rest}'.encode()


def to_png(drawing: Drawing) -> bytes:
    """A PNG image with its text alternative as description. Call it inside `look`."""
    file = io.BytesIO()
    told = {"Software": None, "Title": drawing.title, "Description": drawing.text}
    drawing.figure.savefig(file, format="png", metadata=told)
    return file.getvalue()
