"""Places of an item's values in a request: what is filled, what is refused, what is left alone."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.http.item_template import RequestTemplate

ITEM = {"id": 7, "name": "Ä b", "tags": ["x", {"y": None}], "flag": True, "customer-id": "c"}


def fill(item=ITEM, index=3, **parts):
    return RequestTemplate(**parts).fill(item, index)


def test_whole_values_keep_their_type_and_texts_are_joined():
    body = {"a": "{item.tags}", "b": "no {item.id} of {index}, {item.flag}", "c": [1, "{item.tags.1.y}"], "d": "{item}"}
    sent = json.loads(fill(json=body).body)
    assert sent == {"a": ITEM["tags"], "b": "no 7 of 3, true", "c": [1, None], "d": ITEM}


def test_every_part_is_filled():
    request = fill(
        endpoint="/c/{item.customer-id}?q={item.name}",
        query={"id": "{item.id}", "tags": "{item.tags}", "fixed": 1},
        headers={"X-Name": "n-{item.id}", "X-None": None},
        data={"a": "{item.name}", "b": "1"},
    )
    assert request.endpoint == "/c/c?q=%C3%84%20b"
    assert request.params == {"id": 7, "tags": ITEM["tags"], "fixed": 1}
    assert request.headers == {"Content-Type": "application/x-www-form-urlencoded", "X-Name": "n-7"}
    assert request.body == b"a=%C3%84+b&b=1"
    assert fill(data="id={item.id}").body == b"id=7"


def test_values_are_data_and_never_looked_at_again():
    evil = {"a": "{item.b}", "b": "secret", "c": "{{ 7 * 7 }}{% raw %}"}
    request = fill(evil, endpoint="/{item.a}/{item.c}", json={"x": "{item.a}", "y": "- {item.c}"})
    assert "secret" not in request.endpoint
    assert json.loads(request.body) == {"x": "{item.b}", "y": "- {{ 7 * 7 }}{% raw %}"}


def test_other_braces_stay():
    assert fill(data='{"a": {"b": "{item.id}"}} {items} {x}').body == b'{"a": {"b": "7"}} {items} {x}'


@given(st.text(min_size=1).filter(lambda text: text not in (".", "..")))
def test_a_value_never_leaves_its_segment(text):
    try:
        endpoint = fill({"id": text}, endpoint="/a/{item.id}/b?x=1").endpoint
    except UnicodeEncodeError:
        return
    path = urlsplit("http://host" + endpoint)
    assert path.hostname == "host"
    assert path.path.split("/")[1::2] == ["a", "b"]
    assert unquote(path.path.split("/")[2]) == text
    assert path.query == "x=1"


@pytest.mark.parametrize("value", ["", ".", "..", None, [], {}])
def test_a_value_that_would_make_another_address_is_refused(value):
    with pytest.raises(ConfigError) as caught:
        fill({"id": value}, endpoint="/orders/{item.id}")
    assert caught.value.field == "items"
    assert caught.value.remedy


def test_two_values_do_not_step_up_together():
    with pytest.raises(ConfigError):
        fill({"a": "."}, endpoint="/x/{item.a}{item.a}/y")


@pytest.mark.parametrize(
    ("parts", "field"),
    [
        ({"endpoint": "/{ item.id }"}, "endpoint"),
        ({"endpoint": "/{item.id"}, "endpoint"),
        ({"endpoint": "/{item..id}"}, "endpoint"),
        ({"query": {"a": ["{item[0]}"]}}, "query"),
        ({"endpoint": "https://{item.host}/x"}, "endpoint"),
        ({"endpoint": "https://api.{item.host}"}, "endpoint"),
        ({"endpoint": "/../{item.id}"}, "endpoint"),
        ({"json": {}, "data": "x"}, "data"),
        ({"data": 1}, "data"),
        ({"json": {"a": {1, 2}}}, "json"),
    ],
)
def test_a_bad_request_is_refused_at_once(parts, field):
    with pytest.raises(ConfigError) as caught:
        RequestTemplate(**parts)
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("place", ["{item.none}", "{item.id.x}", "{item.tags.9}"])
def test_what_an_item_lacks_is_named(place):
    with pytest.raises(ConfigError, match="does not exist"):
        fill(json={"a": place})


def test_rows_of_parquet_are_written_as_text():
    item = {"day": date(2026, 1, 2), "amount": Decimal("1.10")}
    assert json.loads(fill(item, json="{item}").body) == {"day": "2026-01-02", "amount": "1.10"}
    assert fill(item, endpoint="/{item.day}").endpoint == "/2026-01-02"
