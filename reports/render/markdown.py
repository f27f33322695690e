"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from reports.cells import Table
from reports.render.columns import printed, title


def to_markdown(table: Table) -> str:
    """Render one pipe table per section, then the verdict and the notes."""
    shown = printed(table)
    lines = [f"## {title(table)}", ""]
    for section in table.sections:
        lines += [f"### {section.label}", "", _pipes(_escaped(column.heading) for column in shown)]
        lines.append(_pipes(":--" if column.left else "--:" for column in shown))
        for cell in section.cells:
            texts = ((_escaped(column.text(cell)), column.is_strong(cell)) for column in shown)
            lines.append(_pipes(f"**{text}**" if strong else text for text, strong in texts))
        lines.append("")
    lines += [f"**{_escaped(table.verdict)}**", "", *(f"- {_escaped(note)}" for note in table.notes)]
    return "\n".join(lines) + "\n"


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _escaped(text: str) -> str:
    for special in ("\\", "|", "*", "_", "<", "[", "`"):
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())
