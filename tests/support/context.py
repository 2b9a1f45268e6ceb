"""What Airflow gives to ``operator.execute``, without a scheduler, a database or an API server.

The names and meanings are those of Airflow 3.3 (``airflow.sdk.execution_time.context``,
``airflow.sdk.types.RuntimeTaskInstanceProtocol``). Connections come from ``AIRFLOW_CONN_*``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue, TypeAdapter

__all__ = ["DagRun", "FileStateStore", "TaskInstance", "execute", "make_context"]

LOGICAL_DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RETURN_VALUE = "return_value"
_JSON: TypeAdapter[JsonValue] = TypeAdapter(JsonValue)


class FileStateStore:
    """``context["task_state_store"]`` in a directory: whole or absent after a SIGKILL, shared by attempts.

    As in Airflow ``set`` refuses None (``ValueError``) and everything that is not JSON (pydantic's
    ``ValidationError``), ``get`` returns the default for an unknown key and ``delete`` of one does nothing.
    It is picklable; the directory is all it is.

    :param directory: one per task instance (dag, run, task, map index), the same for all its tries.
    :param fail: method -> the calls that fail (from 1, counted for each attempt), e.g. ``{"set": {2}}``;
        ``{"get": "all"}`` is an API server that is down.
    :param apply_failed: a failing ``set`` has been stored nevertheless: only its reply was lost.
    """

    def __init__(
        self, directory: Path, *, fail: Mapping[str, set[int] | str] | None = None, apply_failed: bool = False
    ) -> None:
        self.directory = directory
        self.fail = dict(fail or {})
        self.apply_failed = apply_failed
        self._seen: Counter[str] = Counter()
        directory.mkdir(parents=True, exist_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_seen": Counter()}

    def get(self, key: str, default: JsonValue = None) -> JsonValue:
        """The stored value, or ``default``."""
        if self._fails("get"):
            raise _api_down("get", key)
        try:
            return json.loads(self._path(key).read_text())["value"]  # type: ignore[no-any-return]
        except FileNotFoundError:
            return default

    def set(self, key: str, value: JsonValue, *, retention: timedelta | None = None) -> None:
        """Write or overwrite the value."""
        if value is None:
            raise ValueError("Cannot set value as None")
        if retention is not None and not isinstance(retention, timedelta):
            raise TypeError(f"retention is a timedelta, not {retention!r}")
        _JSON.validate_python(value)
        fails = self._fails("set")
        if not fails or self.apply_failed:
            path = self._path(key)
            partial = path.with_suffix(f".{os.getpid()}.{uuid.uuid4().hex}")
            partial.write_text(json.dumps({"key": key, "value": value}))
            partial.replace(path)
        if fails:
            raise _api_down("set", key)

    def delete(self, key: str) -> None:
        """Remove one key; no error if it is not there."""
        if self._fails("delete"):
            raise _api_down("delete", key)
        self._path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all keys of the task instance."""
        if self._fails("clear"):
            raise _api_down("clear", "*")
        for path in self.directory.glob("*.json"):
            path.unlink(missing_ok=True)

    def items(self) -> dict[str, JsonValue]:
        """Everything that is stored; for assertions."""
        records = (json.loads(path.read_text()) for path in self.directory.glob("*.json"))
        return {record["key"]: record["value"] for record in records}

    @property
    def calls(self) -> Counter[str]:
        """How often each method was called, over all attempts and processes."""
        journal = self.directory / "calls"
        return Counter(journal.read_text().split()) if journal.exists() else Counter()

    def _path(self, key: str) -> Path:
        return self.directory / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def _fails(self, method: str) -> bool:
        with (self.directory / "calls").open("a") as journal:
            journal.write(f"{method}\n")
        self._seen[method] += 1
        calls = self.fail.get(method, set())
        return calls == "all" or self._seen[method] in calls


def _api_down(method: str, key: str) -> Exception:
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse

    detail = {"status_code": 503, "message": f"{method} {key}: the API server is down"}
    return AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail=detail))


@dataclass
class DagRun:
    """``dag_run``, as ``airflow.sdk.types.DagRunProtocol`` names it."""

    dag_id: str
    run_id: str
    logical_date: datetime | None
    conf: dict[str, Any] = field(default_factory=dict)
    run_type: str = "manual"
    state: str = "running"
    clear_number: int = 0
    consumed_asset_events: list[Any] = field(default_factory=list)
    triggering_user_name: str | None = None
    partition_key: str | None = None
    partition_date: datetime | None = None
    note: str | None = None
    end_date: datetime | None = None

    def __post_init__(self) -> None:
        self.data_interval_start = self.data_interval_end = self.logical_date
        self.run_after = self.start_date = self.logical_date or LOGICAL_DATE


@dataclass
class TaskInstance:
    """``ti``: who the task is, and XComs in memory."""

    dag_id: str
    run_id: str
    task_id: str
    task: Any = None
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 3
    xcoms: dict[tuple[str, str], Any] = field(default_factory=dict)
    hostname: str = "worker.test"
    state: str = "running"
    is_mapped: bool = False
    start_date: datetime = LOGICAL_DATE
    end_date: datetime | None = None
    context: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        # Airflow gives every try an id of its own.
        name = "\0".join([self.dag_id, self.run_id, self.task_id, str(self.map_index), str(self.try_number)])
        self.id = uuid.uuid5(uuid.NAMESPACE_OID, name)
        self.dag_version_id = uuid.uuid5(uuid.NAMESPACE_OID, self.dag_id)
        self.log_url = f"http://airflow.test/dags/{self.dag_id}/runs/{self.run_id}/tasks/{self.task_id}"

    def xcom_push(self, key: str, value: Any) -> None:
        """Keep a value for this task."""
        self.xcoms[self.task_id, key] = value

    def xcom_pull(
        self,
        task_ids: str | list[str] | None = None,
        dag_id: str | None = None,
        key: str = RETURN_VALUE,
        include_prior_dates: bool = False,
        *,
        map_indexes: Any = None,
        default: Any = None,
        run_id: str | None = None,
    ) -> Any:
        """The value of one task, or the list of the values that exist of several."""
        if task_ids is None or isinstance(task_ids, str):
            return self.xcoms.get((task_ids or self.task_id, key), default)
        return [self.xcoms[task_id, key] for task_id in task_ids if (task_id, key) in self.xcoms]

    def get_template_context(self) -> dict[str, Any]:
        """The context that this task instance is part of."""
        return self.context

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        """Never rescheduled."""
        return None


def make_context(
    task: Any = None,
    *,
    state: FileStateStore | Path | None = None,
    dag_id: str = "dag",
    run_id: str = "manual__2026-01-02T03:04:05+00:00",
    task_id: str = "task",
    map_index: int = -1,
    try_number: int | None = None,
    max_tries: int = 3,
    logical_date: datetime | None = LOGICAL_DATE,
    params: Mapping[str, Any] | None = None,
    conf: Mapping[str, Any] | None = None,
    xcoms: Mapping[str, Any] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """The context of one try of one task instance.

    :param task: the operator; its ``task_id`` and ``dag_id`` win.
    :param state: the state store, or its directory; None: no ``task_state_store`` (Airflow before 3.3).
    :param try_number: None: what the kill harness says, 1 outside of it.
    :param logical_date: None for a run without one: then ``ds``, ``ts`` and the like are absent.
    :param xcoms: task id -> return value of upstream tasks.
    :param more: further keys.
    """
    from airflow.sdk.execution_time.context import OutletEventAccessors

    if task is not None:
        task_id, dag_id = task.task_id, task.dag.dag_id if task.has_dag() else dag_id
    if try_number is None:
        try_number = int(os.environ.get("FLOWRUNNER_TRY_NUMBER", "1"))
    ti = TaskInstance(dag_id, run_id, task_id, task, map_index, try_number, max_tries)
    ti.xcoms.update({(upstream, RETURN_VALUE): value for upstream, value in (xcoms or {}).items()})
    dag_run = DagRun(dag_id, run_id, logical_date, conf=dict(conf or {}))
    context = ti.context
    context.update(
        ti=ti, task_instance=ti, task=task, dag=task.dag if task is not None and task.has_dag() else None,
        dag_run=dag_run, run_id=run_id, params=dict(params or {}), inlets=[], outlets=[],
        outlet_events=OutletEventAccessors(), map_index_template=None, triggering_asset_events={},
        task_instance_key_str=f"{dag_id}__{task_id}__{run_id}", task_reschedule_count=0,
    )  # fmt: skip
    if logical_date is not None:
        context.update(_dates(logical_date))
    if state is not None:
        context["task_state_store"] = FileStateStore(state) if isinstance(state, Path) else state
    context.update(more)
    return context


def _dates(logical_date: datetime) -> dict[str, Any]:
    import pendulum

    date = pendulum.instance(logical_date)
    ds, ts = date.strftime("%Y-%m-%d"), date.isoformat()
    return {
        "logical_date": date,
        "data_interval_start": date,
        "data_interval_end": date,
        "ds": ds,
        "ds_nodash": ds.replace("-", ""),
        "ts": ts,
        "ts_nodash": date.strftime("%Y%m%dT%H%M%S"),
        "ts_nodash_with_tz": ts.replace("-", "").replace(":", ""),
    }


def execute(operator: Any, context: dict[str, Any], method: str = "execute", **arguments: Any) -> Any:
    """Run an operator as the task runner does: render its templates, call ``execute``, push the result.

    SIGTERM calls ``on_kill`` and the work goes on, as there.

    :param method: the method to call, e.g. ``execute_complete`` with ``event=...`` after a deferral.
    """
    from airflow.sdk.bases.operator import ExecutorSafeguard
    from airflow.sdk.execution_time.context import set_current_context

    operator.render_template_fields(context)
    function = getattr(operator, method)
    if method == "execute":
        arguments[f"{type(operator).__name__}__sentinel"] = ExecutorSafeguard.sentinel_value
    with set_current_context(context), _on_term(operator):
        result = function(context, **arguments)
    if result is not None and operator.do_xcom_push:
        context["ti"].xcom_push(RETURN_VALUE, result)
    return result


@contextmanager
def _on_term(operator: Any) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
