"""Presigned URLs: anyone who has one can read, or write, one file until the URL expires."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.derived_results import PresignedFile
from flowrunner_provider.files.publish import one_of
from flowrunner_provider.files.store import SigningStore, Store

__all__ = ["check", "presign"]

LONGEST = timedelta(days=7)
"""The maximum of S3, Google Cloud Storage, and the user delegation keys of Azure."""


def check(method: str, expires: timedelta) -> None:
    """Raise ``ConfigError`` for what no store can sign."""
    one_of("method", method, ("GET", "PUT"))
    if not timedelta(seconds=1) <= expires <= LONGEST:
        raise ConfigError(f"expires is {expires}", field="expires", remedy="write a duration from '1s' to '7d'")


async def presign(
    files: Sequence[tuple[Store, str, str]], method: str, expires: timedelta, now: datetime
) -> list[PresignedFile]:
    """Return a presigned URL for each file; the stores are neither read nor changed.

    :param files: a store, which need not be open, a path in it, and the name of the file in the result.
    :param now: in UTC.
    """
    for store, _, label in files:
        if not store.capabilities.presigns:
            raise ConfigError(
                f"{label}: {store.where or 'this machine'} cannot create presigned URLs",
                field="path",
                remedy="copy the file to s3://, gs:// or wasb:// first",
            )
    end = (now + expires).isoformat()
    return [
        PresignedFile(path=label, url=await cast("SigningStore", store).presign(path, method, expires), expires_at=end)
        for store, path, label in files
    ]
