"""Base class of all triggers: it only observes, never raises, and yields exactly one event."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, Json, TransientError, from_event
from flowrunner_provider.core.retry import Backoff, apause
from flowrunner_provider.runtime.masking import redact, redact_error

__all__ = ["FIRST_LOOK", "FlowRunnerTrigger", "outcome", "sealed"]

FIRST_LOOK = 6.0
"""Minimum wait of a deferred task, in seconds: an earlier event can hit a race in Airflow's scheduler."""


def outcome(event: dict[str, Any]) -> Any:
    """Return the result in a trigger's event, or raise the typed error that it contains."""
    if event.get("status") == "done":
        return event.get("result")
    raise from_event(event)


def _event(payload: dict[str, Json]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


T = TypeVar("T", bound="FlowRunnerTrigger")


def sealed(trigger: T) -> T:
    """Return the trigger, after checking that no known secret is among the arguments that Airflow will store.

    :raises ConfigError: without showing the secret.
    """
    text = json.dumps(trigger.arguments(), ensure_ascii=False)
    if redact(text) != text:
        raise ConfigError(
            "a secret would be stored with the deferred task",
            field="deferrable",
            remedy="move it from the task to the connection (password, `auth`, headers)",
        )
    return trigger


class FlowRunnerTrigger(BaseTrigger):
    """Polls :meth:`observe` until it returns a result.

    The first poll comes after one interval, because the operator has just polled. A :class:`TransientError` is
    tolerated up to ``patience`` times in a row, and its ``retry_after`` is honoured. Any other error ends the wait with
    an error event, from which the operator raises the same error for the retry policy.

    :param poll_interval: seconds between two polls.
    :param patience: number of consecutive transient errors to tolerate.
    :param first_look: minimum seconds before the first poll.
    """

    def __init__(
        self, *, poll_interval: float = 30.0, patience: int = 10, first_look: float = FIRST_LOOK, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.poll_interval = poll_interval
        self.patience = patience
        self.first_look = first_look
        self.asked = 0.0
        """Seconds of Retry-After in the last answer; :meth:`observe` may set it."""

    def arguments(self) -> dict[str, Any]:
        """Return the subclass's constructor arguments: JSON values and connection ids, never secrets."""
        return {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = {"poll_interval": self.poll_interval, "patience": self.patience, "first_look": self.first_look}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**own, **self.arguments()}

    async def observe(self) -> Json:
        """Poll once without side effects; return the result, or None if there is none yet."""
        return None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event: ``{"status": "done", "result": ...}`` or ``{"status": "error", ...}``."""
        failures, wait = 0, max(self.poll_interval, self.first_look)
        while True:
            await apause(wait)
            try:
                result = await self.observe()
            except TransientError as error:
                failures += 1
                if failures > self.patience:
                    yield self._error(error)
                    return
                wait = self._wait(error, failures)
                self.log.warning("Observation %s failed, next poll in %.0f s: %s", failures, wait, redact(str(error)))
                continue
            except FlowRunnerError as error:
                yield self._error(error)
                return
            failures, wait = 0, max(self.poll_interval, self.asked)
            if result is not None:
                yield _event({"status": "done", "result": result})
                return

    def _wait(self, error: TransientError, failures: int) -> float:
        backoff = Backoff(base=self.poll_interval, cap=max(600.0, self.poll_interval))
        jittered = backoff.delay(failures, random.Random())  # noqa: S311 - jitter
        return max(error.retry_after or 0.0, self.poll_interval, jittered)

    @staticmethod
    def _error(error: FlowRunnerError) -> TriggerEvent:
        redact_error(error)
        return _event({"status": "error", **error.to_event()})
