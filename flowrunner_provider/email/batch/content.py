"""From a row to its letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.names import resolve_inside
from flowrunner_provider.email.addresses import Mailbox, header_text
from flowrunner_provider.email.attachments import Attachment, read_all
from flowrunner_provider.email.batch.letter import Letter, LetterForm, encoded, recipient
from flowrunner_provider.email.batch.row_template import RowTemplate, Templates
from flowrunner_provider.email.batch.rows import Row
from flowrunner_provider.email.css import inlined
from flowrunner_provider.email.message import header_name
from flowrunner_provider.email.plain_text import plain_text

__all__ = ["Content"]


class Content:
    """What a batch says, and to which columns.

    :param html: template of the HTML, or None; a plain text is derived from it unless there is ``text``.
    :param headers: name -> template.
    :param attachments: for everybody; encoded once.
    :param column: a column with file names below ``folder``, for attachments of the row's own.
    :param inline_css: move the rules of ``<style>`` into the elements.
    """

    def __init__(
        self,
        templates: Templates,
        *,
        sender: Mailbox,
        reply_to: Sequence[Mailbox],
        to: str,
        to_name: str | None,
        subject: RowTemplate,
        html: RowTemplate | None,
        text: RowTemplate | None,
        headers: Mapping[str, str],
        attachments: Sequence[Attachment],
        column: str | None,
        folder: str | None,
        limit: int,
        inline_css: bool = True,
    ) -> None:
        self._sender, self._reply_to, self._to, self._to_name = sender, tuple(reply_to), to, to_name
        self._subject, self._html, self._text = subject, html, text
        self._headers = [(header_name(name), templates.text(value, "headers")) for name, value in headers.items()]
        self._parts = [encoded(attachment) for attachment in attachments]
        self._column, self._limit, self._inline_css = column, limit, inline_css
        self._folder = Path(folder) if folder else None
        self.identity = fingerprint(
            [(box.name, box.address) for box in (sender, *reply_to)],
            [to, to_name, column, folder, [name for name, _ in self._headers]],
            [html is None, text is None, inline_css, templates.sources, templates.context],
            [(each.name, each.content_type, each.sha256) for each in attachments],
        )

    def form(self, at: str) -> LetterForm:
        """The common part of all letters that are dated ``at`` (ISO 8601)."""
        return LetterForm(
            sender=self._sender, reply_to=self._reply_to, parts=self._parts, date=datetime.fromisoformat(at)
        )

    def compose(self, row: Row) -> Letter:
        """The letter for ``row``.

        :raises ConfigError: naming the column or template, when it cannot be written.
        :raises NotFound: when a file of its own is not there.
        :raises PathEscape: when one leads out of the folder.
        """
        html = None if self._html is None else self._html(row)
        text = plain_text(html or "") if self._text is None else self._text(row)
        subject = self._subject(row)
        return Letter(
            sender=self._sender,
            to=recipient(_text(row, self._to), _text(row, self._to_name), self._to),
            subject=header_text(subject, "subject"),
            text=text,
            html=inlined(html) if html is not None and self._inline_css else html,
            headers=[(name, header_text(value(row), "headers")) for name, value in self._headers],
            parts=self._own(row) if self._column else (),
        )

    def _own(self, row: Row) -> list[bytes]:
        value = row.get(self._column or "")
        names = [value] if isinstance(value, str) else value or []
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"column {self._column!r} must hold file names", field="attachment_column")
        paths = [_file(self._folder or Path.cwd(), name) for name in names if name]
        return [encoded(attachment) for attachment in read_all(paths, self._limit)]


def _file(folder: Path, name: str) -> str:
    path = resolve_inside(folder, name)
    if not path.is_file():
        raise ConfigError(f"there is no file {name!r} in the attachment_folder", field="attachment_column")
    return str(path)


def _text(row: Row, column: str | None) -> str:
    value: Any = row.get(column) if column else None
    return "" if value is None else str(value).strip()
