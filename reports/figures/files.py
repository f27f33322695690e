"""Writes figures as SVG, PNG and text; the same drawing gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import matplotlib

from dmf.machine.files import replacing, write_text
from reports.figures.drawing import FIGURES, Drawing
from reports.figures.episode import Seen

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


def write_figures(seen: Seen, output: Path) -> list[Path]:
    """Draw every figure and write it to the folder `output` as .svg, .png and, its text alternative, .txt."""
    paths = []
    with look():
        for draw in FIGURES:
            drawing = draw(seen)
            for suffix, content in (("svg", to_svg(drawing)), ("png", to_png(drawing))):
                paths.append(output / f"{drawing.name}.{suffix}")
                with replacing(paths[-1]) as aside:
                    aside.write_bytes(content)
            paths.append(output / f"{drawing.name}.txt")
            write_text(paths[-1], f"{drawing.title}. {drawing.text}\n")
    return paths


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
