"""Builds Adaptive Cards for Teams: https://adaptivecards.io/explorer, version 1.5.

Values are shown as they are; a TextBlock renders a subset of Markdown and no other markup.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flowrunner_provider.chat.choices import CardKind, Language
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.part_file import disk_errors

__all__ = ["VERSION", "adaptive_card", "checked", "notification", "read_card", "with_mentions"]

VERSION = "1.5"
_SCHEMA = "http://adaptivecards.io/schemas/adaptive-card.json"
_COLOR: dict[CardKind, str] = {"failure": "attention", "success": "good", "sla": "warning"}
_TITLE: dict[Language, dict[CardKind, str]] = {
    "en": {"failure": "Task failed", "success": "Task succeeded", "sla": "Deadline missed"},
    "es": {"failure": "La tarea ha fallado", "success": "La tarea ha terminado bien", "sla": "Plazo incumplido"},
}
_RUN_TITLE: dict[Language, dict[CardKind, str]] = {
    "en": {"failure": "Run failed", "success": "Run succeeded", "sla": "Deadline missed"},
    "es": {
        "failure": "La ejecución ha fallado",
        "success": "La ejecución ha terminado bien",
        "sla": "Plazo incumplido",
    },
}
_LABEL: dict[Language, dict[str, str]] = {
    "en": {
        "dag_id": "DAG",
        "task_id": "Task",
        "run_id": "Run",
        "try_number": "Try",
        "logical_date": "Date",
        "deadline": "Deadline",
        "exception": "Error",
        "log": "Open log",
        "rerun": "Open run to clear and rerun",
    },
    "es": {
        "dag_id": "DAG",
        "task_id": "Tarea",
        "run_id": "Ejecución",
        "try_number": "Intento",
        "logical_date": "Fecha",
        "deadline": "Plazo",
        "exception": "Error",
        "log": "Abrir registro",
        "rerun": "Abrir ejecución para repetirla",
    },
}


def adaptive_card(
    *, title: str = "", text: str = "", facts: Mapping[str, Any] | None = None, links: Mapping[str, str] | None = None,
    color: str = "default",
) -> dict[str, Any]:  # fmt: skip
    """Return a card with a title, a text, a table of facts and buttons that open links.

    :raises ConfigError: for an invalid link.
    """
    body: list[dict[str, Any]] = []
    if title:
        block = {"type": "TextBlock", "size": "medium", "weight": "bolder", "wrap": True}
        body.append({**block, "color": color, "text": title})
    if text:
        body.append({"type": "TextBlock", "text": text, "wrap": True})
    if facts:
        pairs = [{"title": str(name), "value": str(value)} for name, value in facts.items() if value is not None]
        body.append({"type": "FactSet", "facts": pairs})
    actions = [{"type": "Action.OpenUrl", "title": str(name), "url": _link(url)} for name, url in (links or {}).items()]
    card = {"$schema": _SCHEMA, "type": "AdaptiveCard", "version": VERSION, "body": body}
    return {**card, "actions": actions} if actions else card


def _link(url: Any) -> str:
    if not isinstance(url, str) or urlsplit(url).scheme not in ("https", "http", "mailto"):
        raise ConfigError("a link must be an address", field="links", remedy="write https://...")
    return url


def read_card(path: str) -> dict[str, Any]:
    """Return the Adaptive Card in a JSON file.

    :raises ConfigError: when the file has none.
    """
    with disk_errors(path):
        data = Path(path).read_bytes()
    try:
        return checked(json.loads(data), "card_file")
    except (ValueError, RecursionError):
        raise ConfigError("the file is not JSON", field="card_file", remedy="correct it") from None


def checked(card: Any, field: str) -> dict[str, Any]:
    """Return ``card`` if it is an Adaptive Card of a version that Teams supports.

    :raises ConfigError: naming ``field``.
    """
    if not isinstance(card, Mapping) or card.get("type") != "AdaptiveCard" or not isinstance(card.get("body"), list):
        raise ConfigError(
            "that is no Adaptive Card",
            field=field,
            remedy='give {"type": "AdaptiveCard", "body": [...]}',
        )
    version = str(card.get("version", VERSION))
    if version.partition(".")[0] != "1" or not version[2:].isdecimal() or int(version[2:]) > 5:
        raise ConfigError(f"Teams shows cards up to {VERSION}", field=field, remedy=f"set the version to {VERSION}")
    return {"version": VERSION, **card}


def with_mentions(card: Mapping[str, Any], people: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return the card with mentions: ``<at>name</at>`` notifies a person; missing mentions are appended.

    :param people: mappings with ``name`` and ``id``: a user principal name, or an object id of Entra.
    :raises ConfigError: for a person without one of them.
    """
    if not people:
        return dict(card)
    entities, missing = [], []
    texts = json.dumps(card["body"], ensure_ascii=False)
    for person in people:
        name, identity = (str(person.get(key) or "").strip() for key in ("name", "id"))
        if not name or not identity or "<" in name:
            raise ConfigError("a mention needs a name and an id", field="mentions", remedy="give both")
        mark = f"<at>{name}</at>"
        entities.append({"type": "mention", "text": mark, "mentioned": {"id": identity, "name": name}})
        if json.dumps(mark, ensure_ascii=False)[1:-1] not in texts:
            missing.append(mark)
    body = [*card["body"]]
    if missing:
        body.append({"type": "TextBlock", "text": " ".join(missing), "wrap": True})
    return {**card, "body": body, "msteams": {**card.get("msteams", {}), "entities": entities}}


def notification(
    kind: CardKind,
    facts: Mapping[str, Any],
    *,
    error: str = "",
    language: Language = "en",
    title: str = "",
    more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a card about a task, a run or a deadline.

    :param facts: the result of ``facts_of`` for a callback's context.
    :param error: the redacted error message.
    :param title: overrides the default title.
    :param more: additional rows of the table.
    """
    label, titles = _LABEL[language], _TITLE if "task_id" in facts else _RUN_TITLE
    shown = {label[name]: facts[name] for name in label if name in facts} | dict(more or {})
    whom = facts.get("task_id") or facts.get("dag_id") or "Airflow"
    links = {}
    if log := facts.get("log_url"):
        links[label["log"]] = log
        links[label["rerun"]] = str(log).partition("/tasks/")[0]
    return adaptive_card(
        title=title or f"{titles[language][kind]}: {whom}",
        text=error,
        facts=shown,
        links=links,
        color=_COLOR[kind],
    )
