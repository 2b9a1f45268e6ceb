"""One HTTP request: idempotent methods are retried freely, POST and PATCH are carried out once or reconciled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.effects import Done, Effect, Intent, NotDone, OnUnknown, Reconciled, Unknown
from flowrunner_provider.core.errors import (
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    NotFound,
    OutcomeUnknown,
    TransientError,
    Unavailable,
    from_event,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import is_sensitive_key, redact_url
from flowrunner_provider.core.spec import option
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.http.bodies import StreamedBody, encode_body, exchange, streaming_seconds
from flowrunner_provider.http.choices import STRUCTURED, Format
from flowrunner_provider.http.formats import detect, parse
from flowrunner_provider.http.results import MAX_RESULT, HttpResult
from flowrunner_provider.http.targets import Target, Writing, local_target
from flowrunner_provider.transport.http import HttpTransport, Response
from flowrunner_provider.transport.http_body import repeated

__all__ = [
    "Reconcile",
    "RequestSpec",
    "compile_path",
    "encode_body",
    "look_up",
    "part_token",
    "perform_request",
    "tolerant",
]

_NON_IDEMPOTENT = frozenset({"POST", "PATCH"})


@dataclass(frozen=True, kw_only=True)
class Reconcile:
    """How to find out whether a POST whose answer was lost was carried out.

    :param endpoint: requested with GET; ``{key}`` is replaced by the effect's key.
    :param exists_when: JMESPath on the JSON answer; true, or not empty, if the POST was carried out.
    """

    endpoint: str = option(label="Endpoint", help="set the endpoint to request with GET")
    exists_when: str = option(label="Exists when", help="set the JMESPath that is true if the request was carried out")


@dataclass(frozen=True, kw_only=True)
class RequestSpec:
    """One request: the validated and encoded parameters of ``http.request``."""

    method: str
    endpoint: str
    params: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | StreamedBody | None = None
    response_format: Format = "auto"
    csv_delimiter: str = ","
    select: str | None = None
    expected: frozenset[int] | None = None
    key_header: str = "Idempotency-Key"
    key: bool | str = False
    honours_key: bool = False
    reconcile: Reconcile | None = None
    on_unknown: OnUnknown = "stop"
    save_to: Target | Path | None = None
    max_bytes: int | None = None
    effect: str = "request"  # its name in the ledger
    once: bool = False  # use the ledger for any method: every attempt must return the same answer

    @property
    def target(self) -> Target | None:
        """The file that receives the answer's body; a bare path is a local file."""
        return local_target(self.save_to) if isinstance(self.save_to, Path) else self.save_to


def compile_path(expression: str, field_name: str) -> Callable[[Any], Any]:
    """Compile a JMESPath expression to a function.

    :raises ConfigError: naming the parameter if the expression is malformed; the function raises it if evaluation
        fails.
    """
    jmespath = load("jmespath", extra="http", needed_for="JMESPath expressions")
    from jmespath.exceptions import JMESPathError

    remedy = "see jmespath.org for the language"
    try:
        compiled = jmespath.compile(expression)
    except JMESPathError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{field_name}: {reason}", field=field_name, remedy=remedy) from error

    def search(value: Any) -> Any:
        try:
            return compiled.search(value)
        except JMESPathError as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"{field_name} cannot be applied to the answer: {reason}", field=field_name, remedy=remedy
            ) from error

    return search


def part_token(run: Run) -> str:
    """Return the token that names this task's temporary files, the same in every attempt."""
    return fingerprint(*run.scope)[:24]


async def perform_request(http: HttpTransport, spec: RequestSpec, run: Run) -> HttpResult:
    """Send the request and return its answer; over all attempts, POST and PATCH are sent once."""
    shape = _make_shaper(spec)
    exists = compile_path(spec.reconcile.exists_when, "reconcile") if spec.reconcile else None
    if spec.method == "DELETE":
        return await _delete(http, spec, run, shape)
    if spec.method not in _NON_IDEMPOTENT and not spec.once:
        result: HttpResult = await _send(http, spec, run, shape, repeatable=None)
        return result
    return await _once(http, spec, run, shape, exists)


async def _once(
    http: HttpTransport, spec: RequestSpec, run: Run, shape: Shaper, exists: Callable[[Any], Any] | None
) -> HttpResult:
    repeatable = spec.method not in _NON_IDEMPOTENT or (bool(spec.key) and spec.honours_key)
    tries = run.retry.attempts if repeatable else 2
    effect = Effect(
        name=spec.effect,
        fingerprint=fingerprint(spec.method, spec.endpoint, spec.params, _identity(spec.body)),
        seconds=_announced_seconds(http, spec, run, tries),
        repeatable=repeatable,
        on_unknown=spec.on_unknown,
    )

    async def act(intent: Intent) -> Any:
        headers = dict(spec.headers)
        if spec.key:
            headers[spec.key_header] = intent.key if spec.key is True else spec.key
        try:
            sent = await _send(http, replace(spec, headers=headers), run, tolerant(shape), repeatable=repeatable)
        except OutcomeUnknown as error:
            error.effect_key, error.reconcilable = (
                intent.key,
                repeatable or exists is not None or spec.on_unknown != "stop",
            )
            raise
        return asdict(sent) if isinstance(sent, HttpResult) else sent

    async def reconcile(intent: Intent) -> Reconciled:
        if exists is None or spec.reconcile is None:
            return Unknown()
        return await look_up(http, spec.reconcile.endpoint.replace("{key}", intent.key), exists, shape)

    answer = await run.effects.perform(effect, act, reconcile)
    if spec.target is not None:
        await Writing(spec.target, part_token(run)).discard()  # left by a killed attempt
    if answer is None:
        return HttpResult(status=0, url=redact_url(spec.endpoint), reconciled=True)
    if "unusable" in answer:
        raise from_event(answer["unusable"])
    return HttpResult(**answer)


def _announced_seconds(http: HttpTransport, spec: RequestSpec, run: Run, tries: int) -> float:
    """Return for how many seconds to announce the request; with ``save_to`` only the attempt's deadline limits it."""
    if spec.save_to is not None:
        return run.deadline.remaining()
    if isinstance(spec.body, StreamedBody):
        return streaming_seconds(http, run)
    return run.deadline.limit(run.patience + tries * http.settings.timeout)


def _identity(body: bytes | StreamedBody | None) -> Any:
    return body.identity() if isinstance(body, StreamedBody) else body or b""


async def look_up(
    http: HttpTransport, endpoint: str, exists: Callable[[Any], Any], shape: Callable[[Response], Any]
) -> Reconciled:
    """Query the far side; a failed query is :class:`Unknown`, never :class:`NotDone`."""
    try:
        answer = await http.request("GET", endpoint)
        if not exists(answer.json()):
            return NotDone()
        return Done(asdict(replace(shape(answer), reconciled=True)))
    except NotFound:
        return NotDone()
    except FlowRunnerError as error:
        return Unknown(f"the look-up failed: {error.message}", temporary=isinstance(error, TransientError))


async def _delete(http: HttpTransport, spec: RequestSpec, run: Run, shape: Shaper) -> HttpResult:
    """Send a DELETE; after a request with unknown outcome, 404 counts as success."""
    checkpoint = run.checkpoint("delete", fingerprint(spec.method, spec.endpoint, spec.params))
    maybe_done = checkpoint.state is not None
    checkpoint.save({"sent": True}, force=True)

    async def once() -> HttpResult:
        nonlocal maybe_done
        try:
            result: HttpResult = await _send(http, spec, run, shape, repeatable=None, retry=False)
            return result
        except NotFound:
            if not maybe_done:
                raise
            run.log.info("The resource is already gone: an earlier request deleted it and its answer was lost.")
            return HttpResult(status=404, url=redact_url(spec.endpoint), reconciled=True)
        except TransientError:
            maybe_done = True
            raise

    return await run.retry.acall(once, run.deadline)


async def _send(
    http: HttpTransport, spec: RequestSpec, run: Run, shape: Any, *, repeatable: bool | None, retry: bool = True
) -> Any:
    failpoint("http.request.before_send")
    if spec.target is not None:
        result = await _save_body(http, spec, run, spec.target, repeatable)
    else:
        result = shape(await _exchange(http, spec, run, repeatable=repeatable, retry=retry))
    failpoint("http.request.after_send")
    return result


async def _exchange(
    http: HttpTransport, spec: RequestSpec, run: Run, *, repeatable: bool | None, retry: bool
) -> Response:
    max_bytes = spec.max_bytes or MAX_RESULT
    if isinstance(spec.body, StreamedBody):
        return await exchange(
            http,
            run,
            spec.method,
            spec.endpoint,
            spec.body,
            repeatable=spec.method not in _NON_IDEMPOTENT or bool(repeatable),
            params=spec.params,
            headers=spec.headers,
            expected=spec.expected,
            max_bytes=max_bytes,
        )
    return await http.request(
        spec.method,
        spec.endpoint,
        params=spec.params,
        headers=spec.headers,
        body=spec.body,
        repeatable=repeatable,
        expected=spec.expected,
        max_bytes=max_bytes,
        retry=retry,
    )


async def _save_body(
    http: HttpTransport, spec: RequestSpec, run: Run, target: Target, repeatable: bool | None
) -> HttpResult:
    """Stream the body into a file that gets its final name only when it is complete."""
    writing, body, guard = Writing(target, part_token(run)), spec.body, FencingGuard(run)
    may_repeat = spec.method not in _NON_IDEMPOTENT or bool(repeatable)
    answered = False

    async def once() -> HttpResult:
        nonlocal answered
        try:
            async with http.stream(
                spec.method,
                spec.endpoint,
                params=spec.params,
                headers=body.headers(spec.headers) if isinstance(body, StreamedBody) else spec.headers,
                body=body,
                repeatable=repeatable,
                expected=spec.expected,
                max_bytes=spec.max_bytes,
            ) as answer:
                answered = True
                size = await writing.fill(answer.chunks)
        except FlowRunnerError as error:
            raise (body.explained(error) if isinstance(body, StreamedBody) else error) from error
        return HttpResult(
            status=answer.status,
            url=redact_url(answer.url),
            headers=_public_headers(answer),
            path=target.shown,
            bytes=size,
        )

    try:
        result = await (repeated(once, run) if may_repeat else once())
        guard.check_now()
        failpoint("http.request.before_commit")
        await writing.commit()
        failpoint("http.request.after_commit")
    except FlowRunnerError as error:
        try:
            await guard.clean_up(writing, error, keep=False)
        except Unavailable:
            if may_repeat:
                raise
        if answered and not may_repeat and not isinstance(error, OutcomeUnknown):
            raise OutcomeUnknown(f"{error.message}; the request itself was carried out", remedy=error.remedy) from error
        raise
    finally:
        await writing.close()
    return result


Shaper = Callable[[Response], HttpResult]


def tolerant(shape: Callable[[Response], Any]) -> Callable[[Response], Any]:
    """Wrap ``shape``: the request was carried out, so return a bad answer as ``unusable`` and raise it later."""

    def shaped(answer: Response) -> Any:
        try:
            return shape(answer)
        except FlowRunnerError as error:
            return {"unusable": error.to_event()}

    return shaped


def _public_headers(answer: Any) -> dict[str, str]:
    return {
        name: redact_url(value)
        for name, value in answer.headers.items()
        if not is_sensitive_key(name) and name.lower() != "set-cookie"
    }


def _make_shaper(spec: RequestSpec) -> Shaper:
    select = compile_path(spec.select, "select") if spec.select else None

    def shape(answer: Response) -> HttpResult:
        body_format = spec.response_format
        if select is not None and body_format == "auto":
            detected = detect(answer.headers.get("Content-Type", ""))
            body_format = detected if detected in STRUCTURED else "json"
        body = parse(answer, body_format, delimiter=spec.csv_delimiter)
        if select is not None:
            body = select(body)
            if body is None:
                raise IntegrityError(
                    f"`select` matches nothing in the answer of {redact_url(answer.url)}",
                    remedy=f"compare {spec.select!r} with the answer",
                )
        return HttpResult(
            status=answer.status,
            url=redact_url(answer.url),
            headers=_public_headers(answer),
            body=body,
            bytes=len(answer.content),
        )

    return shape
