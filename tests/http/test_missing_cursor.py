"""A `cursor_path` that leads nowhere: an error if the page announces a next page, otherwise a warning."""

from __future__ import annotations

import json
import logging

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.missing_cursor import announced_next, is_missing
from flowrunner_provider.http.operators import HttpPaginateOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import json_reply


@pytest.fixture
def fetch(monkeypatch, http_server, tmp_path):
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps({"conn_type": "http", "host": http_server.url}))

    def perform(*pages, **how):
        def page(request):
            return json_reply(pages[int(request.query.get("cursor", ["0"])[0])])

        http_server.route("GET", "/x", page)
        arguments = {"strategy": "cursor", "records_path": "data", "cursor_path": "meta.cursor", **how}
        operator = HttpPaginateOperator(task_id="t", endpoint="/x", save_to=str(tmp_path / "r.jsonl"), **arguments)
        return execute(operator, make_context(operator, state=FileStateStore(tmp_path / "state")))

    return perform


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(HttpPaginateOperator, "log", Recorder(found))
    return found


class Recorder(logging.Logger):
    """A logger that keeps the text of its warnings."""

    def __init__(self, found: list[str]) -> None:
        super().__init__("test")
        self.found = found

    def warning(self, msg, *args, **more):
        self.found.append(msg % args)


ROWS = [{"id": 1}, {"id": 2}]


@pytest.mark.parametrize(
    ("page", "how", "key"),
    [
        ({"data": ROWS, "meta": {"next_cursor": "1"}}, {"cursor_path": "meta.nextcursor"}, "meta.next_cursor"),
        ({"data": ROWS, "meta": {"next_cursor": "1"}}, {"cursor_path": "paging.next_cursor"}, "meta.next_cursor"),
        ({"data": ROWS, "nextPageToken": "1"}, {"cursor_path": "nextToken"}, "nextPageToken"),
        ({"data": ROWS, "paging": {"next": {"after": "1"}}}, {"cursor_path": "paging.after"}, "paging.next"),
        ({"data": ROWS, "has_more": True}, {}, "has_more"),
        ({"data": ROWS, "_links": {"next": {"href": "/x?cursor=1"}}}, {"strategy": "next_url"}, "_links.next"),
        ({"value": ROWS, "nextLink": "/x?cursor=1"}, {"strategy": "odata", "cursor_path": None}, "nextLink"),
    ],
)
def test_a_misspelt_path_is_an_error_if_the_page_announces_a_next_one(fetch, tmp_path, page, how, key):
    if "value" in page:
        how = {**how, "records_path": "@"}
    with pytest.raises(e.ConfigError) as caught:
        fetch(page, {"data": []}, **how)
    assert caught.value.field == "cursor_path"
    assert f"`{key}`" in str(caught.value)
    assert not (tmp_path / "r.jsonl").exists()


@pytest.mark.parametrize(("page_size", "full"), [(None, False), (3, False), (2, True)])
def test_a_path_absent_from_the_first_page_is_a_warning(fetch, warnings, page_size, full):
    assert fetch({"data": ROWS, "meta": {}}, page_size=page_size)["rows"] == 2
    (text,) = warnings
    assert "'meta.cursor'" in text
    assert ("page_size" in text) == full


@pytest.mark.parametrize(
    ("pages", "how"),
    [
        ([{"data": ROWS, "meta": {"cursor": None}, "has_more": True}], {}),  # the API says that it ends
        ([{"data": ROWS, "meta": None}], {}),
        ([{"data": ROWS, "meta": {"cursor": ""}}], {}),
        ([{"data": [], "meta": {}}], {}),
        ([{"data": ROWS, "meta": {"cursor": "1"}}, {"data": ROWS, "meta": {}}], {}),  # omitted on the last page
        ([{"data": ROWS, "next": "1"}], {"cursor_path": "data[-1].cursor"}),  # no plain path
        ([{"data": ROWS, "next": "1"}], {"stop_when": "length(data) < `3`"}),
        ([{"data": ROWS, "next": "1"}], {"strategy": "link_header"}),
    ],
)
def test_other_ends_are_silent(fetch, warnings, pages, how):
    assert fetch(*pages, **how)["rows"] == sum(len(page["data"]) for page in pages)
    assert warnings == []


@pytest.mark.parametrize(
    "page",
    [
        {"nextSyncToken": "of the last page"},
        {"paging": {"cursors": {"after": "always sent"}}},
        {"next": None, "next_page": "", "nextOffset": 0, "has_more": False, "more": "words"},
        {"next_run_at": "2026-01-01", "offset": 100},
        {"data": [{"next": "a field of a record"}]},
        [{"next": 1}],
    ],
)
def test_what_announces_no_next_page(page):
    assert announced_next(page) is None


def test_a_deep_page_is_searched_to_a_limit():
    page = leaf = {}
    for _ in range(5_000):
        leaf["a"] = {}
        leaf = leaf["a"]
    leaf["next"] = "1"
    assert announced_next(page) is None


@pytest.mark.parametrize(
    ("path", "page", "missing"),
    [
        ("a", {}, True),
        ("a.b", {"a": {"c": 1}}, True),
        ("a.b", {"a": None}, False),
        ("a.b", {"a": {"b": None}}, False),
        ("a.b", {"a": [1]}, True),
        ('"@x.next" || "x.next"', {}, True),
        ('"@x.next" || "x.next"', {"x.next": None}, False),
        ("a[0].b", {}, False),
        ("not_null(a, b)", {}, False),
    ],
)
def test_whether_a_path_is_missing(path, page, missing):
    assert is_missing(path, page) is missing
