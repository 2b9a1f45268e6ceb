"""Text messages are told to end (SIGTERM): those under way may finish, and the next attempt sends the others."""

from __future__ import annotations

import pytest

from tests.sms.test_faults import Stage, send
from tests.support.sigterm import ended_at
from tests.support.sms_vendors import TwilioFake, VonageFake

pytestmark = pytest.mark.faults


@pytest.mark.parametrize(("name", "fake"), [("twilio", TwilioFake), ("vonage", VonageFake)])
def test_everybody_has_one(http_server, tmp_path, name, fake):
    """Also from a vendor who cannot be asked about a message."""
    stage = Stage(http_server, tmp_path)
    stage.serve(name, fake())
    ended = ended_at(lambda: stage.scene(12), send, stage.once, finish=2.0, places=6)
    assert any(not outcome.ok for outcome in ended), "none was ended in the middle"
