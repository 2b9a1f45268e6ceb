"""One declaration read as schema, validation and documentation."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import (
    PythonOnly,
    connection_form,
    from_mapping,
    option,
    param_docs,
    parse_duration,
    schema_of_dataclass,
    schema_of_signature,
    schema_of_type,
    secret_fields,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: int = option(1, label="Depth")


@dataclass(frozen=True, kw_only=True)
class Config:
    host: str = option(label="Host", help="Where the server is.")
    port: int = option(22, label="Port")
    password: str | None = option(None, label="Password", secret=True)
    mode: Literal["a", "b"] = option("a", label="Mode")
    wait: timedelta = option(timedelta(seconds=5), label="Wait")
    ratio: float = option(1.0, label="Ratio")
    tags: tuple[str, ...] = option((), label="Tags")
    headers: dict[str, str] = option({}, label="Headers")
    inner: Inner | None = option(None, label="Inner")
    strict: bool = option(True, label="Strict")


def read(**values: Any) -> Config:
    return from_mapping(Config, values, where="connection 'shop'")


def test_reads_values_as_their_types() -> None:
    config = read(host="h", wait="1m30s", ratio=2, tags=["x"], inner={"depth": 3}, strict=False)
    assert (config.wait, config.ratio, config.tags) == (timedelta(seconds=90), 2.0, ("x",))
    assert config.inner == Inner(depth=3)
    assert config.strict is False


@pytest.mark.parametrize(
    ("values", "field", "text"),
    [
        ({"host": "h", "prot": 5}, "prot", "did you mean 'port'"),
        ({"host": "h", "zzz": 5}, "zzz", "known options: host, port"),
        ({}, "host", "Where the server is"),
        ({"host": "h", "port": "22"}, "port", "must be int, not str"),
        ({"host": "h", "port": True}, "port", "must be int, not bool"),
        ({"host": "h", "mode": "c"}, "mode", "must be one of 'a', 'b' ->"),
        ({"host": "h", "mode": 5}, "mode", "must be one of 'a', 'b', not int"),
        ({"host": "h", "wait": "soon"}, "wait", "^wait: 'soon' is not a duration"),
        ({"host": "h", "tags": "x"}, "tags", "must be tuple, not str"),
        ({"host": "h", "inner": {"dept": 1}}, "inner", "must be Inner or null"),
        ({"host": "h", "strict": "false"}, "strict", "must be bool, not str"),
    ],
)
def test_bad_values_name_the_field_and_the_remedy(values: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        read(**values)
    assert caught.value.field == field


def test_the_schema_says_what_the_reader_checks() -> None:
    schema = schema_of_dataclass(Config)
    properties: Any = schema["properties"]
    assert schema["required"] == ["host"]
    assert schema["additionalProperties"] is False
    assert properties["host"] == {"type": "string", "title": "Host", "description": "Where the server is."}
    assert properties["password"]["format"] == "password"
    assert properties["mode"]["enum"] == ["a", "b"]
    assert properties["wait"]["default"] == "5s"
    assert secret_fields(Config) == ["password"]


@pytest.mark.parametrize(
    ("hint", "schema"),
    [
        (str | None, {"type": ["string", "null"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (dict[str, Any], {"type": "object"}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Path, {"type": "string"}),
        (Any, {}),
        (str | Any, {}),
        (str | list[str], {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
        (Annotated[int, "doc"], {"type": "integer"}),
        (timedelta, {"type": "string", "format": "duration", "examples": ["90s", "5m", "1h30m"]}),
    ],
)
def test_type_hints_become_json_schema(hint: Any, schema: dict[str, Any]) -> None:
    assert schema_of_type(hint) == schema


def test_a_signature_is_a_schema_without_what_only_python_has() -> None:
    def function(
        self: Any,
        *,
        to: str,
        wait: str | timedelta = timedelta(minutes=1),
        hook: Annotated[Callable[[], None] | None, PythonOnly] = None,
        **kwargs: Any,
    ) -> None: ...

    schema: Any = schema_of_signature(function, skip=["task_id"])
    assert list(schema["properties"]) == ["to", "wait"]
    assert schema["required"] == ["to"]
    assert schema["properties"]["wait"]["default"] == "60s"


def test_docstrings_give_up_their_parameters() -> None:
    prose, params = param_docs(
        """Do a thing. Twice.

        More.

        :param one: first line
            and second.
        :param two: short.
        :return: nothing.
        """
    )
    assert prose == "Do a thing. Twice.\n\nMore."
    assert params == {"one": "first line and second.", "two": "short."}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("2d", 172800), (7, 7), (0.5, 0.5), ("1.5s", 1.5)],
)
def test_durations(text: str | float, seconds: float) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("value",
    ["", "5", "m5", "5x", "-5m", "5m 3s", None, [], -1, timedelta(-1), True, "9999999999d", "9" * 400 + "s", 10**400,
     float("nan"), float("inf")],
)  # fmt: skip
def test_what_is_no_duration_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_duration(value, "timeout")
    assert caught.value.field == "timeout"


@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.integers(1, 99))
def test_any_duration_reads_as_its_sum(days: int, hours: int, minutes: int, seconds: int) -> None:
    whole = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    assert parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == whole


@dataclass(frozen=True, kw_only=True)
class _Formed:
    host: str = option(label="Server")
    token: str = option("", label="Token", help="From the vendor.", secret=True)
    size: Literal["s", "m"] | None = option(None, label="Size")


def test_the_form_of_a_connection_type() -> None:
    form = connection_form(_Formed)
    assert form["ui-field-behaviour"] == {
        "hidden-fields": ["schema", "login", "password", "port"],
        "relabeling": {"host": "Server"},
    }
    assert form["conn-fields"] == {
        "token": {
            "label": "Token",
            "description": "From the vendor.",
            "schema": {"type": "string", "default": "", "format": "password"},
        },
        "size": {"label": "Size", "description": "", "schema": {"enum": ["s", "m", None], "default": None}},
    }
