"""A real Airflow on 127.0.0.1, part by part: what the demo starts, on PostgreSQL, with any executor and its workers."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import TransientError
from flowrunner_provider.core.failpoints import ENVIRONMENT
from flowrunner_provider.demo.airflow_api import AirflowApi, RunView
from flowrunner_provider.demo.airflow_env import LOGIN, Secrets, environment, free_port
from flowrunner_provider.demo.backends import Ports
from flowrunner_provider.demo.processes import Processes
from flowrunner_provider.demo.scratch import Scratch
from tests.support.postgres import USER, Database
from tests.support.redis_server import RedisServer

__all__ = ["LiveAirflow", "require_celery"]

# The log servers of scheduler, triggerer and worker bind all interfaces and cannot be told otherwise.
COMPONENTS = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "worker": [
        "celery", "worker", "--skip-serve-logs", "--concurrency", "1", "--without-gossip", "--without-mingle",
    ],
}  # fmt: skip


def require_celery() -> None:
    """Skip the test (with ``REQUIRE_BACKENDS=1``: fail it) where Airflow's Celery executor cannot be imported."""
    try:
        importlib.import_module("airflow.providers.celery.executors.celery_executor")
    except ImportError as error:
        message = f"Airflow's Celery executor does not import ({error}): install the extra dev afresh"
        if os.environ.get("REQUIRE_BACKENDS") == "1":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


class LiveAirflow:
    """Airflow's processes; leaving the context leaves none of them.

    :param folder: an empty folder for all that Airflow writes.
    :param database: an empty database for the metadata.
    :param executors: as ``[core] executor`` has them.
    :param redis: the broker of ``CeleryExecutor``.
    :param connections: connection id -> what ``AIRFLOW_CONN_...`` says.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        executors: str = "LocalExecutor",
        redis: RedisServer | None = None,
        connections: Mapping[str, str] | None = None,
    ) -> None:
        self.scratch = Scratch(folder)
        self.scratch.create()
        self.database = database
        own, port = Secrets(), free_port()
        passwords = self.scratch.airflow_home / "passwords.json"
        passwords.write_text(json.dumps({LOGIN: own.ui_password}))
        self.api = AirflowApi(port, LOGIN, own.ui_password)
        self.processes = Processes(self.scratch.logs)
        nobody = Ports(api=0, sftp=0, smtp=0, host_key="", total=0)
        address = f"{USER}:{database.password}@{database.host}:{database.port}/{database.name}"
        settings = {
            "core__executor": executors,
            "database__sql_alchemy_conn": f"postgresql+psycopg2://{address}",
            "celery__result_backend": f"db+postgresql+psycopg2://{address}",
            "celery__broker_url": redis.url() if redis else "",
            "triggerer__job_heartbeat_sec": "1",
            "triggerer__triggerer_health_check_threshold": "4",
            "dag_processor__disable_bundle_versioning": "True",
        }
        self.env = environment(self.scratch, nobody, own, port=port)
        self.env |= {f"AIRFLOW__{name.upper()}": value for name, value in settings.items()}
        self.env |= {f"AIRFLOW_CONN_{name.upper()}": value for name, value in (connections or {}).items()}

    def __enter__(self) -> Self:
        self.processes.__enter__()
        try:
            self.processes.start("db-migrate", [sys.executable, "-P", "-m", "airflow", "db", "migrate"], self.env)
            self.processes.finish("db-migrate", Deadline(120))
        except BaseException:
            self.processes.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.close()

    def dag(self, name: str, text: str) -> None:
        """Put a DAG file into the DAGs folder."""
        (self.scratch.dags / f"{name}.py").write_text(text)

    def start(self, component: str, name: str = "", *more: str, rules: list[dict[str, Any]] | None = None) -> str:
        """Start a part of Airflow; returns the name of its process.

        :param name: where there are several of a kind.
        :param rules: failpoint rules for its tasks.
        """
        name = name or component
        env = {**self.env, ENVIRONMENT: json.dumps(rules)} if rules else self.env
        self.processes.start(name, [sys.executable, "-P", "-m", "airflow", *COMPONENTS[component], *more], env)
        return name

    def kill(self, name: str) -> None:
        """SIGKILL to a process and its children (each process that was started leads a group of its own)."""
        self.processes.listen(1.0)
        os.killpg(self.processes.pids[name], signal.SIGKILL)

    def until(self, done: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
        """Wait for ``done`` to be true; the ends of all logs otherwise."""
        end = time.monotonic() + seconds

        def looked() -> Any:
            try:
                return done()
            except TransientError:  # a busy machine
                return None

        while not (result := looked()):
            assert time.monotonic() < end, f"{what} took longer than {seconds:g} s\n{self.logs()}"
            time.sleep(0.5)
        return result

    def run(self, dag_id: str, run_id: str) -> None:
        """Start a DAG run as soon as the DAG is known."""
        self.until(lambda: self.api.has_dag(dag_id) or self.api.import_errors(), f"parsing {dag_id}")
        assert self.api.import_errors() == []
        self.api.trigger(dag_id, run_id)

    def finished(self, dag_id: str, run_id: str) -> RunView | None:
        """The run, when it is over."""
        view = self.api.run(dag_id, run_id)
        return view if view.over else None

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Look into the metadata database."""
        with self.database.connect() as connection:
            return connection.execute(sql).fetchall()  # type: ignore[call-overload, no-any-return]

    def logs(self) -> str:
        """The ends of all logs."""
        paths = sorted(self.scratch.logs.glob("*.log"))
        return "\n".join(f"== {path.stem}\n{path.read_text(errors='replace')[-2500:]}" for path in paths)
