"""The environment variables of the demo's Airflow."""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from flowrunner_provider.core import failpoints
from flowrunner_provider.demo import backends
from flowrunner_provider.demo.scratch import ENVIRONMENT, Scratch

__all__ = ["LOGIN", "Secrets", "connections", "environment", "free_port", "with_kills"]

LOGIN = "admin"
_DROPPED = ("AIRFLOW", "_AIRFLOW", "FLOWRUNNER", "SQLALCHEMY_")
_LOOPBACK = "127.0.0.1,localhost"


def _random() -> str:
    return secrets.token_urlsafe(18)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, kw_only=True)
class Secrets:
    """Random secrets of one run."""

    ui_password: str = field(default_factory=_random)
    api_token: str = field(default_factory=_random)
    sftp_user: str = "partner"
    sftp_password: str = field(default_factory=_random)
    signing_key: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    fernet_key: str = field(default_factory=_fernet_key)


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind((backends.HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def connections(scratch: Scratch, ports: backends.Ports, own: Secrets) -> dict[str, dict[str, object]]:
    """Return the four Airflow connections of the pipeline."""
    return {
        "demo_api": {
            "conn_type": "http",
            "host": f"http://{backends.HOST}",
            "port": ports.api,
            "password": own.api_token,
            "extra": {"flowrunner": {"auth": "bearer"}},
        },
        "demo_sftp": {
            "conn_type": "sftp",
            "host": backends.HOST,
            "port": ports.sftp,
            "login": own.sftp_user,
            "password": own.sftp_password,
            "extra": {"host_key": ports.host_key},
        },
        "demo_smtp": {
            "conn_type": "smtp",
            "host": backends.HOST,
            "port": ports.smtp,
            "extra": {"disable_tls": True, "disable_ssl": True, "from_email": "flowrunner@example.com"},
        },
        "demo_db": {"conn_type": "sqlite", "host": str(scratch.database)},
    }


def _settings(scratch: Scratch, own: Secrets, port: int) -> dict[str, dict[str, object]]:
    home = scratch.airflow_home
    return {
        "core": {
            "dags_folder": scratch.dags,
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": 2,
            "dags_are_paused_at_creation": False,
            "fernet_key": own.fernet_key,
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": f"{LOGIN}:admin",
            "simple_auth_manager_passwords_file": home / "passwords.json",
        },
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "api": {
            "host": backends.HOST,
            "port": port,
            "base_url": f"http://{backends.HOST}:{port}",
            "workers": 1,
            "secret_key": own.signing_key,
        },
        "api_auth": {"jwt_secret": own.signing_key},
        "scheduler": {"scheduler_idle_sleep_time": 0.3, "enable_health_check": False},
        "dag_processor": {"refresh_interval": 5, "min_file_process_interval": 5},
        "workers": {"min_heartbeat_interval": 1},
        "logging": {"base_log_folder": home / "logs"},
        "usage_data_collection": {"enabled": False},
    }


def environment(
    scratch: Scratch,
    ports: backends.Ports,
    own: Secrets,
    *,
    port: int,
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Return the variables of every Airflow process, without settings of the user's own Airflow.

    The kills are not included: only the scheduler, whose children run the tasks, gets them.

    :param port: port of the API server.
    :param base: variables to start from; by default those of this process.
    """
    inherited = os.environ if base is None else base
    env = {name: value for name, value in inherited.items() if not name.startswith(_DROPPED)}
    env |= {"AIRFLOW_HOME": str(scratch.airflow_home), ENVIRONMENT: str(scratch.root)}
    env |= {"NO_PROXY": _LOOPBACK, "no_proxy": _LOOPBACK, "SCARF_ANALYTICS": "false", "PYTHONUNBUFFERED": "1"}
    env[f"AIRFLOW_VAR_{ENVIRONMENT}"] = str(scratch.root)
    for section, options in _settings(scratch, own, port).items():
        for option, value in options.items():
            env[f"AIRFLOW__{section.upper()}__{option.upper()}"] = str(value)
    for name, connection in connections(scratch, ports, own).items():
        env[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps(connection)
    return env


def with_kills(env: Mapping[str, str], rules: str) -> dict[str, str]:
    """Return ``env`` for the process whose tasks are to be killed."""
    return {**env, failpoints.ENVIRONMENT: rules}
