"""Secrets become known here, once, to Airflow's masker and to our own redaction of error texts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from airflow.sdk.log import mask_secret

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.core.secrets import Redactor, is_sensitive_key
from flowrunner_provider.runtime.compat import amask_secret

__all__ = ["mask", "mask_sensitive", "mask_soon", "masking_async", "redact", "redact_error"]

_redactor = Redactor()
_telling: set[asyncio.Task[None]] = set()
_gathered: ContextVar[list[str] | None] = ContextVar("gathered", default=None)


def mask(values: Iterable[str | None]) -> None:
    """Never show these values again: not in a log, an error, or a rendered field."""
    for value in values:
        if value:
            _redactor.add(value)
            if (gathered := _gathered.get()) is None:
                mask_secret(value)
            else:
                gathered.append(value)


@asynccontextmanager
async def masking_async() -> AsyncIterator[None]:
    """Within it :func:`mask` blocks no event loop: Airflow's supervisor is told at the end, asynchronously."""
    token = _gathered.set([])
    try:
        yield
    finally:
        values = _gathered.get() or []
        _gathered.reset(token)
        for value in dict.fromkeys(values):
            await amask_secret(value)


def mask_soon(values: Iterable[str | None]) -> None:
    """:func:`mask` for secrets that turn up inside the triggerer's event loop, such as tokens: our errors hide them
    at once, and Airflow's supervisor is told by a task of its own."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        mask(values)
        return
    for value in filter(None, values):
        _redactor.add(value)
        task = loop.create_task(amask_secret(value))
        _telling.add(task)
        task.add_done_callback(_telling.discard)


def mask_sensitive(tree: Any) -> None:
    """Mask every text, or list of texts, below a sensitive-looking key of nested mappings and lists."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(value, str | list) and is_sensitive_key(str(key)):
                mask(item for item in ([value] if isinstance(value, str) else value) if isinstance(item, str))
            if not isinstance(value, str):
                mask_sensitive(value)
    elif isinstance(tree, list):
        for item in tree:
            mask_sensitive(item)


def redact(text: str) -> str:
    """``text`` without any secret that has become known in this process."""
    return _redactor.redact(text)


def redact_error(error: FlowRunnerError) -> None:
    """Remove known secrets from the texts of ``error`` and of all that it comes from, in place.

    Airflow writes the whole chain into the log, and its own masker knows a secret as it is, but not, say, in the
    base64 of an SMTP login that the server has repeated.
    """
    for each in (error, *_causes(error)):
        if isinstance(each, FlowRunnerError):
            each.message, each.remedy = redact(each.message), redact(each.remedy)
        each.args = tuple(redact(part) if isinstance(part, str) else part for part in each.args)
    if any(redact(text) != text for text in map(str, _causes(error))):
        error.__cause__, error.__suppress_context__ = None, True  # a text that is not made from its arguments


def _causes(error: BaseException) -> list[BaseException]:
    """What ``error`` was raised from, and during, and what that holds."""
    found: list[BaseException] = []
    waiting = [error.__cause__, error.__context__]
    while waiting:
        cause = waiting.pop()
        if cause is not None and not any(cause is each for each in found):
            found.append(cause)
            waiting += [cause.__cause__, cause.__context__]
            waiting += cause.exceptions if isinstance(cause, BaseExceptionGroup) else []
    return found
