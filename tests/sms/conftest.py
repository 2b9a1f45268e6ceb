"""Connections to the fakes, and one attempt of a task."""

from __future__ import annotations

import pytest

from tests.sms.stage import ACCOUNT, Vendor
from tests.support.context import FileStateStore, execute, make_context
from tests.support.sms_vendors import AzureFake, TwilioFake, VonageFake


@pytest.fixture
def vendor(http_server):
    """``vendor(name, **options)``: a fake behind the connection ``sms_default``."""

    def install(name, fake=None, **options):
        fake = fake or {"twilio": TwilioFake, "vonage": VonageFake, "azure_acs": AzureFake}[name]()
        fake.install(http_server)
        found = Vendor(name, fake, http_server, ACCOUNT[name])
        found.connect(**options)
        return found

    return install


@pytest.fixture
def run(tmp_path):
    """``run(operator)``: one attempt; the state outlives it."""

    def attempt(operator, run_id="run", **context):
        state = FileStateStore(tmp_path / "state" / run_id)
        return execute(operator, make_context(operator, state=state, run_id=run_id, **context))

    return attempt
