"""The catalogue: every action with its promise, parameters and result, derived from the code.

:func:`derive` imports all operators; it runs when the package is built. Everything else reads the generated
``catalogue.json`` with :func:`load`, which imports no operator.
"""

from __future__ import annotations

import collections.abc
import importlib
import importlib.metadata
import inspect
import json
import re
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import param_docs, schema_of_signature, schema_of_type
from flowrunner_provider.registry import ALIASES, CONNECTORS, REEXPORTS, Alias, Connector, Reexport

__all__ = ["ActionSpec", "derive", "find", "kept", "load", "missing_packages", "read_again"]

_FILE = "catalogue.json"
_KEPT = "reexports.json"
_KEPT_FACTS = ("kind", "promise", "params", "template_fields")
_BASE_PARAMETERS = ("retries", "retry_delay", "retry_policy", "poke_interval", "timeout")


@dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """One action.

    :param id: e.g. ``files.copy``.
    :param path: import string of the class.
    :param kind: ``operator``, ``sensor``, ``trigger`` or ``notifier``.
    :param category: its connector.
    :param promise: what is true on success, and what happens when it is killed or retried.
    :param params: JSON Schema of its parameters.
    :param output: JSON Schema of its result.
    :param template_fields: parameters rendered with Jinja.
    :param connections: Airflow connection types that it uses.
    :param requires: requirements to install.
    :param official: True for a class of an official provider.
    :param example: file name of an example DAG that uses it, or empty.
    """

    id: str
    path: str
    kind: str
    category: str
    promise: str
    params: dict[str, Any]
    output: dict[str, Any] = field(default_factory=dict)
    template_fields: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    requires: list[str] = field(default_factory=list)
    official: bool = False
    example: str = ""


def load() -> list[ActionSpec]:
    """Return all actions from ``catalogue.json``, ordered by id."""
    text = files("flowrunner_provider.flows").joinpath(_FILE).read_text(encoding="utf-8")
    return [ActionSpec(**entry) for entry in json.loads(text)["actions"]]


def find(action: str) -> ActionSpec:
    """Return an action by id or alias; the parameters that an alias sets become defaults.

    :raises ConfigError: with the closest ids, if it does not exist.
    """
    import difflib

    specs = {spec.id: spec for spec in load()}
    specs |= {entry.alias: _spec_of_alias(entry, specs[entry.action]) for entry in ALIASES}
    if action not in specs:
        close = difflib.get_close_matches(action, specs, 3, 0.5)
        remedy = f"did you mean {', '.join(close)}?" if close else "see `flowrunner actions`"
        raise ConfigError(f"there is no action {action!r}", field="action", remedy=remedy)
    return specs[action]


def _spec_of_alias(entry: Alias, spec: ActionSpec) -> ActionSpec:
    properties = dict(spec.params["properties"])
    for name, value in entry.given:
        properties[name] = {**properties[name], "default": value}
    return replace(spec, id=entry.alias, params={**spec.params, "properties": properties})


def missing_packages(spec: ActionSpec) -> list[str]:
    """Return those of ``spec.requires`` whose distributions are not installed."""
    missing = []
    for requirement in spec.requires:
        name = re.split(r"[\s<>=!\[;]", requirement, maxsplit=1)[0]
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement)
    return missing


def derive(examples: Path | None = None, known: dict[str, Any] | None = None) -> list[ActionSpec]:
    """Read every operator of the registry and every re-export.

    All packages must be installed except those of kept re-exports.

    :param examples: folder of the example DAGs.
    :param known: facts about the kept re-exports; by default those in ``reexports.json``.
    """
    sources = _read_examples(examples)
    specs = [
        _spec_of(cls, name, connector, sources)
        for connector in CONNECTORS
        for name in connector.operators
        for cls in _actions_in(importlib.import_module(name))
    ]
    specs += [
        _spec_of(_class_at(path), path.rpartition(".")[0], connector, sources)
        for connector in CONNECTORS
        for path in (*connector.notifiers, *connector.watchers)
    ]
    known = kept() if known is None else known
    specs += [
        _spec_of_kept(entry, known[entry.action], sources) if entry.kept else _spec_of_reexport(entry, sources)
        for entry in REEXPORTS
    ]
    return sorted(specs, key=lambda spec: spec.id)


def _read_examples(examples: Path | None) -> dict[str, str]:
    if examples is None:
        return {}
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(examples.glob("*.py"))}


def _example_of(class_name: str, sources: dict[str, str]) -> str:
    used = re.compile(rf"\b{class_name}\(")
    return next((name for name, text in sources.items() if used.search(text)), "")


def _actions_in(module: ModuleType) -> list[type]:
    found = [value for value in vars(module).values() if isinstance(value, type)]
    ours = f"{module.__name__}."
    return [cls for cls in found if f"{cls.__module__}.".startswith(ours) and vars(cls).get("action")]


def _spec_of(cls: Any, module: str, connector: Connector, sources: dict[str, str]) -> ActionSpec:
    prose, _ = param_docs(cls.__doc__)
    return ActionSpec(
        id=cls.action,
        path=f"{module}.{cls.__name__}",
        kind=_kind_of(cls),
        category=connector.name,
        promise=_promise(prose),
        params=_params_of(cls),
        output=_output_of(cls),
        template_fields=list(getattr(cls, "template_fields", ())),
        connections=list(connector.connections),
        requires=[f"airflow-provider-flowrunner[{','.join(connector.extras)}]"] if connector.extras else [],
        example=_example_of(cls.__name__, sources),
    )


def _params_of(cls: type) -> dict[str, Any]:
    """Return the documented parameters of a class and its bases in this package, its own first."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    docs: dict[str, str] = {}
    for base in cls.__mro__:
        if not base.__module__.startswith("flowrunner_provider.") or "__init__" not in vars(base):
            continue
        schema: Any = schema_of_signature(vars(base)["__init__"])
        for name, text in param_docs(base.__doc__)[1].items():
            docs.setdefault(name, text)
        for name, value in schema["properties"].items():
            if name not in properties and (base is cls or name not in _BASE_PARAMETERS or name == "timeout"):
                properties[name] = value
                required += [name] if name in schema["required"] else []
    for name, value in properties.items():
        if name in docs:
            value["description"] = docs[name]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _output_of(cls: type) -> dict[str, Any]:
    """Return the schema of the result: that of the attribute ``returns``, or of what ``perform`` returns or awaits."""
    if (returns := getattr(cls, "returns", None)) is not None:
        return schema_of_type(returns)
    method = getattr(cls, "perform", None)
    hint = get_type_hints(method).get("return", Any) if method else Any
    if get_origin(hint) is collections.abc.Coroutine:
        hint = get_args(hint)[2]
    return schema_of_type(hint)


def kept() -> dict[str, Any]:
    """Return ``reexports.json``: the facts about each kept re-export, and the package version they are from."""
    text = files("flowrunner_provider.flows").joinpath(_KEPT).read_text(encoding="utf-8")
    known: dict[str, Any] = json.loads(text)
    return known


def read_again(known: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Update ``known`` from the installed packages; also return the actions whose packages are not installed.

    :param known: the result of :func:`kept`.
    """
    fresh, absent = {}, []
    for entry in sorted(REEXPORTS, key=lambda entry: entry.action):
        if not entry.kept:
            continue
        try:
            version = importlib.metadata.version(entry.package)
        except importlib.metadata.PackageNotFoundError:
            fresh[entry.action] = known[entry.action]
            absent.append(entry.action)
            continue
        spec = _spec_of_reexport(entry, {})
        facts = {name: getattr(spec, name) for name in _KEPT_FACTS}
        fresh[entry.action] = {"package": entry.package, "version": version, **facts}
    return fresh, absent


def _spec_of_kept(entry: Reexport, known: dict[str, Any], sources: dict[str, str]) -> ActionSpec:
    return ActionSpec(
        id=entry.action,
        path=entry.path,
        category=entry.action.partition(".")[0],
        requires=[entry.package],
        official=True,
        example=_example_of(entry.path.rpartition(".")[2], sources),
        **{name: known[name] for name in _KEPT_FACTS},
    )


def _spec_of_reexport(entry: Reexport, sources: dict[str, str]) -> ActionSpec:
    cls = _class_at(entry.path)
    prose, docs = param_docs(cls.__doc__)
    prose = re.split(r"^\.\. ", prose, maxsplit=1, flags=re.MULTILINE)[0]
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        properties[parameter.name] = {"description": docs[parameter.name]} if parameter.name in docs else {}
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    return ActionSpec(
        id=entry.action,
        path=entry.path,
        kind=_kind_of(cls),
        category=entry.action.partition(".")[0],
        promise=_promise(prose),
        params={"type": "object", "properties": properties, "required": required},
        template_fields=list(getattr(cls, "template_fields", ())),
        requires=[entry.package],
        official=True,
        example=_example_of(cls.__name__, sources),
    )


def _class_at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _kind_of(cls: Any) -> str:
    kinds = {"notify": "notifier", "poke": "sensor", "execute": "operator", "serialize": "trigger"}
    return next(kind for method, kind in kinds.items() if hasattr(cls, method))


def _promise(prose: str) -> str:
    """Return the first two sentences: the promise on success, and on a kill or retry."""
    return " ".join(re.split(r"(?<=[.!?])\s+(?=[A-Z`])", " ".join(prose.split()))[:2])


def to_json(specs: list[ActionSpec]) -> str:
    """Return the text of ``catalogue.json``."""
    entries = [asdict(spec) for spec in specs]
    return json.dumps({"version": 1, "actions": entries}, indent=1, ensure_ascii=False) + "\n"
