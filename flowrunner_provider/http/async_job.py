"""Requests and states of a job that an API runs: submit, poll, fetch the result, cancel. Pure."""

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

__all__ = ["Cancel", "Fetch", "JobState", "Poll", "Submit", "cancel_job", "failure", "job_id_of", "with_id"]


@dataclass(frozen=True, kw_only=True)
class Submit:
    """The request that starts the job; the operator documents its fields."""

    endpoint: str = option(label="Endpoint", help="set the endpoint that starts the job")
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
    """The request for the result of a successful job."""

    endpoint: str = option(label="Endpoint", help="set the endpoint of the result, containing {job_id}")
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)
    response_format: Format = "auto"
    select: str | None = None
    save_to: str | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """The request that cancels the job."""

    endpoint: str = option(label="Endpoint", help="set the endpoint that cancels the job, containing {job_id}")
    method: Literal["POST", "PUT", "PATCH", "DELETE"] = "POST"
    json: Any = None


@dataclass(frozen=True, kw_only=True)
class JobState:
    """The state of a job at one poll.

    :param status: the far side's own status.
    :param running: the job has not ended.
    :param failed: the job has ended without success.
    :param message: the job's explanation of a failure.
    :param asked: seconds of the server's Retry-After.
    """

    status: str
    running: bool
    failed: bool
    message: str = ""
    asked: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Poll:
    """How to request a job's state, and which statuses are final."""

    endpoint: str = option(label="Endpoint", help="set the endpoint of the job's state, containing {job_id}")
    status_path: str = option("status", label="Status")
    success: str | tuple[str, ...] = option(label="Success", help="list the statuses of a successful job")
    failed: str | tuple[str, ...] = option(label="Failed", help="list the statuses of a failed job")
    message_path: str = option("message || error.message || error", label="Message")
    interval: str | float = option("10s", label="Interval")
    query: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Validate the fields.

        :raises ConfigError: naming the field.
        """
        with_id(self.endpoint, "1", "poll.endpoint")
        no_credentials(self.endpoint, self.query, self.headers, "poll.")
        compile_path(self.status_path, "poll.status_path")
        compile_path(self.message_path, "poll.message_path")
        if both := _texts(self.success) & _texts(self.failed):
            raise ConfigError(
                f"{', '.join(sorted(both))} is listed as success and as failed",
                field="poll.success",
                remedy="list each status once",
            )
        if not _texts(self.success):
            raise ConfigError(
                "poll.success is empty", field="poll.success", remedy="list the statuses of a successful job"
            )

    async def fetch_state(self, http: HttpTransport, job_id: str) -> JobState:
        """Request the state once.

        :raises ConfigError: if ``status_path`` finds no status, because the wait would never end.
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
                remedy=f"compare status_path with the answer: {excerpt(answer.text(), 150)}",
            )
        text = str(status).lower() if isinstance(status, bool) else str(status)
        failed = text in _texts(self.failed)
        reason = compile_path(self.message_path, "poll.message_path")(body) if failed else None
        return JobState(
            status=text,
            running=not failed and text not in _texts(self.success),
            failed=failed,
            message=excerpt(reason if isinstance(reason, str) else answer.text()) if failed else "",
            asked=asked_to_wait(answer, http),
        )

    def to_json(self) -> dict[str, Json]:
        """Return the fields as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Poll:
        """Rebuild the object from :meth:`to_json`."""
        fields: dict[str, Any] = {n: tuple(value) if isinstance(value, list) else value for n, value in values.items()}
        return cls(**fields)


def _texts(value: str | tuple[str, ...]) -> frozenset[str]:
    return frozenset({value} if isinstance(value, str) else map(str, value))


def with_id(endpoint: str, job_id: str, field_name: str) -> str:
    """Insert the job id into ``endpoint``, quoted so that it cannot change the path.

    :raises ConfigError: if the endpoint has no placeholder.
    """
    if "{job_id}" not in endpoint:
        raise ConfigError(
            f"{field_name} does not contain {{job_id}}",
            field=field_name,
            remedy="put {job_id} where the job id belongs",
        )
    return endpoint.replace("{job_id}", quote(job_id, safe=""))


def job_id_of(found: Any, job_id_path: str) -> str:
    """Return the job id found in the answer to the submission.

    :raises IntegrityError: if it is not a valid id; the job was started nevertheless.
    """
    if isinstance(found, bool) or not isinstance(found, str | int) or not 0 < len(str(found)) <= 1000:
        raise IntegrityError(
            f"the job was started, but job_id_path {job_id_path!r} finds no id in the answer",
            remedy="find the job at the far side, correct job_id_path, and start a new run",
        )
    if str(found) in (".", ".."):
        raise IntegrityError(f"{found!r} is not a valid job id", remedy="correct job_id_path")
    return str(found)


async def cancel_job(http: HttpTransport, cancel: Cancel, job_id: str) -> None:
    """Ask the far side to cancel the job; a job that no longer exists counts as cancelled.

    :raises FlowRunnerError: if the request fails or is refused.
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


def failure(job_id: str, seen: JobState) -> Rejected:
    """Return the error of a failed job, with the job's own message."""
    return Rejected(
        f"the job {job_id} ended as {seen.status}: {seen.message}",
        code=seen.status if len(seen.status) <= 64 else "",
        remedy="fix the cause, then clear the task to submit a new job",
    )
