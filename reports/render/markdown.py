"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from reports.cells import Table
from reports.notes import of_costs
from reports.render.columns import printed, title
from reports.render.groups import groups
from reports.render.pivot import pivot
from reports.render.wrapping import harmless


def to_markdown(table: Table) -> str:
    """Render one pipe table per section, then the verdict and the notes."""
    shown = printed(table, roomy=True)
    lines = [f"## {escaped(title(table))}", "", *_overview(table)]
    for section in table.sections:
        lines += [f"### {escaped(section.label)}", "", _pipes(escaped(column.heading) for column in shown)]
        lines.append(_pipes(":--" if column.left else "--:" for column in shown))
        for heading, cells in groups(table, section.cells):
            if heading:
                lines.append(_pipes((f"**{escaped(heading)}**", *("" for _ in shown[1:]))))
            for cell in cells:
                texts = ((escaped(column.text(cell)), column.is_strong(cell)) for column in shown)
                lines.append(_pipes(f"**{text}**" if strong else text for text, strong in texts))
        lines.append("")
    lines += [
        f"**{escaped(table.verdict)}**",
        "",
        *(f"- {escaped(note)}" for note in (*table.notes, *of_costs(table.sections))),
    ]
    return "\n".join(lines) + "\n"


def _overview(table: Table) -> list[str]:
    """Rows against sections, with the paper's numbers in parentheses, if there are several sections."""
    seen = pivot(table)
    if seen is None:
        return []
    lines = ["### All sections", "", _pipes(("backbone", escaped(table.row_header), *map(escaped, seen.sections)))]
    lines.append(_pipes((":--", ":--", *("--:" for _ in seen.sections))))
    for backbone, name, entries in seen.rows:
        shown = []
        for entry in entries:
            ours = f"**{escaped(entry.ours)}**" if entry.strong else escaped(entry.ours)
            shown.append(f"{ours} (paper {escaped(entry.paper)})" if entry.paper else ours)
        lines.append(_pipes((escaped(backbone), escaped(name), *shown)))
    return [*lines, ""]


def _pipes(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def escaped(text: str) -> str:
    """`text` so that Markdown shows it literally, on one line."""
    text = " ".join(map(harmless, text.split()))
    for special in ("\\", "|", "*", "_", "<", "[", "`"):
        text = text.replace(special, f"\\{special}")
    return text
