"""The connections of the examples, and the code and links of the README."""

import ast
import json
import re
from importlib import import_module
from typing import Any

import pytest

from flowrunner_provider.flows.catalogue import load
from flowrunner_provider.registry import CONNECTORS, STORES
from tests.architecture.source import ROOT

CONNECTIONS: dict[str, dict[str, Any]] = json.loads((ROOT / "example_dags" / "connections.json").read_text())
HOOKS = {conn_type: path for connector in CONNECTORS for conn_type, path in connector.hooks}
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def imported(tmp_path) -> dict[str, Any]:
    """Return what ``airflow connections import`` reads from the file."""
    from airflow.secrets.local_filesystem import load_connections_dict

    found: dict[str, Any] = load_connections_dict(str(ROOT / "example_dags" / "connections.json"))
    return found


@pytest.mark.parametrize("conn_id", CONNECTIONS)
def test_an_example_connection_is_read_without_complaint(conn_id, imported, monkeypatch) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", imported[conn_id].as_json())
    module, _, name = HOOKS[imported[conn_id].conn_type].rpartition(".")
    assert getattr(import_module(module), name)(conn_id).config


def test_there_is_an_example_of_every_type() -> None:
    types = {conn_type for connector in CONNECTORS for conn_type in connector.connections}
    assert types <= {entry["conn_type"] for entry in CONNECTIONS.values()}


def test_every_connection_that_an_example_names_is_there() -> None:
    named = set()
    for path in sorted((ROOT / "example_dags").glob("*.py")):
        text = path.read_text()
        named |= set(re.findall(r"conn_id=\"(\w+)\"", text)) | set(re.findall(r"\"conn_id\": \"(\w+)\"", text))
        named |= set(re.findall(r"(?<!\+)\b(?:sftp|ftps?|s3|gs|wasb|abfs)://(\w+)@", text))
    assert sorted(name for name in named if not name.startswith("demo_")) == sorted(named & set(CONNECTIONS))


def test_every_address_of_an_example_names_a_connection_of_its_type() -> None:
    texts = [path.read_text() for path in sorted((ROOT / "example_dags").glob("*.py"))]
    named = {pair for text in (*texts, README) for pair in re.findall(r"\b(sftp|ftps?|s3|gs|wasb|abfs)://(\w+)@", text)}
    assert ("s3", "lake") in named
    wrong = []
    for scheme, conn_id in sorted(named):
        module, _, name = STORES[scheme].rpartition(".")
        conn_type = CONNECTIONS.get(conn_id, {}).get("conn_type")
        if conn_type and conn_type not in getattr(import_module(module), name).reads:
            wrong.append(f"{scheme}://{conn_id}@ is of type {conn_type}")
    assert wrong == []


@pytest.mark.parametrize("code", [text for kind, text in BLOCKS if kind == "python"])
def test_the_python_of_the_readme_makes_a_dag(code) -> None:
    from airflow.sdk import BaseOperator

    names: dict[str, Any] = {}
    exec(compile(ast.parse(code), "README.md", "exec"), names)  # our own page
    assert [task.dag.task_ids for task in names.values() if isinstance(task, BaseOperator)] == [["fetch", "load"]]


@pytest.mark.parametrize("text", [text for kind, text in BLOCKS if kind == "json"])
def test_the_json_of_the_readme_is_json(text) -> None:
    assert json.loads(text)


def test_the_links_of_the_readme_lead_somewhere() -> None:
    local = [link for link in re.findall(r"\]\(([^)\s]+)\)", README) if not link.startswith(("http", "#"))]
    assert local
    assert [link for link in local if not (ROOT / link).exists()] == []


def test_the_readme_names_only_actions_that_there_are() -> None:
    known = {spec.id for spec in load()}
    categories = {action.partition(".")[0] for action in known}
    named = {
        f"{category}.{verb}" for category, verb in re.findall(r"`(\w+)\.([a-z_]+)`", README) if category in categories
    }
    assert named <= known


def test_the_promises_cover_every_action() -> None:
    """What only looks, or is the building block of another action, needs no row of its own."""
    looks = {
        "auth.check_connection", "auth.check_expiry", "email.validate", "email.wait", "files.checksum", "files.list",
        "files.mkdir", "files.read", "files.wait", "sms.notify", "sms.wait_delivery", "teams.notify",
        "files.sync_plan", "files.sync_shard", "files.sync_finish",
    }  # fmt: skip
    table = README.partition("## What we promise")[2].partition("\n\nStores differ")[0]
    ours = {spec.id for spec in load() if not spec.official and not spec.id.startswith("data.")}
    assert sorted(action for action in ours - looks if f"`{action}`" not in table) == []
