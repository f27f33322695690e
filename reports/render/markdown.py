"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from reports.cells import Table
from reports.render.columns import printed, title
from reports.render.wrapping import harmless


def to_markdown(table: Table) -> str:
    """Render one pipe table per section, then the verdict and the notes."""
    shown = printed(table, roomy=True)
    lines = [f"## {escaped(title(table))}", ""]
    for section in table.sections:
        lines += [f"### {escaped(section.label)}", "", _pipes(escaped(column.heading) for column in shown)]
        lines.append(_pipes(":--" if column.left else "--:" for column in shown))
        for cell in section.cells:
            texts = ((escaped(column.text(cell)), column.is_strong(cell)) for column in shown)
            lines.append(_pipes(f"**{text}**" if strong else text for text, strong in texts))
        lines.append("")
    lines += [f"**{escaped(table.verdict)}**", "", *(f"- {escaped(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def escaped(text: str) -> str:
    """`text` so that Markdown shows it literally, on one line."""
    text = " ".join(map(harmless, text.split()))
    for special in ("\\", "|", "*", "_", "<", "[", "`"):
        text = text.replace(special, f"\\{special}")
    return text
