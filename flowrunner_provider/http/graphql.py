"""GraphQL over HTTP: parses documents, sends requests and evaluates answers. Pure.

Answers are evaluated by the GraphQL specification (October 2021, section 7): ``errors`` are never a success, whatever
the HTTP status is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    FlowRunnerError,
    IntegrityError,
    Rejected,
    Throttled,
)
from flowrunner_provider.core.retry import parse_retry_after
from flowrunner_provider.core.secrets import Redactor, redact_url
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["GraphQLRequest", "Operation", "evaluate", "operation_of", "send"]

Kind = Literal["query", "mutation"]

_TOKEN = re.compile(
    r'(?P<skip>[\s,\ufeff]+|\#[^\r\n]*)|"""(?P<block>(?:[^"\\]|\\"""|\\|"(?!""))*+)"""'
    r'|"(?P<string>(?:[^"\\\r\n]|\\.)*+)"|(?P<name>[A-Za-z_]\w*)|(?P<mark>\.\.\.|[!$&()\[\]{}:=@|]|-?\d[\w.+-]*)',
    re.ASCII,
)
_CLOSING_BRACKETS = {"{": "}", "(": ")", "[": "]"}
_MAX_DOCUMENT = 1_000_000
_THROTTLED = frozenset({"THROTTLED", "RATE_LIMITED", "RATE_LIMIT_EXCEEDED", "TOO_MANY_REQUESTS"})
_DENIED = frozenset({"UNAUTHENTICATED", "FORBIDDEN", "UNAUTHORIZED"})


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of a document; the name may be empty if it is the only one."""

    kind: str
    name: str = ""


def operation_of(document: str, operation_name: str | None = None) -> Operation:
    """Return the operation to carry out: a query or a mutation.

    :raises ConfigError: for a malformed document, a subscription, or an operation that is missing or ambiguous.
    """
    found = list(_operations(document))
    if operation_name:
        chosen = [operation for operation in found if operation.name == operation_name]
        if len(chosen) != 1:
            names = ", ".join(operation.name or "(no name)" for operation in found) or "none"
            raise ConfigError(
                f"the document has {len(chosen)} operations {operation_name!r}",
                field="operation_name",
                remedy=f"use one of: {names}",
            )
    elif len(found) != 1:
        raise ConfigError(
            f"the document has {len(found)} operations",
            field="operation_name" if found else "query",
            remedy="set `operation_name`" if found else "write a query or a mutation",
        )
    else:
        chosen = found
    if chosen[0].kind == "subscription":
        raise ConfigError("subscriptions are not supported", field="query", remedy="use a query, and http.wait to poll")
    return chosen[0]


def _operations(document: str) -> Iterator[Operation]:
    """Yield the operations at the top level; bodies are only checked for balanced brackets."""
    words = _tokens(document)
    for word in words:
        if word == "{":
            _skip_to_body(words, word)
            yield Operation(kind="query")
        elif word in ("query", "mutation", "subscription"):
            following = next(words, "")
            _skip_to_body(words, following)
            yield Operation(kind=word, name=following if re.match(r"[A-Za-z_]", following) else "")
        elif word == "fragment":
            _skip_to_body(words, next(words, ""))
        else:
            raise _malformed(f"unexpected {word[:40]!r} where an operation should start")


def _skip_to_body(words: Iterator[str], word: str) -> None:
    """Skip to the end of the definition's body, the first braces outside all other brackets."""
    waiting: list[str] = []
    while word:
        if word in _CLOSING_BRACKETS:
            waiting.append(_CLOSING_BRACKETS[word])
        elif word in _CLOSING_BRACKETS.values():
            if not waiting or waiting.pop() != word:
                raise _malformed(f"unbalanced {word!r}")
            if not waiting and word == "}":
                return
        word = next(words, "")
    raise _malformed("it ends in the middle of a definition")


def _tokens(document: str) -> Iterator[str]:
    position = 0
    while position < len(document):
        match = _TOKEN.match(document, position)
        if match is None:
            line = document.count("\n", 0, position) + 1
            raise _malformed(f"{document[position]!r} in line {line} is not GraphQL")
        position = match.end()
        if match.lastgroup in ("name", "mark"):
            yield match[0]
        elif match.lastgroup in ("block", "string"):
            yield '"'


def _malformed(reason: str) -> ConfigError:
    return ConfigError(f"the GraphQL document is malformed: {reason}", field="query", remedy="correct the document")


@dataclass(frozen=True, kw_only=True)
class GraphQLRequest:
    """The request to send; ``operation`` is read from the document."""

    endpoint: str
    query: str
    operation: Operation
    variables: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    partial: bool = False

    @classmethod
    def read(cls, *, query: str, operation_name: str | None = None, **more: Any) -> GraphQLRequest:
        """Parse the document and return the request.

        :raises ConfigError: naming the parameter.
        """
        if not isinstance(query, str) or len(query) > _MAX_DOCUMENT:
            raise ConfigError(
                "query must be a GraphQL document", field="query", remedy="pass a string, or a .graphql file"
            )
        return cls(query=query, operation=operation_of(query, operation_name or None), **more)

    def body(self, variables: Mapping[str, Any] | None = None) -> bytes:
        """Return the JSON body, with additional variables.

        :raises ConfigError: for variables that are not JSON.
        """
        value: dict[str, Any] = {"query": self.query, "variables": {**self.variables, **(variables or {})}}
        if self.operation.name:
            value["operationName"] = self.operation.name
        try:
            return json.dumps(value, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"variables are not JSON: {error}", field="variables", remedy="use plain JSON values"
            ) from error


async def send(
    http: HttpTransport,
    request: GraphQLRequest,
    *,
    repeatable: bool,
    max_bytes: int,
    retry: bool = True,
    headers: Mapping[str, str] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Response:
    """Send the request and return its answer, to be evaluated by :func:`evaluate`."""
    return await http.request(
        "POST",
        request.endpoint,
        headers={
            "Content-Type": "application/json",
            "Accept": "application/graphql-response+json, application/json",
            **request.headers,
            **(headers or {}),
        },
        body=request.body(variables),
        repeatable=repeatable,
        max_bytes=max_bytes,
        retry=retry,
    )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An answer's data, its errors, and the exception they amount to, if any.

    :param acted: has_data was, or may have been, carried out.
    """

    data: Any
    errors: list[dict[str, Any]]
    problem: FlowRunnerError | None
    acted: bool


def evaluate(answer: Response, http: HttpTransport, *, partial: bool = False) -> Evaluation:
    """Evaluate an answer.

    Nothing was carried out if there is no data at all (the request was refused before execution), or if every top-level
    field failed by itself. A failure further down comes after the act.

    :param partial: errors beside data are acceptable.
    :raises IntegrityError: if it is not a GraphQL answer.
    """
    body = answer.json()
    if not isinstance(body, dict) or not ("data" in body or "errors" in body):
        raise IntegrityError(
            f"the answer of {redact_url(answer.url)} is not GraphQL", remedy="check the endpoint, often /graphql"
        )
    hide = Redactor((*http.settings.secrets, *http.settings.credentials.secrets()))
    data = body.get("data")
    found = body.get("errors") or []
    errors = [_summary(error, hide) for error in (found if isinstance(found, list) else [found])]
    has_data = any(value is not None for value in data.values()) if isinstance(data, dict) else data is not None
    nested_error = "data" in body and any(len(error["path"]) > 1 for error in errors)
    problem = _problem(errors, answer, http) if errors and not (partial and has_data) else None
    if not errors and data is None:
        problem = Rejected(
            f"{redact_url(answer.url)} answered without data and without errors", remedy="contact its owner"
        )
    return Evaluation(data=data, errors=errors, problem=problem, acted=has_data or nested_error or not errors)


def _summary(error: Any, hide: Redactor) -> dict[str, Any]:
    """Return an error of the answer as message, path and code, redacted and shortened."""
    if not isinstance(error, dict):
        return {"message": hide.redact(str(error))[:300], "path": [], "code": ""}
    extensions = error.get("extensions")
    code = extensions.get("code") if isinstance(extensions, dict) else None
    path = error.get("path")
    return {
        "message": hide.redact(" ".join(str(error.get("message", "")).split()))[:300],
        "path": [step if isinstance(step, int) else str(step) for step in path] if isinstance(path, list) else [],
        "code": str(code or error.get("type") or "")[:64],
    }


def _problem(errors: list[dict[str, Any]], answer: Response, http: HttpTransport) -> FlowRunnerError:
    shown = "; ".join(
        f"{'.'.join(map(str, error['path'])) + ': ' if error['path'] else ''}{error['message']}" for error in errors[:3]
    )
    more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
    text = f"{redact_url(answer.url)} answered with errors: {shown}{more}"
    codes = {error["code"].upper() for error in errors}
    if codes & _THROTTLED:
        wait = parse_retry_after(answer.headers.get("Retry-After"), http.run.clock.now())
        return Throttled(text, retry_after=wait, remedy="set `rate_limit` on the connection")
    if codes & _DENIED:
        return AccessDenied(text, remedy="check the connection's credentials and permissions")
    return Rejected(text, status=answer.status, code=errors[0]["code"], remedy="correct the document or its variables")
