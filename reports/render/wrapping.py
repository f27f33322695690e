"""Lines and column widths for output of fixed width: lines break between words, a long path after its punctuation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.cells import cell_len, set_cell_size

from dmf.values import printable

NO_BREAK = "\N{NO-BREAK SPACE}"
LONGEST_WORD = 24
"""Longer words, which are paths, keys and the like, may be broken after punctuation."""
LONGEST_PIECE = 40
"""Longer pieces without punctuation are broken anywhere."""
WORD = re.compile(r"[^ \t\n\r\f\v]+")
"""What spaces separate; a no-break space does not."""
PIECE = re.compile(r"[^./_=,:;+&|-]*[./_=,:;+&|-]+|[^./_=,:;+&|-]+")


def harmless(text: str) -> str:
    """`text` without what a terminal or a browser would obey; line breaks and no-break spaces stay.

    What then remains to be escaped is the markup of each format.
    """
    return NO_BREAK.join(printable(part, lines=True) for part in text.split(NO_BREAK))


def words(
    text: str, longest_word: int = LONGEST_WORD, longest_piece: int = LONGEST_PIECE
) -> Iterator[tuple[str, bool]]:
    """The parts of `text`, made harmless, that stay on a line, each with whether a space precedes it."""
    for word in map(harmless, WORD.findall(text)):
        if cell_len(word) <= longest_word:
            yield word, True
        else:
            yield from _parts(PIECE.findall(word), longest_piece)


def _parts(pieces: Sequence[str], longest: int) -> Iterator[tuple[str, bool]]:
    first = True
    for piece in pieces:
        while cell_len(piece) > longest:
            part = set_cell_size(piece, longest).rstrip() or piece[:1]
            yield part, first
            piece, first = piece[len(part) :], False
        if piece:
            yield piece, first
            first = False


def narrowest(text: str) -> int:
    """The width, in columns, of the longest part of `text` that stays on a line."""
    return max((cell_len(part) for part, _ in words(text)), default=0)


def wrapped(text: str, width: int) -> list[str]:
    """`text` in lines of at most `width` columns, or of its longest part if that is wider."""
    lines = [""]
    for part, spaced in words(text):
        longer = f"{lines[-1]} {part}" if spaced and lines[-1] else f"{lines[-1]}{part}"
        if lines[-1] and cell_len(longer) > width:
            lines.append(part)
        else:
            lines[-1] = longer
    return lines


def shared_out(least: Sequence[int], most: Sequence[int], width: int) -> list[int]:
    """Widths between `least` and `most` that sum up to `width` at most, where the least widths leave room.

    What is left goes to the columns that lack most.
    """
    widths = list(least)
    for _ in range(width - sum(least)):
        lacking = max(range(len(widths)), key=lambda column: most[column] - widths[column])
        if widths[lacking] >= most[lacking]:
            break
        widths[lacking] += 1
    return widths
