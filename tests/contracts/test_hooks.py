"""What every hook must hold to: documented settings, masked secrets, actionable connection tests."""

import dataclasses
import importlib
import json
from typing import Any, get_type_hints

import pytest

from flowrunner_provider.core.secrets import is_sensitive_key
from flowrunner_provider.core.spec import schema_of_dataclass, secret_fields
from flowrunner_provider.registry import CONNECTORS

HOOKS = [(conn_type, path) for connector in CONNECTORS for conn_type, path in connector.hooks]


@pytest.fixture(params=HOOKS, ids=lambda entry: entry[1].rpartition(".")[2])
def entry(request: pytest.FixtureRequest) -> tuple[str, Any]:
    conn_type, path = request.param
    module, _, name = path.rpartition(".")
    return conn_type, getattr(importlib.import_module(module), name)


def test_every_setting_has_a_label_and_a_schema(entry: tuple[str, Any]) -> None:
    _, hook = entry
    config = hook.config_type
    assert dataclasses.is_dataclass(config)
    assert config.__dataclass_params__.frozen
    unlabelled = [field.name for field in dataclasses.fields(config) if not field.metadata.get("label")]
    assert unlabelled == []
    assert json.dumps(schema_of_dataclass(config))


def test_every_setting_that_sounds_secret_is_one(entry: tuple[str, Any]) -> None:
    _, hook = entry
    hints = get_type_hints(hook.config_type)
    texts = [name for name, hint in hints.items() if hint in (str, str | None) and not name.endswith("_name")]
    sounding = {name for name in texts if is_sensitive_key(name)}
    assert sounding <= set(secret_fields(hook.config_type))


def test_the_representation_shows_no_secret(entry: tuple[str, Any]) -> None:
    _, hook = entry
    secrets = secret_fields(hook.config_type)
    assert [field.name for field in dataclasses.fields(hook.config_type) if field.name in secrets and field.repr] == []


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("{not json", "JSON"),
        ("[1]", "object"),
        ('{"flowrunner": 5}', "flowrunner"),
        ('{"flowrunner": {"zz": 1}}', "zz"),
    ],
    ids=["no-json", "no-object", "no-options", "unknown-option"],
)
def test_a_bad_extra_is_refused_with_its_name(
    entry: tuple[str, Any], monkeypatch: pytest.MonkeyPatch, extra: str, text: str
) -> None:
    conn_type, hook = entry
    connection = {"conn_type": conn_type, "host": "127.0.0.1", "password": "canary-4711", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_BAD", json.dumps(connection))
    ok, message = hook("bad").test_connection()
    assert not ok
    assert text in message
    assert "'bad'" in message
    assert "canary" not in message


def test_an_unknown_connection_is_told_with_the_remedy(entry: tuple[str, Any]) -> None:
    _, hook = entry
    ok, message = hook("nowhere_at_all").test_connection()
    assert not ok
    assert "AIRFLOW_CONN_NOWHERE_AT_ALL" in message


def test_an_unreachable_host_is_told_with_the_remedy(entry: tuple[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    conn_type, hook = entry
    if conn_type == "generic":
        pytest.skip("it holds keys and leads nowhere")
    host = "/nowhere/at/all.db" if conn_type == "sqlite" else "127.0.0.1"
    connection = {"conn_type": conn_type, "host": host, "port": 1, "login": "u", "password": "canary-4711", "extra": {}}
    if conn_type == "sftp":
        connection["extra"] = {"no_host_key_check": True}
    if conn_type == "aws":
        connection["extra"] = {"endpoint_url": "http://127.0.0.1:1"}
    monkeypatch.setenv("AIRFLOW_CONN_DOWN", json.dumps(connection))
    ok, message = hook("down").test_connection()
    assert not ok
    assert " -> " in message, f"no remedy in {message!r}"
    assert "canary" not in message
