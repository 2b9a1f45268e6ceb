"""Renders rows as an HTML table; values are escaped and never markup."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.readers import open_rows

__all__ = ["STYLE", "html_table", "text_of_cell"]

STYLE = (
    "table.report { border-collapse: collapse; font-family: sans-serif; font-size: 14px } "
    "table.report th, table.report td { border: 1px solid #cccccc; padding: 4px 8px; text-align: left } "
    "table.report th { background-color: #f0f0f0 } "
    "table.report td.number { text-align: right }"
)

_NUMBERS = frozenset({"integer", "number", "decimal"})


def html_table(dataset: Dataset) -> str:
    """Return all rows as a table; meant for a small number of them."""
    names, kinds = list(dataset.columns), list(dataset.columns.values())
    lines = ['<table class="report">', _line("th", [(escape(name), "") for name in names])]
    with open_rows(dataset) as reader:
        for batch in reader:
            lines += [_line("td", _cells(row, kinds)) for row in batch]
    lines.append("</table>")
    return "\n".join(lines)


def text_of_cell(value: Any) -> str:
    """Return a value as people read it; None is empty text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cells(row: Sequence[Any], kinds: Sequence[str]) -> Iterable[tuple[str, str]]:
    for value, kind in zip(row, kinds, strict=True):
        yield escape(text_of_cell(value)), ' class="number"' if kind in _NUMBERS else ""


def _line(tag: str, cells: Iterable[tuple[str, str]]) -> str:
    return f"<tr>{''.join(f'<{tag}{attributes}>{text}</{tag}>' for text, attributes in cells)}</tr>"
