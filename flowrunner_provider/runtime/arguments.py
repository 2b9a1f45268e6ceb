"""Refuses arguments of the wrong type by name, before a task has any effect."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import schema_of_signature

__all__ = ["check_arguments"]

_PACKAGE = __name__.partition(".")[0]

_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (type(None), "null"),
    (bool, "boolean"),
    ((int, float), "number"),
    (Mapping, "object"),
    ((list, tuple, set, frozenset), "array"),
    (PurePath, "path"),
)
_COMPATIBLE = {"integer": {"number"}, "number": {"boolean"}, "boolean": {"number"}}
"""More kinds that a JSON type takes: the actions themselves check numbers and switches more closely."""

_NAMES = {
    "null": "None",
    "boolean": "True or False",
    "number": "a number",
    "integer": "a whole number",
    "object": "a dict",
    "array": "a list",
    "string": "text",
}


def check_arguments(task: Any) -> None:
    """Raise unless every argument of ``task`` has a type that the constructors of its own classes declare.

    Text passes everywhere, because a template renders to text; so do objects of other classes.

    :raises ConfigError: names the argument, e.g. one that is None because it is the XCom of a task without a result.
    """
    for cls in type(task).__mro__:
        if cls.__module__.partition(".")[0] != _PACKAGE or "__init__" not in vars(cls):
            continue
        properties: Any = schema_of_signature(vars(cls)["__init__"])["properties"]
        for name, schema in properties.items():
            if name not in vars(task) or _accepts(schema, value := getattr(task, name)):
                continue
            kind, hint = _kind_of(value), ""
            if value is None:
                hint = "; the XCom of a task without a result is None"
            has = _NAMES.get(kind, f"a {type(value).__name__}")
            raise ConfigError(
                f"{name} is {has}" if not _accepts(_shallow(schema), value) else f"{name} is {has} with a wrong item",
                field=name,
                remedy=f"pass {' or '.join(dict.fromkeys(_wanted(schema)))}{hint}",
            )


def _kind_of(value: Any) -> str:
    return next((kind for classes, kind in _KINDS if isinstance(value, classes)), "string")


def _types_of(schema: Any) -> set[str]:
    if "enum" in schema:
        return {_kind_of(member) for member in schema["enum"]}
    found = schema["type"]
    types = set(found) if isinstance(found, list) else {found}
    if schema.get("format") == "duration":
        types.add("number")
    return types.union(*(_COMPATIBLE.get(name, set()) for name in types))


def _accepts(schema: Any, value: Any) -> bool:
    """Whether ``value``, and each item of a list, is of a kind that ``schema`` allows."""
    kind = _kind_of(value)
    if kind == "string" or not ({"anyOf", "enum", "type"} & set(schema)):
        return True
    if "anyOf" in schema:
        return any(_accepts(branch, value) for branch in schema["anyOf"])
    if kind not in _types_of(schema):
        return False
    return kind != "array" or all(_accepts(schema.get("items", {}), item) for item in value)


def _shallow(schema: Any) -> Any:
    """``schema`` without what it says about the items of a list."""
    if "anyOf" in schema:
        return {**schema, "anyOf": [_shallow(branch) for branch in schema["anyOf"]]}
    return {key: value for key, value in schema.items() if key != "items"}


def _wanted(schema: Any) -> list[str]:
    if "anyOf" in schema:
        return [name for branch in schema["anyOf"] for name in _wanted(branch)]
    if "enum" in schema:
        return ["one of " + ", ".join(map(str, schema["enum"]))]
    if schema.get("format") == "duration":
        return ["a duration such as '5m'"]
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    items = schema.get("items", {}).get("type")
    of = " of text" if items == "string" else ""
    return [_NAMES[name] + (of if name == "array" else "") for name in types if name != "null"]
