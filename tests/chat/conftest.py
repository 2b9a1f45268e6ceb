"""Connections to the fakes, and one attempt of a task."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flowrunner_provider.chat import slack
from flowrunner_provider.chat.platforms.mattermost import MattermostBotGateway
from tests.chat.stage import FAKES, Platform
from tests.support.context import FileStateStore, execute, make_context


@pytest.fixture
def platform(http_server, monkeypatch):
    """``platform(name)``: a fake behind the default connections; nobody waits for lists to settle."""
    monkeypatch.setattr(slack, "_FAR", replace(slack._FAR, settle=0.0))
    monkeypatch.setattr(MattermostBotGateway, "far", replace(MattermostBotGateway.far, settle=0.0))

    def install(name, fake=None, **options):
        fake = fake or FAKES[name]()
        fake.install(http_server)
        found = Platform(name, fake, http_server)
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
