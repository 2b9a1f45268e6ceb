"""Arguments that several actions read alike."""

from __future__ import annotations

from contextlib import suppress

from flowrunner_provider.core.errors import ConfigError

__all__ = ["number"]


def number(value: int | str | None, field: str) -> int | None:
    """A count that may have been rendered from a template."""
    if not isinstance(value, str):
        return value
    with suppress(ValueError):
        return int(value)
    raise ConfigError(f"{field} is no number", field=field, remedy="give a whole number")
