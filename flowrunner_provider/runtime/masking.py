"""Secrets become known here, once, to Airflow's masker and to our own redaction of error texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from airflow.sdk.log import mask_secret

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.core.secrets import Redactor, is_sensitive_key

__all__ = ["mask", "mask_sensitive", "redact", "redact_error"]

_redactor = Redactor()


def mask(values: Iterable[str | None]) -> None:
    """Never show these values again: not in a log, an error, or a rendered field."""
    for value in values:
        if value:
            mask_secret(value)
            _redactor.add(value)


def mask_sensitive(tree: Any) -> None:
    """Mask every text below a sensitive-looking key of nested mappings and lists."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(value, str) and is_sensitive_key(str(key)):
                mask([value])
            else:
                mask_sensitive(value)
    elif isinstance(tree, list):
        for item in tree:
            mask_sensitive(item)


def redact(text: str) -> str:
    """``text`` without any secret that has become known in this process."""
    return _redactor.redact(text)


def redact_error(error: FlowRunnerError) -> None:
    """Remove known secrets from the texts of ``error``, in place."""
    error.message, error.remedy = redact(error.message), redact(error.remedy)
    error.args = (error.message,)
