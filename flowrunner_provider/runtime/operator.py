"""Base class of all operators: opens the run, executes ``perform`` and records the result."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

from airflow.sdk import BaseOperator

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, Json, TimedOut, Unavailable
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.runtime.arguments import check_arguments
from flowrunner_provider.runtime.boundary import NamedRendering, boundary
from flowrunner_provider.runtime.checkpoint_store import scope_of, store_of
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS
from flowrunner_provider.runtime.heap import frozen_heap
from flowrunner_provider.runtime.kill import Ending
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy
from flowrunner_provider.runtime.sinks import sinks_for

__all__ = ["DEFAULT_RETRY_POLICY", "FlowRunnerOperator", "open_run", "run_to_end", "to_json"]

T = TypeVar("T")

DEFAULT_RETRY_POLICY = FlowRunnerRetryPolicy()


def open_run(context: Mapping[str, Any], *, timeout: float, resume: bool = True, log: Any) -> Run:
    """Start an attempt of the task instance of ``context``."""
    store = store_of(context)
    return Run.open(
        store,
        scope_of(context),
        max_tries=int(getattr(context["ti"], "max_tries", 0) or 0),
        timeout=timeout,
        resume=resume,
        sinks=sinks_for(store, log),
        log=log,
    )


def run_to_end(work: Coroutine[Any, Any, T], deadline: Deadline, ending: Ending | None = None) -> T:
    """Run a coroutine in a new event loop (uvloop if installed) under the deadline.

    :param ending: used to cancel the work if Airflow terminates the task.
    :raises TimedOut: if the deadline passes; the work is cancelled and cleans up first.
    """

    async def bounded() -> T:
        try:
            async with asyncio.timeout(deadline.remaining()) as scope:
                with ending.cancelling() if ending else nullcontext():
                    return await work
        except TimeoutError as error:
            if scope.expired():
                raise deadline.exceeded("the task") from error
            raise TimedOut("a step of the task timed out", remedy="nothing to do: the retry repeats it") from error

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(bounded())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def to_json(result: Any) -> Json:
    """Convert a result to JSON for XCom; dataclasses become dicts."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: to_json(getattr(result, field.name)) for field in dataclasses.fields(result)}
    if isinstance(result, Mapping):
        return {str(key): to_json(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [to_json(item) for item in result]
    return result  # type: ignore[no-any-return]


@contextmanager
def unless_superseded(run: Run) -> Iterator[None]:
    """Turn any error of an attempt that another one has taken over from into Fenced: the newer attempt may have caused
    it.

    :raises Fenced: from the original error.
    """
    try:
        yield
    except Fenced:
        raise
    except FlowRunnerError as error:
        try:
            run.lease.check()
        except Fenced as fenced:
            raise fenced from error
        except Unavailable:
            run.log.warning("The task's state store cannot be reached either.")
        raise


class FlowRunnerOperator(NamedRendering, BaseOperator):
    """Base class of all operators.

    Subclasses set ``action``, document their promise, and implement :meth:`perform`.

    :param timeout: time limit of one attempt, e.g. ``"90s"`` or ``"1h30m"``.
    :param resume: False ignores the checkpoints of earlier attempts and starts over; sent effects are never repeated.
    :param retries: number of retries.
    :param retry_delay: delay before a retry that the retry policy does not decide, e.g. after a killed worker.
    :param retry_policy: decides by error class whether and when to retry (Airflow 3.3 and later).
    """

    action: ClassVar[str] = ""
    """Id of the action in the catalogue, e.g. ``files.copy``."""

    keeps_result: ClassVar[bool] = True
    """False if the result may contain data: it is then never written to the state store."""

    def __init__(
        self,
        *,
        timeout: str | float | timedelta = "1h",
        resume: bool = True,
        retries: int | None = 3,
        retry_delay: timedelta | float = timedelta(seconds=30),
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        if AIRFLOW_V_3_3_PLUS:
            kwargs["retry_policy"] = retry_policy
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.timeout = timeout
        self.resume = resume

    _ending: Ending | None = None

    def on_kill(self) -> None:
        """End the work in an orderly way when Airflow terminates the running task."""
        if self._ending is not None:
            self._ending.ask()

    def perform(self, run: Run) -> Any:
        """Do the work; return a small result, or a coroutine that returns one."""
        raise ConfigError(
            f"{type(self).__name__} does not implement perform()", field="perform", remedy="implement perform()"
        )

    def execute(self, context: Any) -> Any:
        """Run :meth:`perform` once over all attempts and return its result as JSON."""
        return self.attempt(context, self.perform)

    def attempt(self, context: Any, perform: Callable[[Run], Any]) -> Any:
        """Run one attempt, or continue it after a deferral: open the run, do the work, record the result."""
        with boundary():
            check_arguments(self)
            seconds = parse_duration(self.timeout, "timeout").total_seconds()
            if seconds <= 0:
                raise ConfigError("timeout must be positive", field="timeout", remedy="use e.g. '1h'")
            run = open_run(context, timeout=seconds, resume=self.resume, log=self.log)
            if run.journal.finished and run.journal.result is not None:
                self.log.info("An earlier attempt finished the work before it was lost; returning its result.")
                return run.journal.result
            ending = self._ending = Ending(run)
            with unless_superseded(run), frozen_heap():
                with ending.interrupting():
                    result = perform(run)
                if inspect.iscoroutine(result):
                    result = run_to_end(result, run.deadline, ending)
            answer = to_json(result)
            failpoint("run.before_finish")
            run.lease.check()
            run.journal.finish(answer if self.keeps_result else None)
            failpoint("run.after_finish")
            return answer
