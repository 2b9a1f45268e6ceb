"""No secret of a connection shows anywhere when the far side is as bad as one can be, for every action."""

import base64
import json
import logging
import traceback
from typing import Any
from urllib.parse import quote

import pytest

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.flows.catalogue import ActionSpec
from flowrunner_provider.runtime.boundary import boundary
from tests.contracts.arguments import ARGUMENTS
from tests.contracts.test_actions import OURS
from tests.contracts.test_wrong_connection import named_by, run, there
from tests.support.context import FileStateStore
from tests.support.echo_server import Kind, decoded, echo_server

SECRET = "canary-4711/~+&pw"
TOKEN = "canary0815tokencanary0815token"
SPELLINGS = [
    spelled
    for secret in (SECRET, TOKEN)
    for spelled in (
        secret, secret[:8], quote(secret, safe=""), json.dumps(secret)[1:-1], secret.encode().hex(),
        base64.b64encode(secret.encode()).decode().rstrip("=")[:-1],
    )
]  # fmt: skip
SPOKEN: dict[str, Kind] = {
    "sql": "postgres", "http": "http", "webhook": "http", "slack": "http", "teams": "http", "chat": "http",
    "sms": "http", "files": "ftp",
}  # fmt: skip
NOT_ASKED = {
    "files.presign",  # signs without a server
    "sql.schema_check",  # has an expectation that is none
}


def spoken(spec: ActionSpec) -> Kind | None:
    """What the action speaks with the far side; None where it needs none."""
    category = spec.id.partition(".")[0]
    if not named_by(spec) or spec.id in NOT_ASKED or (category == "files" and "sftp://" not in str(ARGUMENTS[spec.id])):
        return None
    return ("smtp" if spec.id.startswith("email.send") else "imap") if category == "email" else SPOKEN.get(category)


def connection(spec: ActionSpec, port: int) -> dict[str, Any]:
    """A connection of the right type, full of secrets."""
    url = f"http://127.0.0.1:{port}"
    here = {"host": "127.0.0.1", "port": port, "login": "user", "password": SECRET}
    chosen: dict[str, dict[str, Any]] = {
        "sql": {"conn_type": "postgres", **here, "schema": "db"},
        "http": {"conn_type": "http", **here, "extra": {"X-Api-Key": TOKEN}},
        "webhook": {"conn_type": "http", **here, "extra": {"X-Api-Key": TOKEN}},
        "files": {"conn_type": "ftp", **here},
        "slack": {"conn_type": "slack", "password": TOKEN, "extra": {"base_url": url}},
        "teams": {"conn_type": "teams", "password": f"{url}/workflows/{TOKEN}?sig={TOKEN}"},
        "chat": {"conn_type": "mattermost", "host": url, "password": TOKEN, "extra": {"channel": "c" * 26}},
        "sms": {
            "conn_type": "twilio", "login": "AC" + "0" * 32, "host": url, "password": TOKEN,
            "extra": {"sender": "+14155550100"},
        },
    }  # fmt: skip
    if spec.id.startswith("email.send"):
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "etl@example.com"}
        return {"conn_type": "smtp", **here, "extra": extra}
    if spec.id.startswith("email."):
        return {"conn_type": "imap", **here, "extra": {"flowrunner": {"security": "plain"}}}
    return chosen[spec.id.partition(".")[0]]


@pytest.mark.parametrize("spec", [spec for spec in OURS if spoken(spec)], ids=lambda spec: spec.id)
def test_it_shows_nowhere(
    spec: ActionSpec, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    arguments = json.loads(json.dumps(there(spec, tmp_path)).replace("sftp://", "ftp://"))
    (tmp_path / "rows.db").touch()
    (tmp_path / "migrations" / "V1__first.sql").write_text("SELECT 1;")
    state, kind = FileStateStore(tmp_path / "state"), spoken(spec)
    assert kind is not None
    with echo_server(kind) as server:
        for conn_id in named_by(spec):
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(connection(spec, server.port)))
        rows = {"conn_type": "sqlite", "host": str(tmp_path / "rows.db")}
        monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(rows))
        with pytest.raises(FlowRunnerError) as caught, boundary():
            run(spec, arguments, state)
    heard = b" ".join(server.heard)
    told = (heard + decoded(heard)).decode(errors="replace")
    assert SECRET in told or TOKEN in told, f"it was never sent: {caught.value}"
    error = caught.value
    sinks = {
        "error": f"{error!r} {error.remedy} {json.dumps(error.to_event())}",
        "traceback": "".join(traceback.format_exception(error)),
        "log": caplog.text,
        "state": json.dumps(state.items()),
        "disk": "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()),
    }
    shown = {name: spelled for name, text in sinks.items() for spelled in SPELLINGS if spelled in text}
    assert shown == {}, sinks
