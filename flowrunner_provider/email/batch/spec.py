"""What a batch of mails is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flowrunner_provider.core.effects import OnUnknown
from flowrunner_provider.email.batch.letter import Letter, LetterForm
from flowrunner_provider.email.batch.rows import Row
from flowrunner_provider.email.send import Seal

__all__ = ["BatchSpec"]


@dataclass(frozen=True, kw_only=True)
class BatchSpec:
    """The parameters of ``email.send_batch``, checked.

    :param identity: fingerprint of the content, without the rows.
    :param to: the column with the address.
    :param compose: the letter for a row; raises for one that cannot be written to.
    :param form: makes the bytes of letters with this date (ISO 8601).
    :param seal: signs a message.
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
    seal: Seal | None = None
