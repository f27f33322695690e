"""Renders filled tables as terminal text, Markdown, LaTeX, CSV, HTML and JSON. The same tables give the same bytes.

`reports.render.columns` defines the columns of all formats except JSON, which is the table itself with unrounded
numbers. In all other formats, fractions become percent with two decimals; everywhere before, they are fractions.
"""
