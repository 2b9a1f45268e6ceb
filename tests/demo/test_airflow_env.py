"""Nothing of the user's own Airflow leaks in, secrets are fresh, and everything stays on loopback."""

from __future__ import annotations

import json
from pathlib import Path

from flowrunner_provider.core import failpoints
from flowrunner_provider.demo.airflow_env import Secrets, environment, with_kills
from flowrunner_provider.demo.backends import Ports
from flowrunner_provider.demo.scratch import Scratch

PORTS = Ports(api=1, sftp=2, smtp=3, host_key="ssh-ed25519 AAAA", total=9)


def make(base: dict[str, str] | None = None) -> dict[str, str]:
    return environment(Scratch(Path("/scratch")), PORTS, Secrets(), port=4, base=base or {})


def test_the_users_own_airflow_settings_do_not_leak_in() -> None:
    env = make(
        {
            "PATH": "/bin",
            "AIRFLOW__CORE__PLUGINS_FOLDER": "/evil",
            "AIRFLOW_CONN_X": "x",
            "FLOWRUNNER_FAILPOINTS": "[]",
            "http_proxy": "http://proxy",
        }
    )
    assert env["PATH"] == "/bin"
    assert "AIRFLOW__CORE__PLUGINS_FOLDER" not in env
    assert "AIRFLOW_CONN_X" not in env
    assert failpoints.ENVIRONMENT not in env
    assert "127.0.0.1" in env["no_proxy"]
    assert env["AIRFLOW_HOME"] == "/scratch/airflow"


def test_connections_are_those_of_the_official_providers() -> None:
    env = make()
    sftp = json.loads(env["AIRFLOW_CONN_DEMO_SFTP"])
    assert (sftp["conn_type"], sftp["extra"]["host_key"]) == ("sftp", "ssh-ed25519 AAAA")
    smtp = json.loads(env["AIRFLOW_CONN_DEMO_SMTP"])
    assert smtp["extra"]["disable_tls"]
    assert smtp["extra"]["disable_ssl"]
    api = json.loads(env["AIRFLOW_CONN_DEMO_API"])
    assert (api["host"], api["extra"]) == ("http://127.0.0.1", {"flowrunner": {"auth": "bearer"}})
    assert json.loads(env["AIRFLOW_CONN_DEMO_DB"]) == {"conn_type": "sqlite", "host": "/scratch/warehouse.db"}
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"


def test_official_hooks_understand_the_sqlite_connection(tmp_path: Path) -> None:
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook
    from airflow.sdk import Connection

    hook = SqliteHook()
    given = {"conn_type": "sqlite", "host": str(tmp_path / "x.db")}
    hook.get_connection = lambda _: Connection.from_json(json.dumps(given))  # type: ignore[method-assign]
    hook.get_conn().execute("CREATE TABLE t (x)")
    assert (tmp_path / "x.db").exists()


def test_secrets_are_new_in_every_run() -> None:
    one, two = Secrets(), Secrets()
    assert one.api_token != two.api_token
    assert one.ui_password != two.ui_password
    assert one.sftp_password != two.sftp_password
    assert one.signing_key not in repr(make({}))


def test_the_plan_of_kills_is_added_to_the_environment() -> None:
    assert with_kills({"A": "1"}, "[]") == {"A": "1", failpoints.ENVIRONMENT: "[]"}
