"""Connections to the programmable server, and one attempt of a task."""

from __future__ import annotations

import json

import pytest

from flowrunner_provider.runtime.rate_limits import pacer_for
from tests.support.context import FileStateStore, execute, make_context
from tests.webhooks.receiver import SECRET


@pytest.fixture
def connect(monkeypatch, http_server):
    """``connect(webhook={...}, password=...)``: the connection, signed with Standard Webhooks by default."""

    def define(webhook=None, options=None, **fields):
        ours = {"webhook": {"secret": SECRET} if webhook is None else webhook, **(options or {})}
        value = {"conn_type": "http", "host": http_server.url, **fields, "extra": {"flowrunner": ours}}
        monkeypatch.setenv("AIRFLOW_CONN_HTTP_DEFAULT", json.dumps(value))
        pacer_for.cache_clear()  # what an earlier test's server asked for

    define()
    return define


@pytest.fixture
def run(connect, tmp_path):
    """``run(operator)``: one attempt; the state outlives it."""

    def attempt(operator, run_id="run", **context):
        state = FileStateStore(tmp_path / "state" / run_id)
        return execute(operator, make_context(operator, state=state, run_id=run_id, **context))

    return attempt
