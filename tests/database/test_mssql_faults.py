"""Loads into the fake SQL Server, killed everywhere: the rows are there exactly once, or not at all."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.database.mssql_far_side import FakeFarSide
from tests.database.test_faults import EXPECTED, Scene, check, play
from tests.support.kill import sweep
from tests.support.tds_fake import tds_fake
from tests.support.tls import Tls

pytestmark = pytest.mark.faults


@pytest.fixture
def make(tmp_path: Path, tls: Tls) -> Iterator[Callable[[], FakeFarSide]]:
    """A factory of fresh far sides, a server each."""
    numbers = itertools.count(1)
    with ExitStack() as servers:

        def fresh() -> FakeFarSide:
            folder = tmp_path / f"far-{next(numbers)}"
            folder.mkdir()
            file = folder.with_suffix(".db")
            server = servers.enter_context(tds_fake(file, tls.server_context()))
            return FakeFarSide(folder, file, server.port, tls.ca_file)

        yield fresh


@pytest.mark.parametrize("case", sorted(EXPECTED) if os.environ.get("FLOWRUNNER_KILLS") else ["replace"])
def test_every_kill(make: Callable[[], FakeFarSide], case: str) -> None:
    report = sweep(lambda: Scene(make(), case).prepare(), play, check)
    assert report.kills > 7
