"""What every sensor must hold to: both modes see the same, say the same, and fail the same.

A connector's test subclasses :class:`SensorContract` and says what the world looks like.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred
from airflow.sdk.module_loading import import_string

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from tests.support.context import execute, make_context

__all__ = ["SensorContract"]


def _event(trigger: Any) -> dict[str, Any]:
    """The one event of a trigger that is rebuilt from its serialized form, as the triggerer does."""
    path, arguments = trigger.serialize()
    arguments = json.loads(json.dumps(arguments))
    again = import_string(path)(**arguments)
    again.poll_interval = again.first_look = 0.01

    async def first() -> Any:
        events = [event async for event in again.run()]
        assert len(events) == 1, "a trigger yields exactly one event"
        return events[0].payload

    return json.loads(json.dumps(asyncio.run(first())))


class SensorContract:
    """Subclass it, and override :meth:`sensor`, :meth:`nothing_yet`, :meth:`appear` and :meth:`break_it`."""

    def sensor(self, **kwargs: Any) -> FlowRunnerSensor:
        """The sensor, looking at the scene."""
        raise AssertionError("override me")

    def nothing_yet(self) -> None:
        """Make the scene one in which there is nothing to tell."""

    def appear(self) -> None:
        """Make what is waited for happen."""
        raise AssertionError("override me")

    def break_it(self) -> type[FlowRunnerError]:
        """Make the observation fail for good; return the error's class."""
        raise AssertionError("override me")

    def _deferred(self, **kwargs: Any) -> tuple[FlowRunnerSensor, TaskDeferred]:
        sensor = self.sensor(deferrable=True, **kwargs)
        with pytest.raises(TaskDeferred) as caught:
            execute(sensor, make_context(sensor))
        return sensor, caught.value

    def test_both_modes_return_the_same(self) -> None:
        self.nothing_yet()
        sensor, deferred = self._deferred()
        self.appear()
        event = _event(deferred.trigger)
        waited = execute(sensor, make_context(sensor), method="execute_complete", event=event)
        at_once = self.sensor(deferrable=True)
        poked = self.sensor(deferrable=False)
        assert waited == execute(at_once, make_context(at_once)) == execute(poked, make_context(poked))

    def test_both_modes_raise_the_same(self) -> None:
        self.nothing_yet()
        sensor, deferred = self._deferred()
        error = self.break_it()
        event = _event(deferred.trigger)
        with pytest.raises(error) as waited:
            execute(sensor, make_context(sensor), method="execute_complete", event=event)
        poked = self.sensor(deferrable=False)
        with pytest.raises(error) as at_once:
            execute(poked, make_context(poked))
        assert str(waited.value) == str(at_once.value)

    def test_nothing_yet_is_false_and_not_an_error(self) -> None:
        self.nothing_yet()
        sensor = self.sensor(deferrable=False)
        assert not sensor.poke(make_context(sensor))

    def test_the_trigger_carries_no_secret_and_no_object(self) -> None:
        self.nothing_yet()
        _, deferred = self._deferred()
        _, arguments = deferred.trigger.serialize()
        assert json.loads(json.dumps(arguments)) == arguments

    def test_a_deferred_wait_has_an_end(self) -> None:
        self.nothing_yet()
        _, deferred = self._deferred(timeout=60)
        assert deferred.timeout.total_seconds() == 60
