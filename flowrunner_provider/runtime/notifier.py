"""Base class of all notifiers: one coroutine, run from a callback or in the triggerer."""

from __future__ import annotations

from typing import Annotated, Any

from airflow.sdk import BaseNotifier

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import PythonOnly
from flowrunner_provider.runtime.boundary import boundary
from flowrunner_provider.runtime.operator import run_to_end

__all__ = ["FlowRunnerNotifier"]


class FlowRunnerNotifier(BaseNotifier):
    """Sends one message about a task or a DAG run.

    Subclasses implement :meth:`send`, which may read the rendered ``template_fields``.

    :param timeout: time limit for sending, in seconds.
    :param context: set by Airflow's deadline alerts.
    """

    def __init__(self, *, timeout: float = 60.0, context: Annotated[Any, PythonOnly] = None) -> None:
        super().__init__(context)
        self.timeout = timeout

    async def send(self, context: Any) -> None:
        """Send the message; ``context`` may be empty in the triggerer."""
        raise ConfigError(f"{type(self).__name__} does not implement send()", field="send")

    def notify(self, context: Any) -> None:
        with boundary():
            run_to_end(self.send(context), Deadline(self.timeout))

    async def async_notify(self, context: Any) -> None:
        with boundary():
            await self.send(context)
