"""A job that an API runs: started once, waited for, its result fetched."""

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
    from flowrunner_provider.http.async_job import Cancel, Seen
    from flowrunner_provider.http.client import RequestSpec
    from flowrunner_provider.http.hook import FlowRunnerHttpHook
    from flowrunner_provider.http.operators.job_plan import JobPlan
    from flowrunner_provider.transport.http import HttpTransport

__all__ = ["HttpAsyncJobOperator"]

_PATIENCE = 10


class HttpAsyncJobOperator(FlowRunnerOperator):
    """The job has been started once and has ended well, and its result has been fetched where one was asked for.

    Killed or retried, it goes on with the job that an earlier attempt started; one whose start was interrupted is
    found out about like any POST (``idempotency_key``, ``reconcile``, else OutcomeUnknown). A job that failed is an
    error with its own message; cleared afterwards, the task starts another one, and so it does after a success.
    When a user ends the task, ``cancel`` ends the job, as well as that can be done within seconds. One small request
    per interval, never sooner than the server's Retry-After.

    :param submit: the request that starts the job: ``endpoint``, and if need be ``method`` (POST, PUT, PATCH),
        ``query``, ``headers``, ``json`` or ``data``, ``idempotency_key``, ``reconcile`` and ``on_unknown`` as in
        ``http.request``; with ``reconcile`` the job's id is taken from the answer to the look-up.
    :param job_id_path: JMESPath of the job's id in the answer.
    :param poll: how its state is asked for: ``endpoint`` with ``{job_id}`` in it, ``status_path`` (JMESPath),
        ``success`` and ``failed`` (lists of statuses that are the end; all others mean that it runs), and if need be
        ``interval`` (``10s``), ``message_path`` (its explanation of a failure), ``query``, ``headers``.
    :param http_conn_id: an ``http`` connection.
    :param result: the request for the result: ``endpoint`` with ``{job_id}``, and if need be ``query``, ``headers``,
        ``response_format``, ``select``, ``save_to``, ``max_bytes`` as in ``http.request``.
    :param cancel: the request that ends the job: ``endpoint`` with ``{job_id}``, and if need be ``method``, ``json``.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
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
        """The triggerer saw the job end, or could not look any longer: look from here, and finish the work."""
        from flowrunner_provider.runtime.trigger import outcome

        self._ti = context["ti"]

        def go_on(run: Run) -> Any:
            outcome(event)
            return self._work(run, job)

        return self.attempt(context, go_on)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """A wait in the triggerer that took too long is the same error as one on the worker."""
        with boundary():
            try:
                return super().resume_execution(next_method, next_kwargs, context)
            except TaskDeferralTimeout as error:
                raise TimedOut(
                    f"the job did not end within {self.timeout}", remedy="raise `timeout`; the retry goes on waiting"
                ) from error

    async def perform(self, run: Run) -> JobResult:
        return await self._work(run, None)

    def _plan(self) -> JobPlan:
        from flowrunner_provider.http.operators.job_plan import JobPlan

        return JobPlan(
            submit=self.submit, poll=self.poll, job_id_path=self.job_id_path, result=self.result, cancel=self.cancel
        )

    async def _work(self, run: Run, job: dict[str, Any] | None) -> JobResult:
        from flowrunner_provider.http.async_job import Seen, failure
        from flowrunner_provider.http.hook import FlowRunnerHttpHook

        plan = self._plan()
        hook = self._hook = FlowRunnerHttpHook(self.http_conn_id)
        submit = plan.request(honours_key=hook.config.honours_idempotency_key)
        async with hook.transport(run) as http:
            while True:
                job = job or await self._submitted(http, submit, run)
                self._job_id = job["id"]
                cleared = run.journal.max_tries > job["max_tries"]
                try:
                    seen = await self._ended(http, plan, job, run)
                except NotFound:
                    if not cleared:
                        raise
                    seen = Seen(status="gone", running=False, failed=True)
                if not seen.failed:
                    break
                if not cleared:
                    self._remember(run, job["number"], failed=run.journal.max_tries)
                    raise failure(job["id"], seen)
                run.log.info("The job %s ended as %s before the task was cleared.", job["id"], seen.status)
                self._remember(run, job["number"], failed=job["max_tries"])
                job = None
            self._job_id = ""
            result = None
            if plan.result is not None:
                failpoint("http.async_job.before_result")
                result = await self._fetched(http, plan, job["id"], run)
        failpoint("http.async_job.after_result")
        return JobResult(job_id=job["id"], status=seen.status, result=result)

    @staticmethod
    async def _fetched(http: HttpTransport, plan: JobPlan, job_id: str, run: Run) -> HttpResult:
        from flowrunner_provider.http.client import perform_request

        spec = plan.fetch(job_id)
        async with Stores() as stores:
            if plan.result is not None and plan.result.save_to is not None:
                spec = replace(spec, save_to=await stores.target(plan.result.save_to, "result.save_to"))
            return await perform_request(http, spec, run)

    async def _submitted(self, http: HttpTransport, submit: RequestSpec, run: Run) -> dict[str, Any]:
        """The job of this run: that of an earlier attempt, unless a user has cleared the task since it failed."""
        from flowrunner_provider.http.async_job import job_id_of
        from flowrunner_provider.http.client import perform_request

        state = _book(run, "http.async_job").state or {"number": 1, "failed": None}
        number = state["number"]
        if state["failed"] is not None and run.journal.max_tries > state["failed"]:
            number += 1
        failpoint("http.async_job.before_submit")
        answer = await perform_request(http, replace(submit, effect=f"submit.{number}"), run)
        failpoint("http.async_job.after_submit")
        if answer.status == 0:
            raise ConfigError(
                "nobody knows whether the job was started, so there is none to wait for",
                field="submit.on_unknown",
                remedy="use `reconcile`, or on_unknown='resend'",
            )
        job_id = job_id_of(answer.body, self.job_id_path)
        run.log.info("The job %s has been started.", job_id)
        record = _book(run, f"http.async_job.{number}")
        if record.state is None:
            record.save({"max_tries": run.journal.max_tries}, force=True)
        return {"id": job_id, "number": number, "max_tries": record.state["max_tries"]}

    @staticmethod
    def _remember(run: Run, number: int, *, failed: int) -> None:
        _book(run, "http.async_job").save({"number": number, "failed": failed}, force=True)
        failpoint("http.async_job.after_failure")

    async def _ended(self, http: HttpTransport, plan: JobPlan, job: dict[str, Any], run: Run) -> Seen:
        """The last look at the job; until then it waits here, or in the triggerer."""
        failures, wait = 0, 0.0
        while True:
            failpoint("http.async_job.before_look")
            try:
                seen = await plan.poll.look(http, job["id"])
            except TransientError as error:
                failures += 1
                if failures > _PATIENCE:
                    raise
                backoff = Backoff(base=plan.interval, cap=max(600.0, plan.interval))
                wait = max(plan.interval, error.retry_after or 0.0, backoff.delay(failures, run.retry.rng))
                run.log.warning("Look %s at the job %s failed: %s", failures, job["id"], error)
            else:
                failures, wait = 0, max(plan.interval, seen.asked)
                if not seen.running:
                    return seen
            if self.deferrable:
                self._defer(plan, job, run, wait)
            if wait > run.deadline.remaining():
                raise TimedOut(
                    f"the job {job['id']} has not ended within {self.timeout}",
                    remedy="raise `timeout`; the retry goes on waiting for the same job",
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
        """A user has ended the running task: end the job, too. A worker that shuts down leaves it alone."""
        super().on_kill()
        ti, hook, job_id = self._ti, self._hook, self._job_id
        if self.cancel and hook and job_id:
            in_time(lambda: self._end(hook, job_id) if stopped_by_user(ti) else None)

    def _end(self, hook: FlowRunnerHttpHook, job_id: str) -> None:
        try:
            run = Run.alone(timeout=ON_KILL_SECONDS - 0.5, retry=RetryPlan(attempts=2))
            run_to_end(_cancel(hook, self._plan().cancel, job_id, run), run.deadline)
            self.log.info("The job %s was cancelled.", job_id)
        except FlowRunnerError as error:
            self.log.warning("The job %s could not be cancelled: %s", job_id, error)


async def _cancel(hook: FlowRunnerHttpHook, cancel: Cancel | None, job_id: str, run: Run) -> None:
    from flowrunner_provider.http.async_job import cancel_job

    if cancel is not None:
        async with hook.transport(run) as http:
            await cancel_job(http, cancel, job_id)


def _book(run: Run, name: str) -> Checkpoint:
    """What is remembered about the jobs of this run, also with ``resume=False``: it belongs to the ledger."""
    return replace(run, resume=True).checkpoint(name)
