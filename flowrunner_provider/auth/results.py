"""What the actions on connections return."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["ConnectionFinding", "ConnectionReport", "ExpiryReport", "ExpiryRow", "State"]

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class ConnectionFinding:
    """One connection; ``message`` says what was seen, or what is wrong and what to do."""

    conn_id: str
    conn_type: str
    ok: bool
    message: str


@dataclass(frozen=True, kw_only=True)
class ConnectionReport:
    """All connections, in the order in which they were named."""

    connections: list[ConnectionFinding]
    ok: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class ExpiryRow:
    """One line of the report; ``expires`` in ISO 8601, None where there is no end or it could not be read."""

    target: str
    kind: str
    expires: str | None
    days_left: float | None
    state: State
    verified: bool | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ExpiryReport:
    """All of them, the next to end first."""

    rows: list[ExpiryRow]
    ok: int
    warn: int
    fail: int
