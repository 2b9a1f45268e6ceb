"""Arguments of the wrong type: refused by name, as an error that is not retried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import pytest
from airflow.sdk import PokeReturnValue

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.arguments import check_arguments
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.runtime.retry_policy import retrying_helps
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from tests.support.context import execute, make_context


class Task:
    """An operator of the package, as far as the check is concerned."""

    def __init__(
        self,
        *,
        path: str = "/a",
        source: str | Sequence[str] = "/a",
        keys: list[str] | None = None,
        where: str | Mapping[str, Any] = "x",
        size: int | None = 1,
        mode: Literal["a", "b"] = "a",
        wait: str | float | timedelta = "1s",
        since: str | datetime | None = None,
        anything: Any = None,
    ) -> None:
        vars(self).update({name: value for name, value in locals().items() if name != "self"})


Task.__module__ = "flowrunner_provider.test"


@pytest.mark.parametrize(
    ("arguments", "message", "remedy"),
    [
        ({"path": None}, "path is None", "pass text; the XCom of a task without a result is None"),
        ({"path": 42}, "path is a number", "pass text"),
        ({"path": Path("/a")}, "path is a PosixPath", "pass text"),
        ({"source": {"a": 1}}, "source is a dict", "pass text or a list of text"),
        ({"source": ["/a", None]}, "source is a list with a wrong item", "pass text or a list of text"),
        ({"keys": 42}, "keys is a number", "pass a list of text"),
        ({"where": ["a"]}, "where is a list", "pass text or a dict"),
        ({"size": [1]}, "size is a list", "pass a whole number"),
        ({"mode": 1}, "mode is a number", "pass one of a, b"),
        ({"wait": {}}, "wait is a dict", "pass text or a number or a duration such as '5m'"),
        ({"since": 42}, "since is a number", "pass text"),
    ],
)
def test_the_error_names_the_argument_and_what_to_pass(arguments: dict[str, Any], message: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_arguments(Task(**arguments))
    assert (caught.value.message, caught.value.remedy) == (message, remedy)
    assert caught.value.field == next(iter(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"source": ("/a", "/b")},
        {"keys": []},
        {"keys": "['rendered']"},
        {"where": {"a": [1]}},
        {"size": "7"},
        {"size": Decimal(7)},
        {"size": None},
        {"wait": 5},
        {"wait": timedelta(seconds=5)},
        {"since": datetime(2026, 1, 1, tzinfo=UTC)},
        {"anything": 42},
    ],
)
def test_what_a_template_or_a_mapped_task_may_give_passes(arguments: dict[str, Any]) -> None:
    check_arguments(Task(**arguments))


class Copy(FlowRunnerOperator):
    """An operator that must not begin."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def perform(self, run: Run) -> Any:
        raise AssertionError("it has begun")


class Wait(FlowRunnerSensor):
    """A sensor that must not look."""

    def __init__(self, *, path: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path = path

    def poke(self, context: Any) -> bool | PokeReturnValue:
        raise AssertionError("it has looked")


Copy.__module__ = Wait.__module__ = "flowrunner_provider.test"


@pytest.mark.parametrize("task", [Copy, Wait])
def test_a_task_with_an_argument_of_the_wrong_type_ends_before_it_does_anything(task: Any) -> None:
    operator = task(task_id="t", path=None)
    with pytest.raises(ConfigError, match="path is None") as caught:
        execute(operator, make_context(operator))
    assert not retrying_helps(caught.value)
