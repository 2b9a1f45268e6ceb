"""The base of every operator: opens the run, does the work, and tells Airflow what became of it."""

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
from flowrunner_provider.runtime.heap import settled
from flowrunner_provider.runtime.kill import Ending
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy
from flowrunner_provider.runtime.sinks import sinks_for

__all__ = ["DEFAULT_RETRY_POLICY", "FlowRunnerOperator", "open_run", "run_to_end", "to_json"]

T = TypeVar("T")

DEFAULT_RETRY_POLICY = FlowRunnerRetryPolicy()


def open_run(context: Mapping[str, Any], *, timeout: float, resume: bool = True, log: Any) -> Run:
    """Begin an attempt of the task whose ``context`` this is."""
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
    """Run ``work`` in a new event loop (uvloop where it is installed) under the deadline.

    :param ending: asked for when Airflow ends the task before.
    :raises TimedOut: when the deadline passes; the work is cancelled and cleans up first.
    """

    async def bounded() -> T:
        try:
            async with asyncio.timeout(deadline.remaining()) as scope:
                with ending.cancelling() if ending else nullcontext():
                    return await work
        except TimeoutError as error:
            if scope.expired():
                raise deadline.exceeded("the task") from error
            raise TimedOut("a step of the task timed out", remedy="the retry tries it again") from error

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
    """A result for XCom: dataclasses become dicts, everything below them JSON."""
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {field.name: to_json(getattr(result, field.name)) for field in dataclasses.fields(result)}
    if isinstance(result, Mapping):
        return {str(key): to_json(value) for key, value in result.items()}
    if isinstance(result, list | tuple):
        return [to_json(item) for item in result]
    return result  # type: ignore[no-any-return]


@contextmanager
def unless_superseded(run: Run) -> Iterator[None]:
    """Whatever an attempt stumbles over that another one has taken over from is the other one's doing, or its affair.

    :raises Fenced: from the error.
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
            run.log.warning("The task's state store does not answer either.")
        raise


class FlowRunnerOperator(NamedRendering, BaseOperator):
    """What every action shares.

    Subclasses set ``action``, document their promise, and implement :meth:`perform`.

    :param timeout: for the whole attempt, as a duration such as ``"90s"`` or ``"1h30m"``.
    :param resume: False to ignore how far an earlier attempt came; what it sent is remembered anyway.
    :param retries: how often Airflow may try again.
    :param retry_delay: the wait after a killed worker, to which no retry policy is applied.
    :param retry_policy: decides by the class of the error (Airflow 3.3 and later).
    """

    action: ClassVar[str] = ""
    """The id of the action in the catalogue, e.g. ``files.copy``."""

    keeps_result: ClassVar[bool] = True
    """False where the result may hold data: then it is never written into the state store."""

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
        """Airflow ends the running task: its worker goes away, or a user said so. The work ends in order, in time."""
        if self._ending is not None:
            self._ending.ask()

    def perform(self, run: Run) -> Any:
        """Do the work: return a small result, or a coroutine that returns one."""
        raise ConfigError(f"{type(self).__name__} does nothing", field="perform", remedy="implement perform()")

    def execute(self, context: Any) -> Any:
        """Do the work once over all attempts and return its result as JSON."""
        return self.attempt(context, self.perform)

    def attempt(self, context: Any, perform: Callable[[Run], Any]) -> Any:
        """One attempt, or its continuation after a deferral: open the run, do the work, remember that it is done."""
        with boundary():
            check_arguments(self)
            seconds = parse_duration(self.timeout, "timeout").total_seconds()
            if seconds <= 0:
                raise ConfigError("timeout must be positive", field="timeout", remedy="write '1h', say")
            run = open_run(context, timeout=seconds, resume=self.resume, log=self.log)
            if run.journal.finished and run.journal.result is not None:
                self.log.info("An earlier attempt finished the work and was lost afterwards; its result stands.")
                return run.journal.result
            ending = self._ending = Ending(run)
            with unless_superseded(run), settled():
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
