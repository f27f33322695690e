"""Inline SVG by matplotlib: the same bytes each time, in the page's colours, with a text alternative.

Matplotlib draws with stand-in colours, which become CSS variables of the page, so a figure follows light and dark. Text
stays text. Nothing in a figure depends on the date, on matplotlib's random ids, or on another figure.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.6
"""Width of a figure in inches, 331 units of its SVG: on a phone, a unit is about a pixel."""
COLOURS = {
    "ink": "#0a0001",
    "quiet": "#0a0002",
    "rule": "#0a0003",
    "ours": "#0a0004",
    "paper": "#0a0005",
    "band": "#0a0006",
    "raised": "#0a0007",
    **{f"line-{number}": f"#0a001{number}" for number in range(8)},
}
"""CSS variable -> the colour that stands in for it."""
PALETTE = (Path(__file__).parent / "templates/colours.css").read_text(encoding="utf-8")
"""The variables' values, in light and in dark."""
DASHES = ("", "6 2", "2 2", "8 2 2 2")
"""Patterns of lines, as of `stroke-dasharray`; with the colours, they tell 32 lines apart."""
SETTINGS = {
    "svg.fonttype": "none",
    "font.family": ["DejaVu Sans"],
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": COLOURS["ink"],
    "axes.facecolor": "none",
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["quiet"],
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "xtick.color": COLOURS["rule"],
    "ytick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["quiet"],
    "ytick.labelcolor": COLOURS["quiet"],
    "grid.color": COLOURS["rule"],
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
}


def svg(name: str, title: str, description: str, height: float, draw: Callable[[Figure], None]) -> str:
    """An `<svg>` of `WIDTH` by `height` inches, drawn by `draw`.

    Args:
        name: begins the ids in it; no other figure of a page has it.
        title: what the figure shows, in a few words.
        description: its content in words, for those who do not see it.
    """
    from matplotlib import rc_context, rcParamsDefault  # takes half a second, which only pages need
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {key: rcParamsDefault[key] for key in rcParamsDefault if key.partition(".")[0] in PARTS}
    with rc_context(settings | SETTINGS | {"svg.hashsalt": name}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # the page's fonts may have it
        figure = Figure(figsize=(WIDTH, height))
        figure.patch.set_visible(False)
        FigureCanvasSVG(figure)
        draw(figure)
        lines = io.StringIO()
        figure.savefig(lines, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inlined(lines.getvalue(), name, title, description)


def band(fill: Callable[..., Any], sides: Sequence[float], margins: Sequence[float]) -> None:
    """The band of differences that are less than their margins, by an axis' `fill_between` or `fill_betweenx`.

    Args:
        sides: (n,), ascending, along the axis of the comparisons.
        margins: (n,), fractions of 1, each at its side.
    """
    ends = [100 * margin for margin in margins]
    fill(sides, [-end for end in ends], ends, color=COLOURS["band"], linewidth=0)


def alone(figure: str) -> str:
    """An `<svg>` of `svg` as a file of its own, in the page's colours, light or dark as the reader's screen."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', figure)
    assert box is not None
    size = f'xmlns="http://www.w3.org/2000/svg" width="{float(box[1]) * 2:g}" height="{float(box[2]) * 2:g}"'
    style = f"<style>\n{PALETTE}svg {{ font-family: sans-serif; }}\n</style>"
    head, opening, rest = figure.partition("<title")
    return f"{head.replace('<svg', f'<svg {size}', 1)}{style}{opening}{rest}\n"


PARTS = frozenset("axes figure font grid legend lines patch path svg text xtick ytick errorbar scatter".split())
"""Matplotlib's settings that a user's own file must not change."""


def cleaned(text: str, longest: int = 200) -> str:
    """`text` without what XML cannot hold, at most `longest` characters."""
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _inlined(text: str, name: str, title: str, description: str) -> str:
    """Matplotlib's SVG file as an element of a page."""
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="([^"]+)"', body)
    assert box is not None
    body = body[body.index(">") + 1 :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", body))
    body = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", body)
    for each in used:
        body = re.sub(rf'(url\(#|href="#|id="){re.escape(each)}(?=["\)])', rf"\g<1>{name}-{each}", body)
    body = re.sub(r"font(-family)?: [^;\"]*'DejaVu Sans'[^;\"]*", _font, body)
    for variable, colour in COLOURS.items():
        body = body.replace(f": {colour}", f": var(--{variable})")
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", body.replace("; ;", ";").replace("xlink:href", "href"))
    body = re.sub(r"\s*\n\s*", " ", body)
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-title {name}-text">'
        f'<title id="{name}-title">{html.escape(cleaned(title))}</title>'
        f'<desc id="{name}-text">{html.escape(cleaned(description, 4000))}</desc>{body}'
    ).rstrip()


def _font(found: re.Match[str]) -> str:
    """The size of a font, whose family is the page's."""
    size = re.search(r"[\d.]+px", found[0])
    return f"font-size: {size[0]}" if size else ""
