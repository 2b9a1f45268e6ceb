"""How much is under way to an SFTP server: enough to fill the way there, and no more."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from flowrunner_provider.files.stores.sftp import SftpStore
from tests.files.conftest import target_of

KIB = 1024


@pytest.mark.parametrize(
    ("round_trip", "max_read", "expected"),
    [
        (0.0, 255 * KIB, 16),
        (0.0002, 255 * KIB, 16),
        (0.002, 255 * KIB, 30),
        (0.02, 255 * KIB, 64),
        (3.0, 255 * KIB, 64),
        (None, 255 * KIB, 64),
        (None, 32 * KIB, 256),
        (0.02, 32 * KIB, 256),
    ],
)
def test_the_window_grows_with_the_distance(round_trip, max_read, expected):
    store = SftpStore(SimpleNamespace(where="here"))
    store._session = SimpleNamespace(round_trip=round_trip, max_read=max_read)
    assert store.window == expected


@pytest.mark.backend
def test_the_distance_is_measured_when_the_session_begins(sshd):
    async def act() -> float | None:
        async with SftpStore(target_of(sshd)) as store:
            return store.session.round_trip

    measured = asyncio.run(act())
    assert measured is not None
    assert 0 < measured < 30
