"""Waiting for something behind an HTTP API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.configuration import conf

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.http.choices import Look as Method
from flowrunner_provider.http.operators.arguments import mapping, strings
from flowrunner_provider.http.results import Observation
from flowrunner_provider.runtime.sensor import FlowRunnerSensor

if TYPE_CHECKING:
    from flowrunner_provider.http.triggers import HttpConditionTrigger

__all__ = ["HttpConditionSensor"]


class HttpConditionSensor(FlowRunnerSensor):
    """The resource has been seen in the state that ``success_when`` describes, and what ``select`` takes is returned.

    Killed or retried, it simply looks again: looking changes nothing. One small request per ``poke_interval``, never
    sooner than the server's ``Retry-After``; errors that pass are waited out (``patience``), others end the wait at
    once. The expressions are JMESPath over ``{status, headers, json, text}``; header names are in lower case, and
    ``json`` is null for a body that is none. Both modes ask and judge the same.

    :param endpoint: appended to the connection's host.
    :param http_conn_id: an ``http`` connection.
    :param method: GET or HEAD; POST only together with ``observe_only``.
    :param query: added to the query.
    :param headers: go before the connection's own; no credentials, which belong on the connection.
    :param json: the body of a POST.
    :param observe_only: True promises that the POST only asks and changes nothing.
    :param success_when: what ends the wait; by default any status of 2xx does.
    :param fail_when: what makes waiting pointless; if it gives text, that is the error's message.
    :param select: what to return of the answer, at most 48,000 bytes.
    :param expected_status: statuses that the expressions judge; by default all of 2xx.
    :param not_yet_status: statuses that mean "not yet", whatever the expressions say; all others are errors.
    :param poke_interval: the time between two looks, at least a second.
    :param timeout: how long to wait in all.
    :param deferrable: wait in the triggerer instead of holding a worker slot.
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
            raise ConfigError("poke_interval is below a second", field="poke_interval", remedy="write '30s', say")
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
