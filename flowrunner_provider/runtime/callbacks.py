"""Facts about the task, DAG run or deadline of a callback, for notifiers."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

__all__ = ["event_of", "facts_of", "id_of"]


def event_of(context: Mapping[str, Any]) -> str:
    """Return the event type, e.g. ``airflow.task.failed``, ``airflow.dag_run.success``, ``airflow.deadline.missed``."""
    if "deadline" in context:
        return "airflow.deadline.missed"
    if _about_run(context):
        state = _get(context.get("dag_run"), "state")
        return f"airflow.dag_run.{_text(state) or 'ended'}"
    state = _get(context.get("ti"), "state")
    return f"airflow.task.{_text(state) or ('failed' if context.get('exception') else 'ended')}"


def facts_of(context: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies the task or run and its state; no values, parameters or messages."""
    run, ti = context.get("dag_run"), None if _about_run(context) else context.get("ti")
    error, deadline = context.get("exception"), context.get("deadline")
    task_instance = context.get("ti")
    facts = {
        "dag_id": _get(run, "dag_id") or _get(task_instance, "dag_id") or _get(context.get("dag"), "dag_id"),
        "run_id": _get(run, "run_id")
        or _get(run, "dag_run_id")
        or context.get("run_id")
        or _get(task_instance, "run_id"),
        "logical_date": _text(_get(run, "logical_date") or context.get("logical_date")),
        "state": _text(_get(ti, "state") if ti is not None else _get(run, "state")),
        "task_id": _get(ti, "task_id"),
        "map_index": _get(ti, "map_index"),
        "try_number": _get(ti, "try_number"),
        "log_url": _get(ti, "log_url"),
        "exception": type(error).__name__ if isinstance(error, BaseException) else None,
        "deadline": _text(_get(deadline, "deadline_time")),
    }
    return {name: value for name, value in facts.items() if value not in (None, "")}


def id_of(context: Mapping[str, Any], kind: str) -> str:
    """Return 40 hex digits, the same for every repetition of a callback; random if the context identifies nothing."""
    facts = facts_of(context)
    if "run_id" not in facts:
        return secrets.token_hex(20)
    names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
    clear_number = _get(context.get("dag_run"), "clear_number") if _about_run(context) else None
    parts = [
        kind,
        str(clear_number or 0),
        _get(context.get("deadline"), "id") or "",
        *(facts.get(name, "") for name in names),
    ]
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:40]


def _about_run(context: Mapping[str, Any]) -> bool:
    """Whether the callback belongs to a DAG: it has a reason, and its ``ti`` is just the last task."""
    return "reason" in context or "deadline" in context or context.get("ti") is None


def _get(source: Any, name: str) -> Any:
    """Return a field of an object, or of the JSON that deadline alerts pass."""
    return source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else str(getattr(value, "value", value))
