"""One declaration, several uses: dataclasses and signatures as JSON Schema, and values validated against them.

A connection's settings are one frozen, keyword-only dataclass whose fields are declared with :func:`option`. The
connection form, validation, documentation and masking are derived from it. An action's parameters are derived from its
keyword-only signature with type hints and ``:param:`` documentation.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from flowrunner_provider.core.errors import ConfigError, Json

__all__ = [
    "PythonOnly",
    "connection_form",
    "from_mapping",
    "option",
    "param_docs",
    "parse_duration",
    "schema_of_dataclass",
    "schema_of_signature",
    "schema_of_type",
    "secret_fields",
]

T = TypeVar("T")

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?", re.ASCII)
_PLAIN: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", bytes: "string"}


class PythonOnly:
    """Marks a parameter as ``Annotated[..., PythonOnly]``, e.g. a callable: it is left out of the catalogue."""


def option(default: Any = dataclasses.MISSING, *, label: str, help: str = "", secret: bool = False) -> Any:  # noqa: A002
    """Declare a field of a settings dataclass.

    :param default: default value; without it, the field is required. A list or dict is copied per instance.
    :param label: name in the connection form.
    :param help: one sentence for the form and the documentation.
    :param secret: mask the value everywhere, and omit it from the representation.
    """
    metadata = {"label": label, "help": help, "secret": secret}
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata, repr=not secret)
    return dataclasses.field(default=default, metadata=metadata, repr=not secret)


def secret_fields(cls: type) -> list[str]:
    """Return the names of a settings dataclass's secret fields."""
    return [field.name for field in dataclasses.fields(cls) if field.metadata.get("secret")]


def parse_duration(value: str | float | timedelta, field: str = "duration") -> timedelta:
    """Parse ``"90s"``, ``"5m"``, ``"1h30m"``, ``"2d"``, a number of seconds, or a timedelta.

    :raises ConfigError: naming ``field``, for anything else and for negative values.
    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) and value else None
    try:
        if isinstance(value, timedelta):
            duration = value
        elif match is not None:
            days, hours, minutes, seconds = (float(part or 0) for part in match.groups())
            duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            duration = timedelta(seconds=value)
        else:
            raise ValueError
    except (ValueError, OverflowError):  # no duration at all, NaN, or beyond what a timedelta holds
        raise ConfigError(
            f"{field}: {str(value)[:40]!r} is not a duration", field=field, remedy="write '90s', '5m', '1h30m' or '2d'"
        ) from None
    if duration < timedelta(0):
        raise ConfigError(f"{field}: {value!r} is negative", field=field, remedy="give a positive duration")
    return duration


def schema_of_type(hint: Any) -> dict[str, Json]:
    """Return the JSON Schema of a type hint; an unknown type allows anything."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return schema_of_type(arguments[0])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return _schema_of_union(arguments)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if hint is timedelta:
        return {"type": "string", "format": "duration", "examples": ["90s", "5m", "1h30m"]}
    if hint is datetime:
        return {"type": "string", "format": "date-time"}
    if hint is type(None):
        return {"type": "null"}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return schema_of_dataclass(hint)
    return _schema_of_container(hint, origin, arguments)


def _schema_of_container(hint: Any, origin: Any, arguments: tuple[Any, ...]) -> dict[str, Json]:
    kind = origin or hint
    if not isinstance(kind, type):
        return {}
    if issubclass(kind, PurePath):
        return {"type": "string"}
    if issubclass(kind, Mapping):
        values = schema_of_type(arguments[1]) if len(arguments) == 2 else {}
        return {"type": "object", **({"additionalProperties": values} if values else {})}
    if issubclass(kind, Iterable):
        items = [argument for argument in arguments if argument is not Ellipsis]
        return {"type": "array", **({"items": schema_of_type(items[0])} if items else {})}
    return {}


def _schema_of_union(arguments: Sequence[Any]) -> dict[str, Json]:
    branches = [schema_of_type(argument) for argument in arguments]
    if {} in branches:
        return {}
    simple = [branch.get("type") for branch in branches if set(branch) == {"type"}]
    if len(simple) == len(branches):
        return {"type": simple}
    return {"anyOf": list(branches)}


def schema_of_dataclass(cls: type) -> dict[str, Json]:
    """Return the JSON Schema of a settings or result dataclass; secrets have ``format: password``."""
    hints = get_type_hints(cls, include_extras=True)
    properties: dict[str, Json] = {}
    required: list[Json] = []
    for field in dataclasses.fields(cls):
        schema = schema_of_type(hints[field.name])
        if field.metadata.get("label"):
            schema["title"] = field.metadata["label"]
        if field.metadata.get("help"):
            schema["description"] = field.metadata["help"]
        if field.metadata.get("secret"):
            schema["format"] = "password"
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        elif field.default is not dataclasses.MISSING:
            schema["default"] = _plain(field.default)
        properties[field.name] = schema
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


_STANDARD = ("host", "schema", "login", "password", "port")
"""Standard fields of every Airflow connection."""


def connection_form(cls: type) -> dict[str, Json]:
    """Return the form of a connection type with the settings ``cls``, as expected in Airflow's provider info.

    :return: ``ui-field-behaviour`` for the standard fields, ``conn-fields`` for those stored in the extra.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    properties: Any = schema_of_dataclass(cls)["properties"]
    shown = [name for name in _STANDARD if name in fields]
    own: dict[str, Json] = {}
    for name in fields.keys() - set(shown):
        schema = _form_schema(properties[name])
        if fields[name].metadata["secret"]:
            schema["format"] = "password"
        own[name] = {
            "label": fields[name].metadata["label"],
            "description": fields[name].metadata["help"],
            "schema": schema,
        }
    behaviour: dict[str, Json] = {
        "hidden-fields": [name for name in _STANDARD if name not in shown],
        "relabeling": {name: fields[name].metadata["label"] for name in shown},
    }
    return {"ui-field-behaviour": behaviour, "conn-fields": {name: own[name] for name in fields if name in own}}


def _form_schema(schema: Any) -> dict[str, Json]:
    """A field's schema as the form reads it: an optional choice is one list, with null in it."""
    flat = {key: value for key, value in schema.items() if key not in ("title", "description")}
    for choice in flat.pop("anyOf", []):
        flat.setdefault("enum", []).extend(choice.get("enum", [None]))
    return flat


def schema_of_signature(function: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Json]:
    """Return the JSON Schema of a function's keyword-only parameters.

    :param function: usually an operator's ``__init__``.
    :param skip: parameters to omit; those marked :class:`PythonOnly` are always omitted.
    """
    hints = get_type_hints(function, include_extras=True)
    properties: dict[str, Json] = {}
    required: list[Json] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name in skip:
            continue
        hint = hints.get(name, Any)
        if PythonOnly in get_args(hint):
            continue
        schema = schema_of_type(hint)
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
        else:
            schema["default"] = _plain(parameter.default)
        properties[name] = schema
    return {"type": "object", "properties": properties, "additionalProperties": False, "required": required}


def _plain(value: Any) -> Json:
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def param_docs(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Split a Sphinx docstring into its prose and its ``:param name:`` texts, each on one line."""
    text = inspect.cleandoc(docstring or "")
    prose, *fields = re.split(r"^:", text, flags=re.MULTILINE)
    params: dict[str, str] = {}
    for field in fields:
        match = re.match(r"param (\w+):\s*(.*)", field, flags=re.DOTALL)
        if match:
            params[match[1]] = " ".join(match[2].split())
    return prose.strip(), params


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str) -> T:
    """Build a settings dataclass from JSON-like values, checking names and types.

    :param values: e.g. the ``flowrunner`` key of a connection's extra.
    :param where: what the values belong to, for messages, e.g. ``connection 'shop'``.
    :raises ConfigError: naming the field, for unknown names, wrong types and missing values.
    """
    hints = get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            remedy = f"did you mean {close[0]!r}?" if close else f"known options: {', '.join(known)}"
            raise ConfigError(f"{where} has an unknown option {name!r}", field=name, remedy=remedy)
    converted = {name: _convert(value, hints[name], name, where) for name, value in values.items()}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        optional = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
        if field.name not in converted and not optional:
            raise ConfigError(
                f"{where} lacks {field.name!r}",
                field=field.name,
                remedy=str(field.metadata.get("help") or ""),
            )
    return cls(**converted)


def _convert(value: Any, hint: Any, name: str, where: str) -> Any:
    """Return ``value`` as the type ``hint``, or raise ConfigError."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _convert(value, arguments[0], name, where)
    if origin in (Union, types.UnionType):
        return _convert_union(value, arguments, name, where)
    if hint is Any or _is_instance(value, hint, origin, arguments):
        return tuple(value) if (origin or hint) is tuple else value
    if hint is timedelta:
        return parse_duration(value, name)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return from_mapping(hint, value, where=f"{where}, {name}")
    raise ConfigError(
        f"{where}: option {name!r} must be {_describe(hint)}{_instead(value, (hint,))}",
        field=name,
        remedy=f"correct {name!r} in {where}",
    )


def _convert_union(value: Any, arguments: Sequence[Any], name: str, where: str) -> Any:
    for argument in arguments:
        try:
            return _convert(value, argument, name, where)
        except ConfigError:
            continue
    wanted = " or ".join(_describe(argument) for argument in arguments)
    raise ConfigError(
        f"{where}: option {name!r} must be {wanted}{_instead(value, arguments)}",
        field=name,
        remedy=f"correct {name!r} in {where}",
    )


def _instead(value: Any, hints: Sequence[Any]) -> str:
    """Return the type of a wrong value, unless it has the right type and is only none of the choices."""
    choices = [choice for hint in hints if get_origin(hint) is Literal for choice in get_args(hint)]
    return "" if type(value) in map(type, choices) else f", not {type(value).__name__}"


def _is_instance(value: Any, hint: Any, origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is Literal:
        return value in arguments
    kind = origin or hint
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is tuple:
        return isinstance(value, list | tuple)
    return isinstance(kind, type) and isinstance(value, kind)


def _describe(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(argument) for argument in get_args(hint))
    if hint is timedelta:
        return "a duration such as '5m'"
    if hint is type(None):
        return "null"
    return getattr(hint, "__name__", None) or str(typing.cast(Any, hint))
