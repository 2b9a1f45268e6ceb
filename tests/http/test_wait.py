"""http.wait: both modes see the same, ask as often as they were told to, and carry no secret."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.sensors import HttpConditionSensor
from flowrunner_provider.http.triggers import HttpConditionTrigger
from flowrunner_provider.runtime import trigger as runtime_trigger
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from tests.contracts.sensor_contract import SensorContract
from tests.support.context import execute, make_context
from tests.support.http_server import HttpServer, Reply, drop, in_turn, json_reply, throttled

SECRET = "s3cr3t-canary-4711"


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, http_server: HttpServer) -> None:
    value = {"conn_type": "http", "host": http_server.url, "login": "me", "password": SECRET}
    monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))


def wait_for(**how: Any) -> HttpConditionSensor:
    return HttpConditionSensor(task_id="t", **{"endpoint": "/x", **how})


def defer(sensor: HttpConditionSensor) -> HttpConditionTrigger:
    with pytest.raises(TaskDeferred) as caught:
        execute(sensor, make_context(sensor))
    path, arguments = caught.value.trigger.serialize()
    assert path == "flowrunner_provider.http.triggers.HttpConditionTrigger"
    return HttpConditionTrigger(**json.loads(json.dumps(arguments)))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    seen: list[float] = []

    async def apause(seconds: float) -> None:
        seen.append(seconds)

    monkeypatch.setattr(runtime_trigger, "apause", apause)
    return seen


def event_of(trigger: HttpConditionTrigger) -> dict[str, Any]:
    async def first() -> Any:
        return [event.payload async for event in trigger.run()]

    events: list[dict[str, Any]] = asyncio.run(first())
    assert len(events) == 1
    return events[0]


class TestContract(SensorContract):
    @pytest.fixture(autouse=True)
    def scene(self, connect: None, http_server: HttpServer) -> None:
        self.server = http_server

    def sensor(self, **kwargs: Any) -> FlowRunnerSensor:
        return wait_for(success_when="json.state == 'done'", fail_when="json.why", select="json.rows", **kwargs)

    def nothing_yet(self) -> None:
        self.server.route("GET", "/x", json_reply({"state": "running"}))

    def appear(self) -> None:
        self.server.route("GET", "/x", json_reply({"state": "done", "rows": 3}))

    def break_it(self) -> type[e.FlowRunnerError]:
        self.server.route("GET", "/x", json_reply({"state": "failed", "why": "disk full"}))
        return e.Rejected


class TestContractOfErrors(TestContract):
    def nothing_yet(self) -> None:
        self.server.route("GET", "/x", Reply(404))

    def break_it(self) -> type[e.FlowRunnerError]:
        self.server.route("GET", "/x", Reply(403, b"no"))
        return e.AccessDenied


@pytest.mark.usefixtures("connect")
class TestLooks:
    def test_a_forbidden_resource_is_asked_for_once_in_either_mode(self, http_server: HttpServer, waits: Any) -> None:
        http_server.route("GET", "/x", in_turn(Reply(404), Reply(403)))
        assert event_of(defer(wait_for(poke_interval=5, deferrable=True)))["error_type"] == "AccessDenied"
        assert (len(http_server.requests), waits) == (2, [6.0])
        with pytest.raises(e.AccessDenied):
            execute(poked := wait_for(poke_interval=5), make_context(poked))
        assert len(http_server.requests) == 3

    def test_an_allowed_status_is_not_yet_and_never_a_hot_loop(self, http_server: HttpServer, waits: Any) -> None:
        http_server.route("GET", "/x", in_turn(*[Reply(403)] * 20, Reply(204)))
        trigger = defer(wait_for(poke_interval=5, not_yet_status=[403], deferrable=True))
        assert event_of(trigger)["result"]["status"] == 204
        assert (len(http_server.requests), waits) == (21, [6.0] + [5.0] * 19)

    def test_what_is_asked_survives_into_the_deferred_mode(self, http_server: HttpServer, waits: Any) -> None:
        http_server.route("POST", "/x", in_turn(json_reply({"n": 0}), json_reply({"n": 1})))
        sensor = wait_for(
            method="POST", observe_only=True, json={"a": [1]}, query={"q": "ä"}, headers={"X-Kind": "k"},
            success_when="json.n > `0`", deferrable=True,
        )  # fmt: skip
        assert event_of(defer(sensor))["status"] == "done"
        first, second = http_server.requests
        for seen in (first, second):
            assert (seen.json(), seen.query, seen.headers["x-kind"]) == ({"a": [1]}, {"q": ["ä"]}, "k")
            assert seen.headers["authorization"].startswith("Basic ")

    def test_gone_can_be_waited_for(self, http_server: HttpServer) -> None:
        http_server.route("GET", "/x", in_turn(Reply(200), Reply(404)))
        sensor = wait_for(expected_status=[200, 404], success_when="status == `404`")
        assert not sensor.poke(make_context(sensor))
        assert sensor.poke(make_context(sensor)).xcom_value["status"] == 404

    def test_the_expressions_see_headers_and_text(self, http_server: HttpServer) -> None:
        http_server.route("GET", "/x", Reply(200, b"a DONE b", {"X-State": "ok"}))
        how = {"success_when": "headers.\"x-state\" == 'ok' && contains(text, 'DONE') && json == null"}
        result = execute(sensor := wait_for(select="text", **how), make_context(sensor))
        assert result["value"] == "a DONE b"

    def test_a_transient_start_does_not_end_a_deferred_wait(self, http_server: HttpServer, waits: Any) -> None:
        http_server.route("GET", "/x", in_turn(drop(), drop(), Reply(200)))
        assert event_of(defer(wait_for(deferrable=True, poke_interval=5)))["status"] == "done"

    def test_a_throttled_start_is_waited_out_as_long_as_asked(self, http_server: HttpServer, monkeypatch: Any) -> None:
        monkeypatch.setenv("AIRFLOW_CONN_SLOW", os.environ["AIRFLOW_CONN_HTTP_DEFAULT"])
        http_server.route("GET", "/x", throttled("90"))
        assert defer(wait_for(http_conn_id="slow", deferrable=True, poke_interval=5)).first_look == 90.0

    def test_retry_after_is_honoured_beside_a_status_that_is_fine(self, http_server: HttpServer, waits: Any) -> None:
        later = json_reply({"done": False}, 202, **{"Retry-After": "40"})
        http_server.route("GET", "/x", in_turn(later, later, json_reply({"done": True})))
        assert event_of(defer(wait_for(success_when="json.done", deferrable=True, poke_interval=5)))["status"] == "done"
        assert waits[1:] == [40.0]
        http_server.route("GET", "/x", later)
        poked = wait_for(success_when="json.done", poke_interval=5)
        before = len(http_server.requests)
        assert not any(poked.poke(make_context(poked)) for _ in range(3))
        assert len(http_server.requests) - before == 1

    def test_no_connection_stays_open(self, http_server: HttpServer, waits: Any) -> None:
        import warnings

        http_server.route("GET", "/x", in_turn(*[Reply(404)] * 3, Reply(200)))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            event_of(defer(wait_for(deferrable=True)))


@pytest.mark.usefixtures("connect")
@pytest.mark.parametrize(
    "how",
    [
        {"method": "POST"},
        {"method": "DELETE"},
        {"json": {"a": 1}},
        {"success_when": "]["},
        {"fail_when": "("},
        {"select": "]["},
        {"headers": {"Authorization": "x"}},
        {"query": {"api_key": "x"}},
        {"endpoint": "/x?access_token=abc"},
        {"query": "a=1"},
        {"http_conn_id": "nowhere"},
    ],
)
@pytest.mark.parametrize("deferrable", [False, True])
def test_bad_input_is_named_before_anything_is_asked(http_server: HttpServer, how: Any, deferrable: bool) -> None:
    sensor = wait_for(deferrable=deferrable, **how)
    with pytest.raises(e.ConfigError) as caught:
        execute(sensor, make_context(sensor))
    assert caught.value.field
    assert caught.value.remedy
    assert http_server.requests == []


@pytest.mark.parametrize("how", [{"poke_interval": 0}, {"poke_interval": "soon"}, {"timeout": "x"}])
def test_a_hot_loop_cannot_be_asked_for(how: Any) -> None:
    with pytest.raises(e.ConfigError):
        wait_for(**how)


@pytest.mark.usefixtures("connect")
def test_a_known_secret_is_not_stored_with_the_trigger(http_server: HttpServer) -> None:
    http_server.route("POST", "/x", json_reply({}))
    how = {"method": "POST", "observe_only": True, "success_when": "json.done", "deferrable": True}
    sensor = wait_for(json={"k": SECRET}, **how)
    with pytest.raises(e.ConfigError) as caught:
        execute(sensor, make_context(sensor))
    assert SECRET not in str(caught.value)
    _, arguments = defer(wait_for(json={"k": 1}, **how)).serialize()
    assert SECRET not in json.dumps(arguments)


@pytest.mark.usefixtures("connect")
def test_the_trigger_reads_its_connection_asynchronously(http_server: HttpServer, monkeypatch: Any, waits: Any) -> None:
    from airflow.sdk import BaseHook

    http_server.route("GET", "/x", in_turn(Reply(404), Reply(200)))
    trigger = defer(wait_for(deferrable=True))

    def blocking(*_: Any) -> Any:
        raise AssertionError("a synchronous look-up in the triggerer")

    monkeypatch.setattr(BaseHook, "get_connection", blocking)
    monkeypatch.setattr("flowrunner_provider.runtime.masking.mask_secret", blocking)
    assert event_of(trigger)["status"] == "done"
