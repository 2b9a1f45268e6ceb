"""What a batch of mails is asked for, what it needs, and what it ends with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.email.letter import Letter, LetterForm
from flowrunner_provider.email.rows import Row
from flowrunner_provider.email.send import Addressed, Refusal

__all__ = ["BatchSpec", "Session", "Sessions"]


class Session(Protocol):
    """A connection to a mail server that takes one mail after the other."""

    refused: dict[str, Refusal]

    async def announce(self, mail: Addressed, recipients: Sequence[str], size: int) -> None: ...
    async def data(self, message: bytes) -> None: ...
    async def reset(self) -> None: ...
    async def close(self) -> None: ...


class Sessions(Protocol):
    """Where connections come from."""

    @property
    def seconds(self) -> float:
        """The longest that one mail may take."""

    async def login(self, deadline: Deadline) -> Session: ...


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The parameters of ``email.send_batch``, checked.

    :param identity: fingerprint of the content, without the rows.
    :param to: the column with the address.
    :param compose: the letter for a row; raises for one that cannot be written to.
    :param form: makes the bytes of letters with this date (ISO 8601).
    :param journals: a folder on this machine's disk.
    """

    identity: str
    to: str
    compose: Callable[[Row], Letter]
    form: Callable[[str], LetterForm]
    domain: str
    limit: int
    journals: Path
    report: Path | None = None
    dead_letter: Path | None = None
    concurrency: int = 4
    window: int = 200
    on_item_error: Literal["continue", "fail"] = "continue"
    max_failures: int = 1000
    on_unknown: OnUnknown = "stop"
