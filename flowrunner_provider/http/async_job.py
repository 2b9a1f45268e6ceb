"""A job that an API runs for us: how its state is asked for, how it is cancelled, and what its end means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import quote

from flowrunner_provider.core.errors import ConfigError, IntegrityError, Json, NotFound, Rejected
from flowrunner_provider.core.secrets import redact_url
from flowrunner_provider.core.spec import option
from flowrunner_provider.http.choices import Format
from flowrunner_provider.http.client import compile_path
from flowrunner_provider.http.conditions import MAX_BODY, asked_to_wait, excerpt, no_credentials
from flowrunner_provider.transport.http import HttpTransport

__all__ = ["Cancel", "Fetch", "Poll", "Seen", "Submit", "cancel_job", "failure", "job_id_of", "with_id"]


@dataclass(frozen=True, kw_only=True)
class Submit:
    """The request that starts the job; see the operator for the meaning of its fields."""

    endpoint: str = option(label="Endpoint", help="give the endpoint that starts the job")
    method: Literal["POST", "PUT", "PATCH"] = "POST"
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    json: Any = None
    data: dict[str, Any] | str | None = None
    idempotency_key: bool | str = False
    reconcile: dict[str, Any] | None = None
    on_unknown: Literal["stop", "resend", "skip"] = "stop"


@dataclass(frozen=True, kw_only=True)
class Fetch:
    """The request for the result of a job that went well."""

    endpoint: str = option(label="Endpoint", help="give the endpoint of the result, with {job_id} in it")
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    response_format: Format = "auto"
    select: str | None = None
    save_to: str | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """The request that ends the job."""

    endpoint: str = option(label="Endpoint", help="give the endpoint that cancels, with {job_id} in it")
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    json: Any = None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One look at a job.

    :param status: as the far side words it.
    :param running: it has not ended.
    :param failed: it has ended, and not well.
    :param message: the job's own explanation.
    :param asked: seconds that the server wants to be left alone.
    """

    status: str
    running: bool
    failed: bool
    message: str = ""
    asked: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Poll:
    """How the state of a job is asked for, and which states are its end."""

    endpoint: str = option(label="Endpoint", help="give the endpoint of the job's state, with {job_id} in it")
    status_path: str = option("status", label="Status")
    success: str | tuple[str, ...] = option(label="Success", help="give the statuses of a job that went well")
    failed: str | tuple[str, ...] = option(label="Failed", help="give the statuses of a job that ended otherwise")
    message_path: str = option("message || error.message || error", label="Message")
    interval: str | float = option("10s", label="Interval")
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse what cannot work.

        :raises ConfigError: naming the field.
        """
        with_id(self.endpoint, "1", "poll.endpoint")
        no_credentials(self.endpoint, self.query, self.headers, "poll.")
        compile_path(self.status_path, "poll.status_path")
        compile_path(self.message_path, "poll.message_path")
        if both := _texts(self.success) & _texts(self.failed):
            raise ConfigError(
                f"{', '.join(sorted(both))} cannot be both", field="poll.success", remedy="list each status once"
            )
        if not _texts(self.success):
            raise ConfigError("no status is a success", field="poll.success", remedy="list them")

    async def look(self, http: HttpTransport, job_id: str) -> Seen:
        """Ask once.

        :raises ConfigError: when ``status_path`` leads nowhere: waiting would have no end.
        """
        endpoint = with_id(self.endpoint, job_id, "poll.endpoint")
        answer = await http.request(
            "GET", endpoint, params=self.query, headers=self.headers, max_bytes=MAX_BODY, retry=False
        )
        body = answer.json()
        status = compile_path(self.status_path, "poll.status_path")(body)
        if not isinstance(status, str | int):
            raise ConfigError(
                f"status_path {self.status_path!r} finds no status in the answer of {redact_url(answer.url)}",
                field="poll.status_path",
                remedy=f"compare it with the answer: {excerpt(answer.text(), 150)}",
            )
        text = str(status).lower() if isinstance(status, bool) else str(status)
        failed = text in _texts(self.failed)
        why = compile_path(self.message_path, "poll.message_path")(body) if failed else None
        return Seen(
            status=text,
            running=not failed and text not in _texts(self.success),
            failed=failed,
            message=excerpt(why if isinstance(why, str) else answer.text()) if failed else "",
            asked=asked_to_wait(answer, http),
        )

    def to_json(self) -> dict[str, Json]:
        """Its fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Poll:
        """What :meth:`to_json` wrote."""
        fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**fields)


def _texts(value: str | tuple[str, ...]) -> frozenset[str]:
    return frozenset({value} if isinstance(value, str) else map(str, value))


def with_id(endpoint: str, job_id: str, field_name: str) -> str:
    """``endpoint`` with the job's id in it, quoted so that no id can lead elsewhere.

    :raises ConfigError: when there is no place for it.
    """
    if "{job_id}" not in endpoint:
        raise ConfigError(
            f"{field_name} does not name the job", field=field_name, remedy="write {job_id} where its id goes"
        )
    return endpoint.replace("{job_id}", quote(job_id, safe=""))


def job_id_of(found: Any, job_id_path: str) -> str:
    """The id that the answer to the submission brought.

    :raises IntegrityError: when it cannot be one; the job has been started nevertheless.
    """
    if isinstance(found, bool) or not isinstance(found, str | int) or not 0 < len(str(found)) <= 1000:
        raise IntegrityError(
            f"the job was started, but job_id_path {job_id_path!r} finds no id in the answer",
            remedy="find the job at the far side, correct job_id_path, and start a new run",
        )
    if str(found) in (".", ".."):
        raise IntegrityError(f"{found!r} cannot be a job's id", remedy="correct job_id_path")
    return str(found)


async def cancel_job(http: HttpTransport, cancel: Cancel, job_id: str) -> None:
    """Ask the far side to end the job; one that is gone already is fine.

    :raises FlowRunnerError: when it could not be asked, or refused.
    """
    import json

    body = None if cancel.json is None else json.dumps(cancel.json).encode()
    headers = {"Content-Type": "application/json"} if body is not None else {}
    try:
        await http.request(
            cancel.method,
            with_id(cancel.endpoint, job_id, "cancel.endpoint"),
            headers=headers,
            body=body,
            repeatable=True,
        )
    except NotFound:
        return


def failure(job_id: str, seen: Seen) -> Rejected:
    """The error for a job that ended otherwise than well, with its own message."""
    return Rejected(
        f"the job {job_id} ended as {seen.status}: {seen.message}",
        code=seen.status if len(seen.status) <= 64 else "",
        remedy="mend what it complains about, then clear the task: that submits a new job",
    )
