"""Results of the connection and credential checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ConnectionFinding", "ConnectionReport", "ExpiryReport", "ExpiryRow", "State"]

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class ConnectionFinding:
    """Result of one connection test; ``message`` is what the test reported, or the error and its remedy."""

    conn_id: str
    conn_type: str
    ok: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class ConnectionReport:
    """All connections, in the given order."""

    connections: list[ConnectionFinding]
    ok: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class ExpiryRow:
    """One row of the report; ``expires`` is ISO 8601, or None if it never expires or could not be read."""

    target: str
    kind: str
    expires: str | None
    days_left: float | None
    state: State
    verified: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ExpiryReport:
    """All rows, the next to expire first."""

    rows: list[ExpiryRow]
    ok: int
    warn: int
    fail: int
