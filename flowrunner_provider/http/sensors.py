"""Sensor that waits for a condition behind an HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.http.choices import PollMethod as Method
from flowrunner_provider.http.operators.arguments import mapping, strings
from flowrunner_provider.http.results import Observation
from flowrunner_provider.runtime.sensor import FlowRunnerSensor

if TYPE_CHECKING:
    from flowrunner_provider.http.triggers import HttpConditionTrigger

__all__ = ["HttpConditionSensor"]


class HttpConditionSensor(FlowRunnerSensor):
    """On success, the resource met ``success_when``, and the value of ``select`` is returned.

    A killed or retried task polls again; polling has no side effects. Sends one small request per ``poke_interval`` and
    honours ``Retry-After``. Transient errors are tolerated (see ``patience``), other errors fail the sensor at once.
    The expressions are JMESPath over ``{status, headers, json, text}``; header names are lower case, and ``json`` is
    null if the body is not JSON. Both modes send the same request and evaluate it the same way.

    :param endpoint: appended to the connection's host.
    :param http_conn_id: id of an ``http`` connection.
    :param method: GET or HEAD; POST requires ``observe_only``.
    :param query: query parameters; a list repeats the parameter.
    :param headers: request headers; they override the connection's headers. Credentials belong in the connection.
    :param json: the request body of a POST.
    :param observe_only: True asserts that the POST only reads and changes nothing.
    :param success_when: JMESPath expression that ends the wait when true; by default any 2xx status does.
    :param fail_when: JMESPath expression that fails the sensor when true; a string result becomes the error message.
    :param select: JMESPath expression that picks the value to return, at most 48,000 bytes.
    :param expected_status: statuses for which the expressions are evaluated; by default every 2xx.
    :param not_yet_status: statuses that mean "not yet" regardless of the expressions; all other statuses are errors.
    :param poke_interval: time between two polls, at least one second.
    :param timeout: maximum total waiting time.
    :param deferrable: wait in the triggerer instead of occupying a worker slot.
    """

    action: ClassVar[str] = "http.wait"
    returns: ClassVar[Any] = Observation
    template_fields: Sequence[str] = (
        "http_conn_id", "endpoint", "query", "headers", "json", "success_when", "fail_when", "select",
    )  # fmt: skip

    def __init__(
        self,
        *,
        endpoint: str,
        http_conn_id: str = "http_default",
        method: Method = "GET",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Any = None,
        observe_only: bool = False,
        success_when: str | None = None,
        fail_when: str | None = None,
        select: str | None = None,
        expected_status: list[int] | None = None,
        not_yet_status: Sequence[int] = (404,),
        poke_interval: str | float | timedelta = "60s",
        timeout: str | float | timedelta = "12h",
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        **kwargs: Any,
    ) -> None:
        interval = parse_duration(poke_interval, "poke_interval").total_seconds()
        if interval < 1:
            raise ConfigError("poke_interval is shorter than 1 second", field="poke_interval", remedy="use e.g. '30s'")
        seconds = parse_duration(timeout, "timeout").total_seconds()
        super().__init__(poke_interval=interval, timeout=seconds, deferrable=deferrable, **kwargs)
        self.http_conn_id, self.endpoint, self.method = http_conn_id, endpoint, method
        self.query, self.headers, self.json, self.observe_only = query, headers, json, observe_only
        self.success_when, self.fail_when, self.select = success_when, fail_when, select
        self.expected_status, self.not_yet_status = expected_status, not_yet_status

    def trigger(self) -> HttpConditionTrigger:
        from flowrunner_provider.http.conditions import Watch
        from flowrunner_provider.http.triggers import HttpConditionTrigger

        watch = Watch(
            endpoint=self.endpoint,
            method=self.method,
            query=mapping(self.query, "query"),
            headers=strings(self.headers, "headers"),
            json=self.json,
            observe_only=self.observe_only,
            success_when=self.success_when,
            fail_when=self.fail_when,
            select=self.select,
            expected_status=None if self.expected_status is None else tuple(self.expected_status),
            not_yet_status=tuple(self.not_yet_status),
        )
        watch.check()
        return HttpConditionTrigger(
            http_conn_id=self.http_conn_id,
            watch=watch.to_json(),
            poll_interval=self.poke_interval,
            patience=self.patience,
        )
