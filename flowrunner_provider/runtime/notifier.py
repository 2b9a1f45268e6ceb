"""Base class of all notifiers: one coroutine, run from a callback or in the triggerer."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from airflow.sdk import BaseNotifier

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import PythonOnly, parse_duration
from flowrunner_provider.runtime.boundary import boundary
from flowrunner_provider.runtime.operator import run_to_end

__all__ = ["FlowRunnerNotifier"]


class FlowRunnerNotifier(BaseNotifier):
    """Sends one message about a task or a DAG run.

    Subclasses implement :meth:`send`, which may read the rendered ``template_fields``.

    :param timeout: time limit for sending, e.g. ``"30s"``.
    :param context: set by Airflow's deadline alerts.
    """

    def __init__(self, *, timeout: str | float | timedelta = "1m", context: Annotated[Any, PythonOnly] = None) -> None:
        super().__init__(context)
        self.timeout = timeout

    @property
    def seconds(self) -> float:
        """The time limit.

        :raises ConfigError: if it is not a positive duration.
        """
        seconds = parse_duration(self.timeout, "timeout").total_seconds()
        if seconds <= 0:
            raise ConfigError("timeout must be positive", field="timeout", remedy="use e.g. '30s'")
        return seconds

    async def send(self, context: Any) -> None:
        """Send the message; ``context`` may be empty in the triggerer."""
        raise ConfigError(f"{type(self).__name__} does not implement send()", field="send")

    def notify(self, context: Any) -> None:
        with boundary():
            deadline = Deadline(self.seconds)
            run_to_end(self.send(context), deadline)

    async def async_notify(self, context: Any) -> None:
        with boundary():
            await self.send(context)
