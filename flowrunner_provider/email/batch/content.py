"""Composes the mail of a row."""

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
from flowrunner_provider.email.batch.row_mail import RowMail, RowMailBuilder, encode_attachment, parse_recipient
from flowrunner_provider.email.batch.row_template import RowTemplate, Templates
from flowrunner_provider.email.batch.rows import Row
from flowrunner_provider.email.css import inline_styles
from flowrunner_provider.email.message import header_name
from flowrunner_provider.email.plain_text import html_to_text

__all__ = ["Content"]


class Content:
    """The content of a batch: templates, columns and attachments.

    :param html: template of the HTML body, or None; the plain-text body is derived from it if ``text`` is None.
    :param headers: name -> template.
    :param attachments: the shared attachments; encoded once.
    :param column: the column with the names of a row's attachments, below ``folder``.
    :param inline_css: move ``<style>`` rules into ``style`` attributes.
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
        self._parts = [encode_attachment(attachment) for attachment in attachments]
        self._column, self._limit, self._inline_css = column, limit, inline_css
        self._folder = Path(folder) if folder else None
        self.identity = fingerprint(
            [(box.name, box.address) for box in (sender, *reply_to)],
            [to, to_name, column, folder, [name for name, _ in self._headers]],
            [html is None, text is None, inline_css, templates.sources, templates.context],
            [(item.name, item.content_type, item.sha256) for item in attachments],
        )

    def builder(self, at: str) -> RowMailBuilder:
        """Return the builder of mails that are dated ``at`` (ISO 8601)."""
        return RowMailBuilder(
            sender=self._sender, reply_to=self._reply_to, parts=self._parts, date=datetime.fromisoformat(at)
        )

    def compose(self, row: Row) -> RowMail:
        """Return the mail for ``row``.

        :raises ConfigError: naming the column or template at fault.
        :raises NotFound: when an attachment does not exist.
        :raises PathEscape: when an attachment's name leads outside the folder.
        """
        html = None if self._html is None else self._html(row)
        text = html_to_text(html or "") if self._text is None else self._text(row)
        subject = self._subject(row)
        return RowMail(
            sender=self._sender,
            to=parse_recipient(_cell(row, self._to), _cell(row, self._to_name), self._to),
            subject=header_text(subject, "subject"),
            text=text,
            html=inline_styles(html) if html is not None and self._inline_css else html,
            headers=[(name, header_text(value(row), "headers")) for name, value in self._headers],
            parts=self._row_attachments(row) if self._column else (),
        )

    def _row_attachments(self, row: Row) -> list[bytes]:
        value = row.get(self._column or "")
        names = [value] if isinstance(value, str) else value or []
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"column {self._column!r} must hold file names", field="attachment_column")
        paths = [_attachment_path(self._folder or Path.cwd(), name) for name in names if name]
        return [encode_attachment(attachment) for attachment in read_all(paths, self._limit)]


def _attachment_path(folder: Path, name: str) -> str:
    path = resolve_inside(folder, name)
    if not path.is_file():
        raise ConfigError(f"attachment_folder has no file {name!r}", field="attachment_column")
    return str(path)


def _cell(row: Row, column: str | None) -> str:
    value: Any = row.get(column) if column else None
    return "" if value is None else str(value).strip()
