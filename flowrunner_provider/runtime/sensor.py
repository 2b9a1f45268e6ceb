"""Base class of all sensors: one observation, made by the worker or by the triggerer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.configuration import conf

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Deadline
from flowrunner_provider.core.errors import ConfigError, Json, TransientError
from flowrunner_provider.runtime.arguments import check_arguments
from flowrunner_provider.runtime.boundary import NamedRendering, boundary
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS
from flowrunner_provider.runtime.masking import redact
from flowrunner_provider.runtime.operator import DEFAULT_RETRY_POLICY, run_to_end

if TYPE_CHECKING:
    from flowrunner_provider.runtime.trigger import FlowRunnerTrigger

__all__ = ["FlowRunnerSensor"]


class FlowRunnerSensor(NamedRendering, BaseSensorOperator):
    """Waits until the trigger's observation returns a result, and returns that.

    Subclasses set ``action`` and implement :meth:`trigger`. Both modes call the same :meth:`FlowRunnerTrigger.observe`.

    :param deferrable: wait in the triggerer instead of occupying a worker slot.
    :param observation_timeout: time limit of one poll, in seconds.
    :param patience: number of consecutive transient errors to tolerate. With ``mode="reschedule"`` each poke counts
        anew, so only ``timeout`` ends the wait.
    """

    action: ClassVar[str] = ""

    returns: ClassVar[Any] = None
    """The dataclass of the result, for the catalogue."""

    def __init__(
        self,
        *,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        observation_timeout: float = 60.0,
        patience: int = 10,
        retries: int | None = 3,
        retry_delay: timedelta | float = timedelta(seconds=30),
        retry_policy: Any = DEFAULT_RETRY_POLICY,
        **kwargs: Any,
    ) -> None:
        if AIRFLOW_V_3_3_PLUS:
            kwargs["retry_policy"] = retry_policy
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.deferrable = deferrable
        self.observation_timeout = observation_timeout
        self.patience = patience
        self._failures = 0
        self._not_before = 0.0

    def trigger(self) -> FlowRunnerTrigger:
        """Return the trigger that observes; its arguments are the sensor's rendered fields."""
        raise ConfigError(f"{type(self).__name__} does not implement trigger()", field="trigger")

    def observe(self) -> Json:
        """Call the trigger's observation once in this process, and return its result."""
        trigger = self.trigger()
        result = run_to_end(trigger.observe(), Deadline(self.observation_timeout))
        self._pause_polling(trigger.asked)
        return result

    def _pause_polling(self, seconds: float) -> None:
        self._not_before = SYSTEM_CLOCK.monotonic() + seconds

    def _get_next_poke_interval(self, started_at: Any, run_duration: Callable[[], float], poke_count: int) -> float:
        """Extend the interval to the far side's Retry-After: a rescheduled sensor forgets it between two pokes."""
        interval: float = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        if not self.reschedule:
            return interval
        asked = self._not_before - SYSTEM_CLOCK.monotonic()
        return max(interval, min(asked, self.timeout - run_duration()))

    def poke(self, context: Any) -> bool | PokeReturnValue:
        del context
        if SYSTEM_CLOCK.monotonic() < self._not_before:
            return False
        with boundary():
            try:
                result = self.observe()
            except TransientError as error:
                self._pause_polling(error.retry_after or 0.0)
                self._failures += 1
                if self._failures > self.patience:
                    raise
                self.log.warning("Observation %s failed: %s", self._failures, redact(str(error)))
                return False
        self._failures = 0
        return PokeReturnValue(is_done=result is not None, xcom_value=result)

    def execute(self, context: Any) -> Any:
        """Poll once; then wait on the worker, or in the triggerer if ``deferrable``."""
        with boundary():
            check_arguments(self)
        if not self.deferrable:
            return super().execute(context)
        from flowrunner_provider.runtime.trigger import sealed

        with boundary():
            trigger = self.trigger()
            try:
                result = self.observe()
            except TransientError as error:
                result = None
                trigger.first_look = max(trigger.first_look, error.retry_after or 0.0)
                self.log.warning("The first observation failed, the triggerer continues: %s", redact(str(error)))
            if result is not None:
                return result
            sealed(trigger)
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=self.timeout))
        return None

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Return the trigger's result, or raise its typed error for the retry policy."""
        from flowrunner_provider.runtime.trigger import outcome

        del context
        with boundary():
            return outcome(event)
