"""A connection of another type than an action needs is refused before anything is sent, for every action.

What is named by mistake has a password too, and that must not reach a server that it is not for.
"""

import asyncio
import json
import re
import socket
from typing import Any

import pytest

from flowrunner_provider.core.errors import FlowRunnerError
from flowrunner_provider.flows.catalogue import ActionSpec
from flowrunner_provider.runtime.retry_policy import retrying_helps
from tests.contracts.arguments import ARGUMENTS
from tests.contracts.test_actions import OURS, class_of
from tests.support.context import FileStateStore, execute, make_context

CANARY = "canary-4711"
UNBOUND = {"auth.check_connection", "auth.check_expiry"}
"""They take connections of any type."""


def named_by(spec: ActionSpec) -> set[str]:
    """The connections that the contract's arguments lead to, the defaults among them."""
    arguments = ARGUMENTS[spec.id]
    named = {
        arguments.get(name, schema.get("default"))
        for name, schema in spec.params["properties"].items()
        if name.endswith("conn_id")
    }
    return {conn_id for conn_id in named if conn_id} | set(re.findall(r"\w+://(\w+)@", json.dumps(arguments)))


def there(spec: ActionSpec, tmp_path: Any) -> dict[str, Any]:
    """The contract's arguments with files that are there, so that it is the connection that stops the action."""
    for name in ("a.csv", "in.csv"):
        (tmp_path / name).write_text("id,email\n1,a@example.com\n")
    (tmp_path / "migrations").mkdir()
    (tmp_path / "schema.json").write_text("{}")
    text = json.dumps(ARGUMENTS[spec.id]).replace('"/nowhere', f'"{tmp_path}')
    arguments: dict[str, Any] = json.loads(text)
    return arguments


def run(spec: ActionSpec, arguments: dict[str, Any], state: FileStateStore) -> None:
    """What Airflow calls for an action of this kind."""
    if spec.kind == "notifier":
        class_of(spec)(**arguments)(make_context())
    elif spec.kind == "trigger":
        asyncio.run(class_of(spec)(**arguments).poll(None))
    else:
        operator = class_of(spec)(task_id="t", **arguments)
        execute(operator, make_context(operator, state=state))


@pytest.mark.parametrize(
    "spec", [spec for spec in OURS if named_by(spec) and spec.id not in UNBOUND], ids=lambda spec: spec.id
)
def test_it_is_refused_before_anything_is_sent(
    spec: ActionSpec, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = there(spec, tmp_path)
    kind = "sftp" if spec.id.startswith("sql.") else "postgres"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        where = {"host": "127.0.0.1", "port": listener.getsockname()[1]}
        for conn_id in named_by(spec):
            whole = {"conn_type": kind, **where, "login": "u", "password": CANARY, "extra": {"timeout": 1}}
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(whole))
        with pytest.raises(FlowRunnerError) as caught:
            run(spec, arguments, FileStateStore(tmp_path / "state"))
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    told = str(caught.value)
    assert f"type '{kind}'" in told
    assert any(f"connection '{conn_id}'" in told for conn_id in named_by(spec)), told
    assert caught.value.remedy
    assert not retrying_helps(caught.value)
    assert CANARY not in told
