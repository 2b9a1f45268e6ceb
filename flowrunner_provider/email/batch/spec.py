"""The specification of a batch of mails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.email.batch.row_mail import RowMail, RowMailBuilder
from flowrunner_provider.email.batch.rows import Row
from flowrunner_provider.email.send import Seal

__all__ = ["BatchSpec"]


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The validated parameters of ``email.send_batch``.

    :param identity: fingerprint of the content, without the rows.
    :param to: the column with the address.
    :param compose: returns the mail for a row; raises for a row that cannot be sent to.
    :param builder: returns the builder of messages with this date (ISO 8601).
    :param sign: signs a message.
    :param journals: the folder of journals on this machine's disk.
    """

    identity: str
    to: str
    compose: Callable[[Row], RowMail]
    builder: Callable[[str], RowMailBuilder]
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
    sign: Seal | None = None
