"""Builds and validates all messages before the first one is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.data.dataset import Dataset
from flowrunner_provider.data.readers import open_rows
from flowrunner_provider.http.item_template import compile_text
from flowrunner_provider.sms.gateway import Text
from flowrunner_provider.sms.numbers import phone_number
from flowrunner_provider.sms.segments import segmented

__all__ = ["MAX_RECIPIENTS", "Draft", "Letters", "addressed"]

MAX_RECIPIENTS = 1000
"""Rows of one task: each has a record of its own in the state store."""

_WHATSAPP = 4096


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What all messages have in common.

    :param body: the text; ``{item.name}`` inserts a column of a row.
    :param column: the column with the number, for rows that are mappings.
    :param max_segments: maximum segments per text.
    :param dedupe: send the same text to the same number only once.
    """

    body: str
    sender: str
    channel: str = "sms"
    column: str = "phone"
    max_segments: int = 3
    dedupe: bool = True


@dataclass(frozen=True, kw_only=True)
class Letters:
    """The validated messages.

    :param rows: number of rows.
    :param texts: row -> message.
    :param invalid: row -> why no message can be sent.
    :param duplicates: number of rows with the same number and text as an earlier one.
    """

    rows: int
    texts: dict[int, Text]
    invalid: dict[int, str]
    duplicates: int


def addressed(to: Any, draft: Draft) -> Letters:
    """Return the messages to ``to``: a number, a list of numbers or mappings, or a dataset.

    An invalid row does not stop the others, unless every row is invalid.

    :raises ConfigError: when no row is valid.
    :raises NotFound: when there are no rows.
    """
    if not isinstance(draft.body, str) or not draft.body.strip():
        raise ConfigError("the message has no text", field="body", remedy="give `body`, or correct its template")
    rows = _rows(to)
    if not rows:
        raise NotFound("`to` has no rows", remedy="skip the task when there is nobody to write to")
    fill = compile_text(draft.body, "body")
    texts: dict[int, Text] = {}
    invalid: dict[int, str] = {}
    first: ConfigError | None = None
    for index, row in enumerate(rows):
        try:
            texts[index] = _text(row, index, draft, draft.body if fill is None else fill(row, index))
        except ConfigError as error:
            first = first or error
            invalid[index] = error.message
    if first is not None and not texts:
        raise first
    kept = {index: text for index, text in texts.items() if not draft.dedupe or _is_first(texts, index, text)}
    return Letters(rows=len(rows), texts=kept, invalid=invalid, duplicates=len(texts) - len(kept))


def _is_first(texts: Mapping[int, Text], index: int, text: Text) -> bool:
    return next(other for other, known in texts.items() if known == text) == index


def _text(row: Any, index: int, draft: Draft, body: str) -> Text:
    number = row.get(draft.column) if isinstance(row, Mapping) else row
    if number is None:
        raise ConfigError(
            f"row {index} has no {draft.column!r}", field="to_column", remedy="name the column with the number"
        )
    number = phone_number(number, "to")
    found = segmented(body)
    if draft.channel == "whatsapp":
        if len(body) > _WHATSAPP:
            raise ConfigError(f"the text has {len(body):,} characters; WhatsApp takes {_WHATSAPP:,}", field="body")
    elif found.segments > draft.max_segments:
        why = ", as it has characters outside the GSM alphabet" if found.encoding == "ucs-2" else ""
        raise ConfigError(
            f"the text makes {found.segments} segments{why}; max_segments is {draft.max_segments}",
            field="max_segments",
            remedy="shorten it, or raise max_segments: each segment is billed",
        )
    return Text(number=number, body=body, sender=draft.sender, channel=draft.channel, segments=found.segments)


def _rows(to: Any) -> list[Any]:
    if isinstance(to, str) and to.startswith("+"):
        return [to]
    if isinstance(to, list | tuple):
        if not all(isinstance(row, str | Mapping) for row in to):
            raise ConfigError(
                "`to` must list numbers or mappings",
                field="to",
                remedy='write ["+14155550123"] or [{"phone": "+1..."}]',
            )
        rows = list(to)
    else:
        rows = _read(Dataset.from_value(to, field="to"))
    if len(rows) > MAX_RECIPIENTS:
        raise _too_many()
    return rows


def _read(source: Dataset) -> list[Any]:
    rows: list[Any] = []
    with open_rows(source) as reader:
        for batch in reader:
            rows += [dict(zip(reader.columns, values, strict=True)) for values in batch]
            if len(rows) > MAX_RECIPIENTS:
                raise _too_many()
    return rows


def _too_many() -> ConfigError:
    return ConfigError(
        f"there are more than {MAX_RECIPIENTS:,} recipients",
        field="to",
        remedy="split them, e.g. with one mapped task for each part",
    )
