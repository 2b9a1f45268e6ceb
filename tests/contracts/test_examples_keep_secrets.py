"""Every example is parsed, its connections are tested, and every task meets an unreachable far side.

Every secret field of every connection holds a marker, and no marker is in what Airflow then has: in no table of its
metadata database (rendered fields, XCom, logs, task state, serialised DAGs), in no log, and in no output.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from flowrunner_provider.core.secrets import is_sensitive_key
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS
from tests.architecture.source import ROOT

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not AIRFLOW_V_3_3_PLUS, reason="how a DAG is run for a test differs from release to release"),
]

EXAMPLES = ROOT / "example_dags"
CONNECTIONS: dict[str, dict[str, Any]] = json.loads((EXAMPLES / "connections.json").read_text())
WANTED = (
    []  # all of them
    if int(os.environ.get("FLOWRUNNER_KILLS", "3")) > 3
    else ["chat_messages", "email_actions", "http_jobs", "sms_oncall", "sql_actions", "webhook_actions"]
)
NOWHERE = 1
"""A local port on which nothing listens."""


def marked(tree: Any, name: str, key: str = "") -> Any:
    """Return the tree with a marker in place of each secret, in the form that the secret must have."""
    if isinstance(tree, dict):
        return {inner: marked(value, f"{name}-{inner}", inner) for inner, value in tree.items()}
    if not isinstance(tree, str) or key == "auth" or not (key == "password" or is_sensitive_key(key)):
        return tree  # auth is the name of a way to log in
    marker = f"canary-{name}-{key}-4711"
    if tree.startswith("whsec_"):
        return "whsec_" + base64.b64encode(marker.encode()).decode()
    if tree.startswith("https://"):
        return (
            f"https://127.0.0.1:{NOWHERE}/workflows/{marker}/triggers/manual/paths/invoke?sig={marker}&token={marker}"
        )
    if tree.startswith("-----BEGIN"):
        return tree.replace("...", base64.b64encode(marker.encode() * 3).decode())
    return marker


def connection(name: str) -> dict[str, Any]:
    """Return an example's connection with markers as its secrets, to an unreachable far side."""
    value: dict[str, Any] = marked(CONNECTIONS[name], name)
    text = json.dumps(value.get("extra", {})).replace("https://login", f"https://127.0.0.1:{NOWHERE}/login")
    value["extra"] = json.loads(text)
    if value["conn_type"] == "sqlite":
        return value
    host = value.get("host", "")
    value["host"] = f"{host.partition('://')[0]}://127.0.0.1:{NOWHERE}" if "://" in host else "127.0.0.1"
    value["port"] = NOWHERE
    if value["conn_type"] == "wasb":  # its keys are base64
        value["password"] = base64.b64encode(value["password"].encode()).decode()
    if value["conn_type"] == "slack":
        value["extra"]["base_url"] = f"http://127.0.0.1:{NOWHERE}/api/"
    if value["conn_type"] == "aws":
        value["extra"]["endpoint_url"] = f"http://127.0.0.1:{NOWHERE}"
        del value["host"], value["port"]
    return value


def markers(value: Any) -> Iterator[str]:
    """Yield the markers of a connection."""
    text = json.dumps(value)
    yield from filter(None, [value.get("password")])
    yield from re.findall(r"canary-[\w-]+-4711", text)
    yield from re.findall(r"whsec_([A-Za-z0-9+/]{20,})", text)
    yield from re.findall(r"\\n([A-Za-z0-9+/]{40,})=*\\n", text)


def spellings(marker: str) -> set[str]:
    encoded = base64.b64encode(marker.encode()).decode().rstrip("=")[:-1]
    return {marker, quote(marker, safe=""), json.dumps(marker)[1:-1], marker.encode().hex(), encoded}


@pytest.fixture(scope="module")
def sinks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return everything that Airflow stored or printed while it ran the examples, by place."""
    root = tmp_path_factory.mktemp("examples")
    home, dags = root / "airflow", root / "dags"
    shutil.copytree(EXAMPLES, dags)
    for path in dags.rglob("*.py"):
        path.write_text(path.read_text().replace("/data/", f"{root}/data/"))
    home.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    env |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "127.0.0.1",
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(connection(name)) for name in CONNECTIONS},
    }
    command = [sys.executable, "-m", "tests.contracts.run_examples", json.dumps([sorted(CONNECTIONS), WANTED])]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {"stdout": done.stdout, "stderr": done.stderr}
    with sqlite3.connect(home / "airflow.db") as database:
        for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            rows = database.execute(f'SELECT * FROM "{table}"').fetchall()
            if rows:
                found[f"table {table}"] = "\n".join(
                    field.decode(errors="replace") if isinstance(field, bytes) else str(field)
                    for row in rows
                    for field in row
                )
    for path in root.rglob("*"):
        if path.is_file() and path.name != "airflow.db" and dags not in path.parents:
            found[f"file {path.relative_to(root)}"] = path.read_text(errors="replace")
    return found


def test_the_tasks_ran_and_failed(sinks: dict[str, str]) -> None:
    """Otherwise the other test proves nothing."""
    ran = {}
    for line in sinks["stdout"].splitlines():
        if line.startswith("ran "):
            ran |= json.loads(line[4:])
    assert ran.keys() >= set(WANTED)
    states = [state for tasks in ran.values() for state in tasks.values()]
    assert states.count("failed") > len(states) / 2
    tried = re.findall(r"^connection (\w+) (True|False) ", sinks["stdout"], re.MULTILINE)
    assert [name for name, _ in tried] == sorted(CONNECTIONS)
    assert {"table rendered_task_instance_fields", "table task_state_store", "table serialized_dag"} <= sinks.keys()


@pytest.mark.parametrize("name", CONNECTIONS)
def test_no_secret_appears_anywhere(sinks: dict[str, str], name: str) -> None:
    known = set(markers(connection(name)))
    secret = {"password"} & CONNECTIONS[name].keys() or "secret" in json.dumps(CONNECTIONS[name].get("extra", {}))
    assert bool(known) == bool(secret)
    shown = {
        where: spelled
        for where, text in sinks.items()
        for marker in known
        for spelled in spellings(marker)
        if spelled in text
    }
    assert shown == {}
