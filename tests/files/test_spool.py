"""A list in memory and one on the disk are the same list."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import PermanentError
from flowrunner_provider.files import spool, spool_sqlite
from flowrunner_provider.files.items import EPOCH, Item
from flowrunner_provider.files.spool import Rows, Spool

NAMES = st.sampled_from(["a", "a/b", "b", "B", "é", "\ud800", "\U0001f600", "\uffff", " ", "a\n"])
ITEMS = st.builds(
    Item,
    source=st.integers(0, 1),
    relative=NAMES,
    size=st.none() | st.integers(0, 1 << 40),
    modified=st.none() | st.timedeltas(timedelta(-(10**4)), timedelta(10**5)).map(EPOCH.__add__),
    version=st.sampled_from(["", "v"]),
)
MARKED = st.lists(st.tuples(ITEMS, st.none() | st.integers(1, 3)), max_size=20)


@pytest.fixture
def no_room(monkeypatch) -> None:
    monkeypatch.setattr(spool, "HELD", 0)


@pytest.fixture
def lists() -> Iterator[Spool]:
    made = Spool()
    yield made
    made.close()


def rows_of(files: list[tuple[Item, int | None]], spool: Spool) -> Rows:
    rows = spool.rows()
    for item, mark in files:
        rows.add(item, mark)
    return rows


def seen(rows: Rows, marked: list[str], after: tuple[int, str]) -> list[object]:
    """Everything that can be read of a list."""
    double = rows.twice()
    first = rows.added(0, 3), list(rows.sorted()), list(rows.sorted(after)), rows.sizes(after), rows.sizes((-1, ""))
    named = sorted(rows.named(marked))
    rows.mark(marked)
    alone = [item.relative for item in rows.unmarked()]
    return [rows.count, double, first, named, alone, rows.count_unmarked(), rows.added(3, 100)]


@given(files=MARKED, marked=st.lists(NAMES, max_size=3), after=st.tuples(st.integers(-1, 1), NAMES))
def test_in_memory_and_on_the_disk(files, marked, after):
    held, kept, moved = Spool(), Spool(), Spool()
    with pytest.MonkeyPatch.context() as patch:
        in_memory = seen(rows_of(files, held), marked, after)
        patch.setattr(spool, "HELD", 0)
        patch.setattr(spool_sqlite, "_VALUES", 2)
        on_disk = seen(rows_of(files, kept), marked, after)
        patch.setattr(spool, "HELD", 1_000)
        half = seen(rows_of(files, moved), marked, after)
    assert in_memory == on_disk == half
    for each in (held, kept, moved):
        each.close()


@given(files=MARKED, more=MARKED)
def test_kept_and_dropped(files, more):
    lists = Spool()
    other = {item for item, _ in more}
    kept, dropped = rows_of(files, lists), rows_of(files, lists)
    kept.keep(rows_of(more, lists))
    dropped.drop(rows_of(more, lists))
    assert [row[1] for row in kept.added(0, 100)] == [item for item, _ in files if item in other]
    assert [row[1] for row in dropped.added(0, 100)] == [item for item, _ in files if item not in other]
    lists.close()


def test_a_name_is_found_that_came_after_another_was_looked_for(lists):
    rows = lists.rows()
    for name in ("b", "a"):
        rows.add(Item(0, name, 1, None, ""))
        assert (list(rows.named([name, "x"])), next(rows.sorted()).relative) == ([name], name)


def test_a_short_list_needs_no_disk(lists, monkeypatch):
    monkeypatch.setattr(spool, "open_database", lambda: pytest.fail("it was opened"))
    seen(rows_of([(Item(0, "a", 1, None, ""), None)], lists), ["a"], (0, "a"))


@pytest.mark.usefixtures("no_room")
def test_a_disk_that_is_full(lists, monkeypatch):
    def full() -> sqlite3.Connection:
        database = sqlite3.connect("", isolation_level=None)
        database.execute("PRAGMA max_page_count = 3")
        return database

    monkeypatch.setattr(spool, "open_database", full)
    monkeypatch.setattr(spool_sqlite, "_BUFFER", 1)
    many = [(Item(0, f"{number}", 1, None, ""), None) for number in range(10_000)]
    with pytest.raises(PermanentError, match="folder for temporary files") as caught:
        rows_of(many, lists)
    assert "TMPDIR" in caught.value.remedy
