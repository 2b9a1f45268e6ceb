"""Killed anywhere and run again, a check just checks again: it changes nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from flowrunner_provider.auth.operators import ConnectionCheckOperator, CredentialExpiryOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import Reply
from tests.support.kill import sweep

pytestmark = pytest.mark.faults


@dataclass(frozen=True)
class Scene:
    directory: Path


def look(scene: Scene) -> None:

    for operator in (
        ConnectionCheckOperator(task_id="t", conn_ids=["shop"]),
        CredentialExpiryOperator(task_id="u", targets=[{"kind": "ssh_key", "conn_id": "partner"}]),
    ):
        execute(operator, make_context(operator, state=FileStateStore(scene.directory / operator.task_id)))


def test_killed_and_run_again(tmp_path, http_server, monkeypatch):
    http_server.route("GET", "/", Reply(200))
    (tmp_path / "key").write_text("a key")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "http", "host": http_server.url}))
    extra = {"key_file": str(tmp_path / "key")}
    monkeypatch.setenv("AIRFLOW_CONN_PARTNER", json.dumps({"conn_type": "sftp", "host": "x", "extra": extra}))
    numbers = iter(range(1000))

    def check(scene: Scene) -> None:
        for task in ("t", "u"):
            header = FileStateStore(scene.directory / task).items()["flowrunner"]
            assert header["finished"]
        assert {request.method for request in http_server.requests} == {"GET"}

    sweep(lambda: Scene(tmp_path / str(next(numbers))), look, check=check)
    assert (tmp_path / "key").read_text() == "a key"
