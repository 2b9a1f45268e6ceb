"""Triggers of the HTTP sensor and job operator. Triggers only observe, and carry no secrets."""

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

POLL_SECONDS = 60.0
"""Timeout of one poll."""

CANCEL_SECONDS = 20.0
"""Timeout for cancelling a job; Airflow itself allows 30 seconds."""


def _poll_run(seconds: float = POLL_SECONDS) -> Run:
    return Run.alone(timeout=seconds, retry=RetryPlan(attempts=1))


class HttpConditionTrigger(FlowRunnerTrigger):
    """Polls a resource until a condition is met.

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
        async with await FlowRunnerHttpHook(self.http_conn_id).atransport(_poll_run()) as http:
            found, self.asked = await watch.poll(http)
        return None if found is None else asdict(found)


class HttpJobTrigger(FlowRunnerTrigger):
    """Polls a job until it has ended; the worker decides whether that was a success.

    :param http_conn_id: an ``http`` connection.
    :param job_id: the job.
    :param poll: a :class:`Poll` in its JSON form.
    :param cancel: a :class:`Cancel` in its JSON form; sent only when a user stops the task.
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
        async with await FlowRunnerHttpHook(self.http_conn_id).atransport(_poll_run()) as http:
            seen = await poll.fetch_state(http, self.job_id)
        self.asked = seen.asked
        return None if seen.running else {"job_id": self.job_id, "status": seen.status}

    async def on_kill(self) -> None:
        """Cancel the job when a user stops the deferred task (Airflow 3.3 and later)."""
        if self.cancel is None:
            return
        try:
            hook = FlowRunnerHttpHook(self.http_conn_id)
            async with await hook.atransport(_poll_run(CANCEL_SECONDS)) as http:
                await cancel_job(http, Cancel(**self.cancel), self.job_id)
        except FlowRunnerError as error:
            self.log.warning("Could not cancel job %s: %s", self.job_id, error)
