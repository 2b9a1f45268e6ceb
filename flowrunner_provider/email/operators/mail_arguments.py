"""Validation of parameters that the mailbox operators share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.mailbox.plan import LIMIT, Sieve, unpacked
from flowrunner_provider.email.mailbox.search import MailSearch
from flowrunner_provider.email.mailbox.watch import check_folder

__all__ = ["sieve_of", "validity_of"]

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,76}")


def sieve_of(
    folder: str,
    search: Mapping[str, Any] | None,
    uids: Sequence[int] | str | None,
    limit: int,
    *,
    headers: Sequence[str] = (),
    max_size: int | None = None,
    skip_large: bool = False,
) -> Sieve:
    """Which messages.

    :raises ConfigError: naming what is wrong.
    """
    check_folder(folder)
    if search is not None and uids is not None:
        raise ConfigError("both search and uids are given", field="uids", remedy="give one of them")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT:
        raise ConfigError(f"limit is {limit!r}", field="limit", remedy=f"write a whole number from 1 to {LIMIT}")
    if isinstance(headers, str) or not all(isinstance(name, str) and _HEADER.fullmatch(name) for name in headers):
        raise ConfigError("headers are names of headers", field="headers", remedy="write ['List-Id', 'X-Topic']")
    chosen = None if uids is None else _uids(uids)
    return Sieve(
        search=MailSearch.of(search), limit=limit, uids=chosen, headers=headers, max_size=max_size,
        skip_large=skip_large,
    )  # fmt: skip


def validity_of(value: int | str | None, uids: Any) -> int:
    """Return the UIDVALIDITY argument as a number, or 0 if none was given."""
    if value is None or value == "":
        return 0
    if uids is None or isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise ConfigError(
            f"uidvalidity is {value!r}", field="uidvalidity", remedy="pass what came with the uids, and the uids"
        )
    return int(value)


def _uids(given: Sequence[int] | str) -> list[int]:
    numbers = unpacked(given.strip("[]")) if isinstance(given, str) else list(given)
    wrong = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n < 1 << 32]
    if wrong or not numbers or len(set(numbers)) > LIMIT:
        raise ConfigError(
            f"uids are 1 to {LIMIT} numbers of messages", field="uids", remedy="write e.g. [4, 8] or '1:5,9'"
        )
    return numbers
