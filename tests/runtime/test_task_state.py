"""The state of another task of the run."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time.comms import ErrorResponse

from flowrunner_provider.core.errors import ConfigError, Unavailable
from flowrunner_provider.runtime.task_state import task_state

ASKED = "airflow.sdk.execution_time.task_runner.RuntimeTaskInstance.get_task_states"


def asked(**how: Any) -> str:
    with patch(ASKED, **how) as states:
        found = asyncio.run(task_state("dag", "run", "group.plan"))
    states.assert_called_once_with(dag_id="dag", task_ids=["group.plan"], run_ids=["run"])
    return found


def test_what_airflow_says() -> None:
    assert asked(return_value={"run": {"group.plan": "running"}}) == "running"
    assert asked(return_value={"run": {"group.plan": None}}) == ""


def test_a_task_that_the_run_does_not_have() -> None:
    for answer in ({}, {"run": {}}, {"run": {"plan": "running"}}):
        with pytest.raises(ConfigError, match=r"no task 'group\.plan'"):
            asked(return_value=answer)


def test_an_api_that_is_down_is_no_answer() -> None:
    down = AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 503}))
    for error in (down, OSError("broken pipe")):
        with pytest.raises(Unavailable) as caught:
            asked(side_effect=error)
        assert caught.value.remedy
