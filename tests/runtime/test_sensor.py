"""The base sensor and trigger against their own contract, and what only they decide."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, Rejected, Unavailable
from flowrunner_provider.runtime import trigger as module
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from flowrunner_provider.runtime.trigger import sealed
from tests.contracts.sensor_contract import SensorContract
from tests.runtime.probe import FileSensor, FileTrigger
from tests.support.context import make_context


class TestFileSensor(SensorContract):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path) -> None:
        self.path = tmp_path / "signal"

    def sensor(self, **kwargs: Any) -> FlowRunnerSensor:
        return FileSensor(task_id="t", path=str(self.path), **kwargs)

    def appear(self) -> None:
        self.path.write_text('{"rows": 3}')

    def break_it(self) -> type[FlowRunnerError]:
        self.path.write_text("broken")
        return Rejected

    def test_a_transient_error_is_waited_out_in_both_modes(self) -> None:
        self.path.write_text("busy")
        sensor = self.sensor(deferrable=False)
        assert sensor.poke(make_context(sensor)) is False
        assert sensor.poke(make_context(sensor)).xcom_value == {"after": "busy"}

    def test_the_patience_of_a_poke_ends(self) -> None:
        self.path.write_text("down")
        sensor = self.sensor(deferrable=False, patience=2)
        assert [sensor.poke(make_context(sensor)) for _ in range(2)] == [False, False]
        with pytest.raises(Unavailable):
            sensor.poke(make_context(sensor))


def reschedule_seconds(sensor: FileSensor) -> float:
    with pytest.raises(AirflowRescheduleException) as caught:
        sensor.execute(make_context(sensor))
    return (caught.value.reschedule_date - datetime.now(UTC)).total_seconds()


def test_a_rescheduled_sensor_waits_as_long_as_the_far_side_asks(tmp_path: Path) -> None:
    (tmp_path / "signal").write_text("throttled")
    options: dict[str, Any] = {"task_id": "t", "path": str(tmp_path / "signal"), "mode": "reschedule"}
    assert 890 < reschedule_seconds(FileSensor(**options, poke_interval=60)) <= 900
    assert 1190 < reschedule_seconds(FileSensor(**options, poke_interval=1200)) <= 1200
    assert 390 < reschedule_seconds(FileSensor(**options, poke_interval=60, timeout=400)) <= 400


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []

    async def apause(seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr(module, "apause", apause)
    return seen


def first_event(trigger: FileTrigger) -> dict[str, Any]:
    async def first() -> Any:
        return [event.payload async for event in trigger.run()]

    events: list[dict[str, Any]] = asyncio.run(first())
    assert len(events) == 1
    return events[0]


def test_a_trigger_waits_before_its_first_look(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "signal").write_text("1")
    event = first_event(FileTrigger(path=str(tmp_path / "signal"), poll_interval=30))
    assert (event, waits) == ({"status": "done", "result": 1}, [30])


def test_a_trigger_waits_transient_errors_out(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "signal").write_text("busy")
    event = first_event(FileTrigger(path=str(tmp_path / "signal"), poll_interval=30))
    assert event["result"] == {"after": "busy"}
    assert len(waits) == 2
    assert min(waits) >= 30, "never faster than the poll interval: no hot loop"


def test_the_patience_of_a_trigger_ends_in_an_event(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "signal").write_text("down")
    event = first_event(FileTrigger(path=str(tmp_path / "signal"), poll_interval=30, patience=4))
    assert (event["status"], event["error_type"], len(waits)) == ("error", "Unavailable", 5)


def test_a_deferred_wait_is_longer_than_the_race_of_the_scheduler(tmp_path: Path, waits: list[float]) -> None:
    (tmp_path / "signal").write_text("1")
    trigger = FileTrigger(path=str(tmp_path / "signal"), poll_interval=1)
    assert (first_event(trigger)["result"], waits) == (1, [6.0])
    assert trigger.serialize()[1]["first_look"] == 6.0


def test_a_trigger_leaves_the_far_side_alone_as_long_as_it_asks(tmp_path: Path, waits: list[float]) -> None:
    class Asked(FileTrigger):
        async def observe(self) -> Any:
            self.asked = 50.0 if len(waits) < 3 else 0.0
            return None if len(waits) < 4 else "done"

    first_event(Asked(path="/nowhere", poll_interval=30))
    assert waits == [30, 50, 50, 30]


def test_a_known_secret_is_not_stored(tmp_path: Path) -> None:
    mask(["canary-in-arguments"])
    with pytest.raises(ConfigError) as caught:
        sealed(FileTrigger(path="/x/canary-in-arguments"))
    assert "canary" not in str(caught.value)
    assert sealed(FileTrigger(path="/x")).path == "/x"
