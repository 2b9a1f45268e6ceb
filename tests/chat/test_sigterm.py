"""A post is told to end (SIGTERM): it is made once, by this attempt or by the next."""

from __future__ import annotations

import pytest

from tests.chat.test_faults import Stage, post, post_card, upsert
from tests.support.sigterm import ended_at

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("name", "target"), [("teams", post_card), ("google_chat", post), ("slack", upsert)])
def test_it_is_there_once(http_server, tmp_path, name, target):
    """Also where nobody could say what became of a request that is cut off."""
    stage = Stage(name, http_server, tmp_path)
    ended = ended_at(stage.scene, target, stage.once, finish=2.0, places=8)
    assert any(not outcome.ok for outcome in ended), "none was ended in the middle"
