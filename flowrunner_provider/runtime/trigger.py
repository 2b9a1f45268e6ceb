"""The base of every trigger: it only observes, never raises, and yields exactly one event."""

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
"""Seconds that a deferred task waits at least: an event that comes sooner meets a race in Airflow's scheduler."""


def outcome(event: dict[str, Any]) -> Any:
    """What a trigger's event says: its result, or the typed error that it stands for, raised."""
    if event.get("status") == "done":
        return event.get("result")
    raise from_event(event)


def _event(payload: dict[str, Json]) -> TriggerEvent:
    return TriggerEvent(payload)  # type: ignore[no-untyped-call]


T = TypeVar("T", bound="FlowRunnerTrigger")


def sealed(trigger: T) -> T:
    """The trigger, which Airflow is about to store: refused when a known secret is among its arguments.

    :raises ConfigError: without naming it.
    """
    text = json.dumps(trigger.arguments(), ensure_ascii=False)
    if redact(text) != text:
        raise ConfigError(
            "a secret is among what would be stored with the deferred task",
            field="deferrable",
            remedy="let the connection send it (password, `auth`, headers), and not the task",
        )
    return trigger


class FlowRunnerTrigger(BaseTrigger):
    """Polls :meth:`observe` until it has something to tell.

    The first look comes after one interval: the operator has just looked itself. A :class:`TransientError`
    is waited out, for as long as it asks and up to ``patience`` times in a row; every other error ends the
    wait as an event, from which the operator raises the same error, so that the retry policy sees it.

    :param poll_interval: seconds between two looks.
    :param patience: transient errors in a row that are waited out.
    :param first_look: seconds before the first look, if that is more than one interval.
    """

    def __init__(
        self, *, poll_interval: float = 30.0, patience: int = 10, first_look: float = FIRST_LOOK, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.poll_interval = poll_interval
        self.patience = patience
        self.first_look = first_look
        self.asked = 0.0
        """Seconds that the far side wished to be left alone in its last answer; :meth:`observe` may set it."""

    def arguments(self) -> dict[str, Any]:
        """The subclass's own constructor arguments: JSON values, connection ids, never secrets."""
        return {}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        own = {"poll_interval": self.poll_interval, "patience": self.patience, "first_look": self.first_look}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**own, **self.arguments()}

    async def observe(self) -> Json:
        """One look, without side effects: a result, or None when there is nothing to tell yet."""
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
                self.log.warning("Observation %s failed, next look in %.0f s: %s", failures, wait, redact(str(error)))
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
