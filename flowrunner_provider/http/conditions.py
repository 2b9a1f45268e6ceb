"""One poll of an HTTP resource and its evaluation: done, failed, or not yet. Polling has no side effects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, Rejected
from flowrunner_provider.core.retry import parse_retry_after
from flowrunner_provider.core.secrets import is_sensitive_key, redact_url
from flowrunner_provider.http.choices import PollMethod
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.http.results import Observation
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["MAX_BODY", "MAX_VALUE", "Watch", "asked_to_wait", "excerpt", "no_credentials"]

MAX_BODY = 4 * 1024 * 1024
"""Largest answer that a poll reads."""

MAX_VALUE = 48_000
"""Largest returned value, in bytes of JSON: it is stored in Airflow's database."""

_2XX = frozenset(range(200, 300))


@dataclass(frozen=True, kw_only=True)
class Watch:
    """The parameters of ``http.wait`` that define the request and its evaluation."""

    endpoint: str
    method: PollMethod = "GET"
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    success_when: str | None = None
    fail_when: str | None = None
    select: str | None = None
    expected_status: tuple[int, ...] | None = None
    not_yet_status: tuple[int, ...] = (404,)
    observe_only: bool = False

    def check(self) -> None:
        """Validate the parameters before any request.

        :raises ConfigError: naming the parameter.
        """
        if self.method not in PollMethod.__args__:  # type: ignore[attr-defined]
            raise ConfigError(
                f"{self.method!r} is not a read-only method", field="method", remedy="use GET, HEAD or POST"
            )
        if self.method == "POST" and not self.observe_only:
            raise ConfigError(
                "a POST may change data, and a sensor repeats it",
                field="observe_only",
                remedy="set observe_only=True if this POST only reads; use http.async_job to start work",
            )
        if self.method != "POST" and self.json is not None:
            raise ConfigError(f"{self.method} takes no body", field="json", remedy="use `query`, or POST")
        no_credentials(self.endpoint, self.query, self.headers)
        for name in ("success_when", "fail_when", "select"):
            if (expression := getattr(self, name)) is not None:
                compile_path(expression, name)

    async def poll(self, http: HttpTransport) -> tuple[Observation | None, float]:
        """Send one request; return the observation, or None if not yet done, and the seconds of Retry-After.

        :raises Rejected: if ``fail_when`` is true.
        """
        evaluated = _2XX if self.expected_status is None else frozenset(self.expected_status)
        pending = frozenset(self.not_yet_status) - evaluated
        body = None if self.json is None else json.dumps(self.json).encode()
        answer = await http.request(
            self.method,
            self.endpoint,
            params=self.query,
            headers={"Content-Type": "application/json", **self.headers} if body is not None else self.headers,
            body=body,
            repeatable=True,
            expected=evaluated | pending,
            max_bytes=MAX_BODY,
            retry=False,
        )
        found = None if answer.status in pending else self._evaluate(answer)
        return found, asked_to_wait(answer, http)

    def _evaluate(self, answer: Response) -> Observation | None:
        document = _document(answer)
        if self.fail_when is not None and (failed := compile_path(self.fail_when, "fail_when")(document)):
            reason = failed if isinstance(failed, str) else excerpt(answer.text())
            raise Rejected(
                f"`fail_when` is true for the answer of {redact_url(answer.url)} ({answer.status}): {excerpt(reason)}",
                status=answer.status,
                remedy="check the resource; waiting longer does not help",
            )
        if self.success_when is not None and not compile_path(self.success_when, "success_when")(document):
            return None
        return Observation(status=answer.status, url=redact_url(answer.url), value=self._selected(document, answer))

    def _selected(self, document: dict[str, Any], answer: Response) -> Any:
        if self.select is None:
            return None
        value = compile_path(self.select, "select")(document)
        if value is None:
            raise IntegrityError(
                f"`select` matches nothing in the answer of {redact_url(answer.url)}",
                remedy=f"compare {self.select!r} with {{status, headers, json, text}} of the answer",
            )
        if (size := len(json.dumps(value))) > MAX_VALUE:
            raise IntegrityError(
                f"`select` returns {size:,} bytes; a sensor may return at most {MAX_VALUE:,}",
                remedy="select less, and fetch the rest with http.request",
            )
        return value

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Watch:
        """Rebuild the object from :meth:`to_json`."""
        fields: dict[str, Any] = dict(values)
        for name in ("expected_status", "not_yet_status"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        return cls(**fields)


def _document(answer: Response) -> dict[str, Any]:
    """Return the document for the expressions; ``json`` is None if the body is not JSON."""
    try:
        body = json.loads(answer.content) if answer.content else None
    except (ValueError, RecursionError):
        body = None
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return {"status": answer.status, "headers": headers, "json": body, "text": answer.text()}


def asked_to_wait(answer: Response, http: HttpTransport) -> float:
    """Return the seconds of the answer's ``Retry-After``; 0 without one."""
    return parse_retry_after(answer.headers.get("Retry-After"), http.run.clock.now()) or 0.0


def excerpt(text: str, most: int = 300) -> str:
    """Return the beginning of ``text`` on one line."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def no_credentials(endpoint: str, query: Mapping[str, Any], headers: Mapping[str, Any], where: str = "") -> None:
    """Raise if an argument looks like a credential, because a deferred task stores it in Airflow's database.

    :param where: prefix of the parameter names.
    :raises ConfigError: naming the parameter.
    """
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("endpoint", lambda: redact_url(endpoint) != endpoint),
        ("query", lambda: any(is_sensitive_key(name) for name in query)),
        ("headers", lambda: any(is_sensitive_key(name) for name in headers)),
    )
    for name, holds_one in checks:
        if holds_one():
            raise ConfigError(
                f"{where}{name} seems to contain a credential",
                field=f"{where}{name}",
                remedy="put it into the connection (password, `auth`, headers)",
            )
