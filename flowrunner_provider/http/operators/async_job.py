"""Operator that starts a job through an API, waits for it and fetches its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import TaskDeferralTimeout

from flowrunner_provider.core.checkpoint import Checkpoint
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, NotFound, TimedOut, TransientError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import Backoff, RetryPlan, apause
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.operators.arguments import Stores
from flowrunner_provider.http.results import HttpResult, JobResult
from flowrunner_provider.runtime.boundary import boundary
from flowrunner_provider.runtime.kill import ON_KILL_SECONDS, in_time, stopped_by_user
from flowrunner_provider.runtime.operator import FlowRunnerOperator, run_to_end

if TYPE_CHECKING:
    from flowrunner_provider.http.async_job import Cancel, JobState
    from flowrunner_provider.http.client import RequestSpec
    from flowrunner_provider.http.hook import FlowRunnerHttpHook
    from flowrunner_provider.http.operators.job_plan import JobPlan
    from flowrunner_provider.transport.http import HttpTransport

__all__ = ["HttpAsyncJobOperator"]

_MAX_POLL_FAILURES = 10


class HttpAsyncJobOperator(FlowRunnerOperator):
    """On success, the job was started once, ended with a status of ``success``, and its result was fetched if
    requested.

    A killed or retried task continues with the job that an earlier attempt started. If the submission itself was
    interrupted, it is resolved like any POST (``idempotency_key``, ``reconcile``, otherwise OutcomeUnknown). A failed
    job raises an error with its own message. Clearing the task after a failed or successful job starts a new one. When
    a user stops the task, ``cancel`` is sent within a few seconds if possible. Sends one small request per interval and
    honours Retry-After.

    :param submit: the request that starts the job: ``endpoint``, and optionally ``method`` (POST, PUT, PATCH),
        ``query``, ``headers``, ``json`` or ``data``, ``idempotency_key``, ``reconcile`` and ``on_unknown`` as in
        ``http.request``. With ``reconcile``, the job id is read from the answer to that look-up.
    :param job_id_path: JMESPath expression for the job id in the answer.
    :param poll: how to read the job's state: ``endpoint`` containing ``{job_id}``, ``status_path`` (JMESPath),
        ``success`` and ``failed`` (lists of final statuses; any other status means that the job is running), and
        optionally ``interval`` (``10s``), ``message_path`` (the reason of a failure), ``query`` and ``headers``.
    :param http_conn_id: id of an ``http`` connection.
    :param result: the request that fetches the result: ``endpoint`` containing ``{job_id}``, and optionally ``query``,
        ``headers``, ``response_format``, ``select``, ``save_to`` and ``max_bytes`` as in ``http.request``.
    :param cancel: the request that cancels the job: ``endpoint`` containing ``{job_id}``, and optionally ``method`` and
        ``json``.
    :param deferrable: wait in the triggerer instead of occupying a worker slot.
    """

    action: ClassVar[str] = "http.async_job"
    keeps_result: ClassVar[bool] = False
    template_fields: Sequence[str] = ("http_conn_id", "submit", "job_id_path", "poll", "result", "cancel")

    def __init__(
        self,
        *,
        submit: Mapping[str, Any],
        poll: Mapping[str, Any],
        job_id_path: str = "id",
        http_conn_id: str = "http_default",
        result: Mapping[str, Any] | None = None,
        cancel: Mapping[str, Any] | None = None,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.submit, self.poll, self.job_id_path = submit, poll, job_id_path
        self.http_conn_id, self.result, self.cancel, self.deferrable = http_conn_id, result, cancel, deferrable
        self._ti: Any = None
        self._hook: FlowRunnerHttpHook | None = None
        self._job_id = ""

    def execute(self, context: Any) -> Any:
        self._ti = context["ti"]
        return super().execute(context)

    def execute_complete(self, context: Any, event: dict[str, Any], job: dict[str, Any]) -> Any:
        """Continue on the worker after the trigger saw the job end, or failed to poll it."""
        from flowrunner_provider.runtime.trigger import outcome

        self._ti = context["ti"]

        def resume(run: Run) -> Any:
            outcome(event)
            return self._run_job(run, job)

        return self.attempt(context, resume)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """Resume the task; an expired deferral raises the same TimedOut as a wait on the worker."""
        with boundary():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except TaskDeferralTimeout as error:
                raise TimedOut(
                    f"the job did not end within {self.timeout}", remedy="raise `timeout`; the retry keeps waiting"
                ) from error

    async def perform(self, run: Run) -> JobResult:
        return await self._run_job(run, None)

    def _plan(self) -> JobPlan:
        from flowrunner_provider.http.operators.job_plan import JobPlan

        return JobPlan(
            submit=self.submit, poll=self.poll, job_id_path=self.job_id_path, result=self.result, cancel=self.cancel
        )

    async def _run_job(self, run: Run, job: dict[str, Any] | None) -> JobResult:
        from flowrunner_provider.http.async_job import JobState, failure
        from flowrunner_provider.http.hook import FlowRunnerHttpHook

        plan = self._plan()
        hook = self._hook = FlowRunnerHttpHook(self.http_conn_id)
        submit = plan.submit_request(honours_key=hook.config.honours_idempotency_key)
        async with hook.transport(run) as http:
            while True:
                job = job or await self._submit_or_recover(http, submit, run)
                self._job_id = job["id"]
                cleared = run.journal.max_tries > job["max_tries"]
                try:
                    seen = await self._wait_for_end(http, plan, job, run)
                except NotFound:
                    if not cleared:
                        raise
                    seen = JobState(status="gone", running=False, failed=True)
                if not seen.failed:
                    break
                if not cleared:
                    self._record_failure(run, job["number"], failed=run.journal.max_tries)
                    raise failure(job["id"], seen)
                run.log.info("Job %s ended as %s before the task was cleared.", job["id"], seen.status)
                self._record_failure(run, job["number"], failed=job["max_tries"])
                job = None
            self._job_id = ""
            result = None
            if plan.result is not None:
                failpoint("http.async_job.before_result")
                result = await self._fetch_result(http, plan, job["id"], run)
        failpoint("http.async_job.after_result")
        return JobResult(job_id=job["id"], status=seen.status, result=result)

    @staticmethod
    async def _fetch_result(http: HttpTransport, plan: JobPlan, job_id: str, run: Run) -> HttpResult:
        from flowrunner_provider.http.client import perform_request

        spec = plan.result_request(job_id)
        async with Stores() as stores:
            if plan.result is not None and plan.result.save_to is not None:
                spec = replace(spec, save_to=await stores.target(plan.result.save_to, "result.save_to"))
            return await perform_request(http, spec, run)

    async def _submit_or_recover(self, http: HttpTransport, submit: RequestSpec, run: Run) -> dict[str, Any]:
        """Return the job of this run: an earlier attempt's, unless the task was cleared after that job failed."""
        from flowrunner_provider.http.async_job import job_id_of
        from flowrunner_provider.http.client import perform_request

        state = _job_checkpoint(run, "http.async_job").state or {"number": 1, "failed": None}
        number = state["number"]
        if state["failed"] is not None and run.journal.max_tries > state["failed"]:
            number += 1
        failpoint("http.async_job.before_submit")
        answer = await perform_request(http, replace(submit, effect=f"submit.{number}"), run)
        failpoint("http.async_job.after_submit")
        if answer.status == 0:
            raise ConfigError(
                "it is unknown whether the job was started, so there is no job to wait for",
                field="submit.on_unknown",
                remedy="use `reconcile`, or on_unknown='resend'",
            )
        job_id = job_id_of(answer.body, self.job_id_path)
        run.log.info("Started job %s.", job_id)
        record = _job_checkpoint(run, f"http.async_job.{number}")
        if record.state is None:
            record.save({"max_tries": run.journal.max_tries}, force=True)
        return {"id": job_id, "number": number, "max_tries": record.state["max_tries"]}

    @staticmethod
    def _record_failure(run: Run, number: int, *, failed: int) -> None:
        _job_checkpoint(run, "http.async_job").save({"number": number, "failed": failed}, force=True)
        failpoint("http.async_job.after_failure")

    async def _wait_for_end(self, http: HttpTransport, plan: JobPlan, job: dict[str, Any], run: Run) -> JobState:
        """Poll until the job has ended and return its last state; defer between polls if ``deferrable``."""
        failures, wait = 0, 0.0
        while True:
            failpoint("http.async_job.before_look")
            try:
                seen = await plan.poll.fetch_state(http, job["id"])
            except TransientError as error:
                failures += 1
                if failures > _MAX_POLL_FAILURES:
                    raise
                backoff = Backoff(base=plan.interval, cap=max(600.0, plan.interval))
                wait = max(plan.interval, error.retry_after or 0.0, backoff.delay(failures, run.retry.rng))
                run.log.warning("Poll %s of job %s failed: %s", failures, job["id"], error)
            else:
                failures, wait = 0, max(plan.interval, seen.asked)
                if not seen.running:
                    return seen
            if self.deferrable:
                self._defer(plan, job, run, wait)
            if wait > run.deadline.remaining():
                raise TimedOut(
                    f"the job {job['id']} has not ended within {self.timeout}",
                    remedy="raise `timeout`; the retry keeps waiting for the same job",
                )
            await apause(wait)

    def _defer(self, plan: JobPlan, job: dict[str, Any], run: Run, wait: float) -> None:
        from flowrunner_provider.http.triggers import HttpJobTrigger
        from flowrunner_provider.runtime.trigger import sealed

        trigger = HttpJobTrigger(
            http_conn_id=self.http_conn_id,
            job_id=job["id"],
            poll=plan.poll.to_json(),
            cancel=None if plan.cancel is None else asdict(plan.cancel),
            poll_interval=plan.interval,
        )
        trigger.first_look = max(trigger.first_look, wait)
        failpoint("http.async_job.before_defer")
        self.defer(
            trigger=sealed(trigger),
            method_name="execute_complete",
            kwargs={"job": job},
            timeout=timedelta(seconds=max(1.0, run.deadline.remaining())),
        )

    def on_kill(self) -> None:
        """Cancel the job if a user stopped the task; a worker that shuts down leaves the job running."""
        super().on_kill()
        ti, hook, job_id = self._ti, self._hook, self._job_id
        if self.cancel and hook and job_id:
            in_time(lambda: self._cancel_job(hook, job_id) if stopped_by_user(ti) else None)

    def _cancel_job(self, hook: FlowRunnerHttpHook, job_id: str) -> None:
        try:
            run = Run.alone(timeout=ON_KILL_SECONDS - 0.5, retry=RetryPlan(attempts=2))
            run_to_end(_send_cancel(hook, self._plan().cancel, job_id, run), run.deadline)
            self.log.info("Cancelled job %s.", job_id)
        except FlowRunnerError as error:
            self.log.warning("Could not cancel job %s: %s", job_id, error)


async def _send_cancel(hook: FlowRunnerHttpHook, cancel: Cancel | None, job_id: str, run: Run) -> None:
    from flowrunner_provider.http.async_job import cancel_job

    if cancel is not None:
        async with hook.transport(run) as http:
            await cancel_job(http, cancel, job_id)


def _job_checkpoint(run: Run, name: str) -> Checkpoint:
    """Return a job record. It belongs to the ledger, so it is read even with ``resume=False``."""
    return replace(run, resume=True).checkpoint(name)
