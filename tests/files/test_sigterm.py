"""Copies and syncs are told to end (SIGTERM): they do, in time, and the next attempt makes the rest."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.files import test_faults as faults
from tests.files.far import FAR_SIDES
from tests.files.s3 import PART, side
from tests.support.context import execute, make_context
from tests.support.sigterm import ended_at

pytestmark = [pytest.mark.faults, pytest.mark.backend]


@pytest.fixture(autouse=True)
def s3_is_a_far_side(monkeypatch):
    monkeypatch.setitem(FAR_SIDES, "s3", side)


@pytest.mark.parametrize(("source", "dest"), [("local", "sftp"), ("sftp", "local"), ("local", "s3")])
def test_a_copy(request, tmp_path, monkeypatch, source, dest):
    if dest == "s3":
        monkeypatch.setitem(faults.FILES, "sub/c.csv", os.urandom(PART + 1_000_000))
    ended = ended_at(
        faults.scenes(request, tmp_path, source, dest, move=True), faults.run_copy, faults.everything_arrived, places=5
    )
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


def run_sync(scene: faults.Scene) -> Any:
    from flowrunner_provider.files.operators import FileSyncOperator

    os.environ.update({**scene.source.environment, **scene.dest.environment})
    operator = FileSyncOperator(
        task_id="sync", source=scene.source.uri(), dest=scene.dest.uri(), concurrency=1, delete_extra=True
    )
    result = execute(operator, make_context(operator, state=scene.directory / "state"))
    (scene.directory / "result").write_text(json.dumps(result))
    return result


def one_is_like_the_other(scene: faults.Scene) -> None:
    assert scene.dest.all() == faults.FILES
    assert set(scene.source.far.names()) == set(faults.FILES)


def test_a_sync(request, tmp_path):
    ended = ended_at(faults.scenes(request, tmp_path, "local", "sftp"), run_sync, one_is_like_the_other, places=5)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"
