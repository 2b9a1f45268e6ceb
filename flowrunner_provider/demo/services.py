"""Start and monitor the processes that the pipeline needs: its back ends and Airflow.

Airflow's components are started one by one instead of with ``airflow standalone``. This is twice as fast, leaves
no orphans, and allows the log servers, which bind to all interfaces, to be switched off.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.retry import pause
from flowrunner_provider.demo.airflow_api import AirflowApi, request_json
from flowrunner_provider.demo.airflow_env import LOGIN, Secrets, environment, free_port, with_kills
from flowrunner_provider.demo.backends import Ports, Settings
from flowrunner_provider.demo.processes import Processes
from flowrunner_provider.demo.scratch import Scratch

__all__ = ["Services"]

_COMPONENTS: dict[str, list[str]] = {
    "api-server": ["api-server"],
    "dag-processor": ["dag-processor"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}
_POLL = 0.2


class Services:
    """The back ends and the Airflow components of one run, started in a :class:`Processes` context.

    :param rules: failpoint rules from :func:`flowrunner_provider.demo.chaos.rules`.
    """

    def __init__(self, scratch: Scratch, processes: Processes, rules: str) -> None:
        self.scratch = scratch
        self.processes = processes
        self.rules = rules
        self.secrets = Secrets()
        self.port = free_port()
        self.airflow = AirflowApi(self.port, LOGIN, self.secrets.ui_password)
        self.ports: Ports | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start_backends(self, deadline: Deadline) -> Ports:
        """Start the API, SFTP and SMTP servers and wait until they accept connections."""
        config, ready = self.scratch.root / "backends.json", self.scratch.root / "ready.json"
        Settings(
            token=self.secrets.api_token,
            sftp_user=self.secrets.sftp_user,
            sftp_password=self.secrets.sftp_password,
            mail=str(self.scratch.mail),
            sftp=str(self.scratch.sftp),
            ready=str(ready),
        ).write(config)
        argv = [sys.executable, "-P", "-m", "flowrunner_provider.demo.backends", str(config)]
        self.processes.start("backends", argv, os.environ)
        self._wait(ready.exists, "starting the back ends", deadline, "backends")
        self.ports = Ports.read(ready)
        return self.ports

    def start_database(self, ports: Ports, deadline: Deadline) -> dict[str, str]:
        """Create Airflow's metadata database and return the environment of Airflow's processes."""
        passwords = self.scratch.airflow_home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps({LOGIN: self.secrets.ui_password}), encoding="utf-8")
        env = environment(self.scratch, ports, self.secrets, port=self.port)
        self.processes.start("db-migrate", [sys.executable, "-P", "-m", "airflow", "db", "migrate"], env)
        self.processes.finish("db-migrate", deadline)
        return env

    def start_airflow(self, env: dict[str, str], dag: Path, dag_id: str, deadline: Deadline) -> None:
        """Start Airflow and wait until it is healthy and has parsed the DAG.

        :raises ConfigError: if the DAG file does not import.
        """
        shutil.copyfile(dag, self.scratch.dags / dag.name)
        for name, arguments in _COMPONENTS.items():
            own = with_kills(env, self.rules) if name == "scheduler" else env
            self.processes.start(name, [sys.executable, "-P", "-m", "airflow", *arguments], own)
        running = tuple(_COMPONENTS)
        self._wait(lambda: self.airflow.healthy("scheduler", "dag_processor"), "starting Airflow", deadline, *running)
        self._wait(lambda: self._has_dag(dag_id), f"parsing {dag.name}", deadline, *running)

    def _has_dag(self, dag_id: str) -> bool:
        if self.airflow.has_dag(dag_id):
            return True
        for trace in self.airflow.import_errors():
            raise ConfigError(f"the DAG file does not import: {trace.strip().splitlines()[-1]}", field="dag")
        return False

    def _wait(self, done: Callable[[], bool], what: str, deadline: Deadline, *names: str) -> None:
        while not done():
            deadline.check(what)
            self.processes.expect_alive(*names)
            pause(_POLL)

    def check_alive(self) -> None:
        """Raise if a process has ended that should still run."""
        self.processes.expect_alive("backends", *_COMPONENTS)

    def api_stats(self) -> dict[str, int]:
        """Return the counters of the REST API."""
        if self.ports is None:
            raise RuntimeError("the back ends are not started yet")
        stats: dict[str, int] = request_json(self.ports.api, "GET", "/_stats")
        return stats
