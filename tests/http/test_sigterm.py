"""Requests are told to end (SIGTERM): those under way may finish, no other begins, and the next attempt goes on."""

from __future__ import annotations

import pytest

from tests.http import test_batch_faults as batches
from tests.http import test_files_faults as files
from tests.support.sigterm import ended_at

pytestmark = pytest.mark.faults


@pytest.fixture
def batch_stage(http_server, tmp_path) -> batches.Stage:
    return batches.Stage(http_server, tmp_path)


@pytest.fixture
def file_stage(http_server, sshd, tmp_path) -> files.Stage:
    return files.Stage(http_server, sshd, tmp_path)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("target", "check"), [(files.fetch, files.the_file_is_whole), (files.fetch_rows, files.every_row_is_there_once)]
)
def test_files_of_an_api(file_stage, target, check):
    ended = ended_at(file_stage.scene, target, check, places=6)
    assert any(not outcome.ok for outcome in ended), "none was cut off in the middle"


@pytest.mark.parametrize("target", [batches.get, batches.delete, batches.pay_with_keys, batches.pay_blindly])
def test_a_batch_that_may_finish_its_requests(batch_stage, target):
    """Also where nobody could say what became of a request that is cut off."""
    ended = ended_at(lambda: batch_stage.scene(8), target, batch_stage.each_once, finish=2.0, places=6)
    assert any(not outcome.ok for outcome in ended), "none was ended in the middle"
