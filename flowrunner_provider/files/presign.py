"""Signed addresses of files: who has one may read, or write, that file until it expires."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.derived import PresignedFile
from flowrunner_provider.files.publish import one_of
from flowrunner_provider.files.store import SigningStore, Store

__all__ = ["check", "presign"]

LONGEST = timedelta(days=7)
"""What S3, Google and Azure's lent keys allow at most."""


def check(method: str, expires: timedelta) -> None:
    """Refuse what no store signs."""
    one_of("method", method, ("GET", "PUT"))
    if not timedelta(seconds=1) <= expires <= LONGEST:
        raise ConfigError(
            f"expires is {expires}", field="expires", remedy="write from '1s' to '7d'; the shorter the better"
        )


async def presign(
    files: Sequence[tuple[Store, str, str]], method: str, expires: timedelta, now: datetime
) -> list[PresignedFile]:
    """A signed address for each file; nothing is looked at and nothing is changed.

    :param files: a store, which need not be open, a path in it, and how the result calls the file.
    :param now: in UTC.
    """
    for store, _, label in files:
        if not store.capabilities.presigns:
            raise ConfigError(
                f"{label}: {store.where or 'this machine'} makes no signed addresses",
                field="path",
                remedy="copy the file to s3://, gs:// or wasb:// first",
            )
    end = (now + expires).isoformat()
    return [
        PresignedFile(path=label, url=await cast("SigningStore", store).presign(path, method, expires), expires_at=end)
        for store, path, label in files
    ]
