"""The context and the state store are what Airflow's own are, as far as operators can see."""

from __future__ import annotations

import inspect
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.context import DagRun, FileStateStore, TaskInstance, execute, make_context
from tests.support.kill import attempt


def writes_then_dies(state: FileStateStore) -> None:
    state.set("cursor", {"page": 1})
    state.set("cursor", {"page": 2})
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_state_survives_sigkill_and_other_processes_see_it(tmp_path: Path) -> None:
    state = FileStateStore(tmp_path)
    assert attempt(writes_then_dies, state).killed
    assert state.get("cursor") == {"page": 2}
    assert state.calls == {"set": 2, "get": 1}


def test_the_methods_are_those_of_airflow() -> None:
    from airflow.sdk.execution_time.context import TaskStateStoreAccessor

    for name in ("get", "set", "delete", "clear"):
        ours, theirs = (inspect.signature(getattr(cls, name)) for cls in (FileStateStore, TaskStateStoreAccessor))
        assert [(p.name, p.kind, p.default) for p in ours.parameters.values()] == [
            (p.name, p.kind, p.default) for p in theirs.parameters.values()
        ]


@pytest.mark.parametrize("value", [None, object(), {1, 2}, b"bytes", {"a": object()}, {1: "key"}, (1, 2)])
def test_set_refuses_what_airflow_refuses(tmp_path: Path, value: Any) -> None:
    from airflow.sdk.execution_time.comms import SetTaskStateStore

    state = FileStateStore(tmp_path)
    with pytest.raises(ValueError):
        state.set("key", value)
    assert state.items() == {}
    if value is not None:
        with pytest.raises(ValueError):
            SetTaskStateStore(ti_id="0" * 32, key="key", value=value, expires_at=None)


def test_get_set_delete_clear(tmp_path: Path) -> None:
    from airflow.sdk import NEVER_EXPIRE

    state = FileStateStore(tmp_path)
    state.set("a/../b", [1, "ü"], retention=timedelta(days=1))
    state.set("k" * 500, {"x": None}, retention=NEVER_EXPIRE)
    assert (state.get("a/../b"), state.get("nothing"), state.get("nothing", 5)) == ([1, "ü"], None, 5)
    state.delete("a/../b")
    state.delete("a/../b")
    assert state.items() == {"k" * 500: {"x": None}}
    state.clear()
    assert state.items() == {}


def test_calls_fail_when_told(tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError

    state = FileStateStore(tmp_path, fail={"set": {2}, "get": "all"})
    state.set("a", 1)
    with pytest.raises(AirflowRuntimeError, match="API_SERVER_ERROR"):
        state.set("a", 2)
    with pytest.raises(AirflowRuntimeError):
        state.get("a")
    assert FileStateStore(tmp_path).get("a") == 1


def test_a_failed_set_may_have_been_applied(tmp_path: Path) -> None:
    from airflow.sdk.exceptions import AirflowRuntimeError

    state = FileStateStore(tmp_path, fail={"set": {1}}, apply_failed=True)
    with pytest.raises(AirflowRuntimeError):
        state.set("a", 1)
    assert state.get("a") == 1


def test_the_names_are_those_of_airflow() -> None:
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS
    from airflow.sdk.types import DagRunProtocol, RuntimeTaskInstanceProtocol

    context = make_context(state=None)
    assert set(context) <= KNOWN_CONTEXT_KEYS
    assert set(DagRunProtocol.__annotations__) <= set(vars(context["dag_run"])) | set(dir(DagRun))
    assert set(inspect.signature(TaskInstance.xcom_pull).parameters) == set(
        inspect.signature(RuntimeTaskInstanceProtocol.xcom_pull).parameters
    )
    assert "task_state_store" not in context
    assert "ds" not in make_context(logical_date=None)


def test_execute_renders_runs_and_pushes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from airflow.sdk import BaseOperator, get_current_context

    class Hello(BaseOperator):
        template_fields = ("greeting",)

        def __init__(self, greeting: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.greeting = greeting

        def execute(self, context: Any) -> str:
            assert get_current_context() is context
            return self.greeting

    greeting = "hello {{ ds }} {{ ti.xcom_pull('before') }} {{ params.who }}"
    operator = Hello(greeting=greeting, task_id="hello")
    context = make_context(operator, state=tmp_path, params={"who": "you"}, xcoms={"before": 7}, try_number=2)
    assert execute(operator, context) == "hello 2026-01-02 7 you"
    assert context["ti"].xcom_pull() == "hello 2026-01-02 7 you"
    assert (context["ti"].task_id, context["ti"].try_number, context["ti"].map_index) == ("hello", 2, -1)
    assert "outside of the Task Runner" not in caplog.text
