"""Registers secrets once, with Airflow's masker and with our own redaction of error texts."""

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
_mask_tasks: set[asyncio.Task[None]] = set()
_pending_secrets: ContextVar[list[str] | None] = ContextVar("pending", default=None)


def mask(values: Iterable[str | None]) -> None:
    """Mask these values from now on in logs, errors and rendered fields."""
    for value in values:
        if value:
            _redactor.add(value)
            if (pending := _pending_secrets.get()) is None:
                mask_secret(value)
            else:
                pending.append(value)


@asynccontextmanager
async def masking_async() -> AsyncIterator[None]:
    """Defer :func:`mask` calls in this context, and tell Airflow's supervisor asynchronously at its end."""
    token = _pending_secrets.set([])
    try:
        yield
    finally:
        values = _pending_secrets.get() or []
        _pending_secrets.reset(token)
        for value in dict.fromkeys(values):
            await amask_secret(value)


def mask_soon(values: Iterable[str | None]) -> None:
    """Mask secrets that appear inside the triggerer's event loop, such as tokens.

    Our errors hide them at once; a background task tells Airflow's supervisor.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        mask(values)
        return
    for value in filter(None, values):
        _redactor.add(value)
        task = loop.create_task(amask_secret(value))
        _mask_tasks.add(task)
        task.add_done_callback(_mask_tasks.discard)


def mask_sensitive(tree: Any) -> None:
    """Mask every string, or list of strings, under a sensitive key of nested mappings and lists."""
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
    """Return ``text`` without any secret registered in this process."""
    return _redactor.redact(text)


def redact_error(error: FlowRunnerError) -> None:
    """Remove known secrets from the texts of ``error`` and of its causes, in place.

    Airflow logs the whole chain, and its own masker knows a secret only in plain form, not e.g. in base64.
    """
    for link in (error, *_causes(error)):
        if isinstance(link, FlowRunnerError):
            link.message, link.remedy = redact(link.message), redact(link.remedy)
        link.args = tuple(redact(part) if isinstance(part, str) else part for part in link.args)
    if any(redact(text) != text for text in map(str, _causes(error))):
        error.__cause__, error.__suppress_context__ = None, True  # str() does not use the arguments


def _causes(error: BaseException) -> list[BaseException]:
    """Return all exceptions in the chain of ``error``: causes, contexts and members of groups."""
    found: list[BaseException] = []
    waiting = [error.__cause__, error.__context__]
    while waiting:
        cause = waiting.pop()
        if cause is not None and not any(cause is known for known in found):
            found.append(cause)
            waiting += [cause.__cause__, cause.__context__]
            waiting += cause.exceptions if isinstance(cause, BaseExceptionGroup) else []
    return found
