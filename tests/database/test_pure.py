"""Identifiers, driver parameters and the raw CSV check, without any database."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.database.config import driver_parameters
from flowrunner_provider.database.dialects.model import CsvFile
from flowrunner_provider.database.dialects.postgres_copy import CsvCopier
from flowrunner_provider.database.dialects.postgres_csv import Unfit, blocks
from flowrunner_provider.database.identifiers import Identifier, Quoting, TableName
from tests.database.payloads import PAYLOADS


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("orders", (None, "orders")),
        ("Sales.Orders", ("Sales", "Orders")),
        ('"a.b"."c ""d"""', ("a.b", 'c "d"')),
        ('sales."x"', ("sales", "x")),
        ("größe", (None, "größe")),
    ],
)
def test_table_names(text: str, parts: tuple[str | None, str]) -> None:
    name = TableName.parse(text)
    assert (name.schema.text if name.schema else None, name.name.text) == parts
    assert TableName.parse(str(name)) == name


@pytest.mark.parametrize(
    "text", ["", ".", "a.", ".a", "a.b.c", "a b", "1a", '"a', 'a"b"', '""', "a;b", "a--", "a\n", None, 7]
)
def test_invalid_table_names(text: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        TableName.parse(text)
    assert caught.value.field == "table"


@given(st.text())
def test_quoted_names_read_back(text: str) -> None:
    """Any text is either one quoted token that reads back as the same name, or an error."""
    try:
        quoted = Identifier(text).quoted(Quoting())
    except ConfigError:
        assert not text or "\0" in text or len(text.encode("utf-8", "surrogatepass")) > 63 or not _valid(text)
        return
    assert quoted[0] == quoted[-1] == '"'
    assert '"' not in quoted[1:-1].replace('""', "")
    assert quoted[1:-1].replace('""', '"') == text


def _valid(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_payloads_are_plentiful() -> None:
    assert len(set(PAYLOADS)) >= 200


def test_driver_parameters() -> None:
    extra = {"sslmode": "verify-full", "keepalives_idle": 30, "flowrunner": {}, "cursor": "dictcursor"}
    assert driver_parameters(extra, "c") == {"sslmode": "verify-full", "keepalives_idle": 30}
    for name in ("options", "service", "passfile", "host", "dbname", "user", "client_encoding", "hostaddr"):
        with pytest.raises(ConfigError, match=f"'{name}' is not allowed"):
            driver_parameters({name: "x"}, "c")


VALUES = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), st.integers())


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_copied_rows_read_back(rows: list[tuple[Any, ...]]) -> None:
    """NULL and empty text stay distinct, and no line ends the data early."""
    copier, sent = CsvCopier(2, json=[]), []
    copier.send = sent.append  # type: ignore[method-assign]
    copier.write(rows)
    text = b"".join(sent).decode()
    assert "\\.\r\n" not in text.split('"')[0]
    parsed = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert parsed == [["" if value is None else str(value) for value in row] for row in rows]


@given(st.lists(st.lists(st.text('ab",\n\r é', max_size=4), min_size=3, max_size=3), max_size=6), st.integers(0, 3))
def test_regular_files_pass_unchanged(rows: list[list[str]], style: int) -> None:
    end = "\r\n" if style & 1 else "\n"
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["x", "y", "z"], *rows])
    text = buffer.getvalue()
    text = text.removesuffix(end) if style & 2 else text
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(text.encode())
        file = CsvFile(path=str(path), width=3, delimiter=",", encoding="utf-8", null_text="")
        if style & 2 and not rows:
            with pytest.raises(Unfit):
                list(blocks(file))
            return
        body = b"".join(blocks(file))
    assert list(csv.reader(io.StringIO(body.decode(), newline=""))) == rows
