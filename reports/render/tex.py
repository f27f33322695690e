"""Text for LaTeX: every character prints as it stands, and long words may break after punctuation."""

from __future__ import annotations

import unicodedata

from reports.render.wrapping import words

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "→": r"$\to$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "°": r"$^\circ$",
    "·": r"$\cdot$",
    "–": "--",
    "—": "---",
    "…": r"\dots{}",
    "‘": "`",
    "’": "'",
    "“": "``",
    "”": "''",
    "ß": r"\ss{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ł": r"\l{}",
    "ı": r"\i{}",
    "\N{NO-BREAK SPACE}": "~",
    "[": "{[}",
    "]": "{]}",
    "`": "{`}",
}
"""Characters that LaTeX reads otherwise. After `\\\\`, a bracket would start a length."""
ACCENTS = {
    "\u0300": r"\`",
    "\u0301": r"\'",
    "\u0302": r"\^",
    "\u0303": r"\~",
    "\u0304": r"\=",
    "\u0306": r"\u",
    "\u0307": r"\.",
    "\u0308": r"\"",
    "\u030a": r"\r",
    "\u030b": r"\H",
    "\u030c": r"\v",
    "\u0327": r"\c",
    "\u0328": r"\c",
}
GREEK = frozenset(
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau upsilon phi chi psi "
    "omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
)


LONGEST_WORD, LONGEST_PIECE = 12, 16
"""As in `reports.render.wrapping`, for the narrow columns of a paper; LaTeX hyphenates what is a word."""


def latex_text(text: str) -> str:
    """`text` escaped so that LaTeX prints it literally, in ASCII; what LaTeX lacks prints as its code, [U+65E5]."""
    lines = ""
    for part, spaced in words(text, LONGEST_WORD, LONGEST_PIECE):
        between = " " if spaced else r"\allowbreak{}"
        lines += (between if lines else "") + "".join(map(_character, part))
    return lines


def _character(character: str) -> str:
    if character in SPECIAL:
        return SPECIAL[character]
    if character.isascii():
        return character if character.isprintable() else ""
    base, *marks = list(unicodedata.normalize("NFD", character))
    if marks and base.isascii() and base.isalpha() and all(mark in ACCENTS for mark in marks):
        dotless = {"i": r"\i", "j": r"\j"}.get(base, base)
        for mark in marks:
            dotless = f"{ACCENTS[mark]}{{{dotless}}}"
        return dotless
    name = unicodedata.name(character, "").split()
    if name[:1] == ["GREEK"] and name[2:3] == ["LETTER"] and len(name) == 4:
        letter = name[3].lower() if name[1] == "SMALL" else name[3].capitalize()
        letter = {"lamda": "lambda", "Lamda": "Lambda"}.get(letter, letter)
        if letter in GREEK:
            return rf"$\{letter}$"
    return f"{{[}}U+{ord(character):04X}{{]}}"
