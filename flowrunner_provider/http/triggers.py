"""What the triggerer looks at for the HTTP sensors and jobs. Triggers only observe, and carry no secret."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flowrunner_provider.core.errors import FlowRunnerError, Json
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.async_job import Cancel, Poll, cancel_job
from flowrunner_provider.http.conditions import Watch
from flowrunner_provider.http.hook import FlowRunnerHttpHook
from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["CANCEL_SECONDS", "HttpConditionTrigger", "HttpJobTrigger"]

LOOK_SECONDS = 60.0
"""The longest that one look may take."""

CANCEL_SECONDS = 20.0
"""The longest that the cancellation of a job may take; Airflow itself allows 30 seconds."""


def _looking(seconds: float = LOOK_SECONDS) -> Run:
    return Run.alone(timeout=seconds, retry=RetryPlan(attempts=1))


class HttpConditionTrigger(FlowRunnerTrigger):
    """Looks at a resource until a condition is met.

    :param http_conn_id: an ``http`` connection.
    :param watch: a :class:`Watch` in its JSON form.
    """

    def __init__(self, *, http_conn_id: str, watch: Mapping[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.watch = http_conn_id, dict(watch)

    def arguments(self) -> dict[str, Any]:
        return {"http_conn_id": self.http_conn_id, "watch": self.watch}

    async def observe(self) -> Json:
        watch = Watch.from_json(self.watch)
        watch.check()
        async with await FlowRunnerHttpHook(self.http_conn_id).atransport(_looking()) as http:
            found, self.asked = await watch.look(http)
        return None if found is None else asdict(found)


class HttpJobTrigger(FlowRunnerTrigger):
    """Looks at a job until it has ended, well or not; what that means is for the worker to say.

    :param http_conn_id: an ``http`` connection.
    :param job_id: the job.
    :param poll: a :class:`Poll` in its JSON form.
    :param cancel: a :class:`Cancel` in its JSON form; carried out only when a user ends the task.
    """

    def __init__(
        self,
        *,
        http_conn_id: str,
        job_id: str,
        poll: Mapping[str, Any],
        cancel: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.job_id = http_conn_id, job_id
        self.poll, self.cancel = dict(poll), None if cancel is None else dict(cancel)

    def arguments(self) -> dict[str, Any]:
        return {"http_conn_id": self.http_conn_id, "job_id": self.job_id, "poll": self.poll, "cancel": self.cancel}

    async def observe(self) -> Json:
        poll = Poll.from_json(self.poll)
        async with await FlowRunnerHttpHook(self.http_conn_id).atransport(_looking()) as http:
            seen = await poll.look(http, self.job_id)
        self.asked = seen.asked
        return None if seen.running else {"job_id": self.job_id, "status": seen.status}

    async def on_kill(self) -> None:
        """A user has ended the deferred task: end the job, too (Airflow 3.3 and later)."""
        if self.cancel is None:
            return
        try:
            hook = FlowRunnerHttpHook(self.http_conn_id)
            async with await hook.atransport(_looking(CANCEL_SECONDS)) as http:
                await cancel_job(http, Cancel(**self.cancel), self.job_id)
        except FlowRunnerError as error:
            self.log.warning("The job %s could not be cancelled: %s", self.job_id, error)
