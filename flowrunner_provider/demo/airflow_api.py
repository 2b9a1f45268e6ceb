"""Client for the part of Airflow's REST API (``/api/v2``) that the demo uses."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from flowrunner_provider.core.errors import AccessDenied, ConnectionLost, NotFound, Unavailable

__all__ = ["AirflowApi", "RunView", "TaskView", "request_json"]


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """The state of a task instance.

    :param tries: number of attempts started so far.
    """

    name: str
    state: str
    tries: int
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, kw_only=True)
class RunView:
    """The state of a DAG run; ``tasks`` are in the order in which they started."""

    state: str
    tasks: tuple[TaskView, ...]

    @property
    def over(self) -> bool:
        return self.state in {"success", "failed"}


def request_json(
    port: int, method: str, path: str, *, body: object = None, token: str = "", timeout: float = 10.0
) -> Any:
    """Send a request to a server on this machine, without a proxy, and return its JSON reply.

    :raises NotFound: for status 404.
    :raises AccessDenied: for status 401 and 403.
    :raises ConnectionLost: if the server does not answer, or not completely.
    :raises Unavailable: for any other status from 400.
    """
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionLost(f"{method} {path} on port {port}: {error!r}") from error
    finally:
        connection.close()
    if response.status >= 400:
        kind = {401: AccessDenied, 403: AccessDenied, 404: NotFound}.get(response.status, Unavailable)
        raise kind(f"{method} {path}: {response.status} {content[:300].decode(errors='replace')}")
    return json.loads(content) if content else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


class AirflowApi:
    """Client of Airflow's API server on this machine."""

    def __init__(self, port: int, login: str, password: str) -> None:
        self.port = port
        self._credentials = {"username": login, "password": password}
        self._token = ""

    def _call(self, method: str, path: str, body: object = None) -> Any:
        if not self._token:
            reply = request_json(self.port, "POST", "/auth/token", body=self._credentials)
            self._token = reply["access_token"]
        return request_json(self.port, method, f"/api/v2{path}", body=body, token=self._token)

    def healthy(self, *components: str) -> bool:
        """Return whether the server answers and all ``components`` have a recent heartbeat."""
        try:
            health = request_json(self.port, "GET", "/api/v2/monitor/health")
        except (ConnectionLost, Unavailable):
            return False
        return all((health.get(name) or {}).get("status") == "healthy" for name in components)

    def has_dag(self, dag_id: str) -> bool:
        """Return whether the DAG has been parsed and is not paused."""
        try:
            dag = self._call("GET", f"/dags/{quote(dag_id)}")
        except NotFound:
            return False
        return not dag["is_paused"]

    def import_errors(self) -> list[str]:
        """Return the stack traces of DAG files that do not import."""
        return [str(error["stack_trace"]) for error in self._call("GET", "/importErrors")["import_errors"]]

    def trigger(self, dag_id: str, run_id: str) -> None:
        """Start a run."""
        self._call("POST", f"/dags/{quote(dag_id)}/dagRuns", {"dag_run_id": run_id, "logical_date": None})

    def run(self, dag_id: str, run_id: str) -> RunView:
        """Return the state of a run and its tasks."""
        path = f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}"
        state = str(self._call("GET", path)["state"])
        tasks = [
            TaskView(
                name=task["task_id"],
                state=task["state"] or "waiting",
                tries=task["try_number"],
                start=_time(task["start_date"]),
                end=_time(task["end_date"]),
            )
            for task in self._call("GET", f"{path}/taskInstances")["task_instances"]
        ]
        tasks.sort(key=lambda task: task.start.timestamp() if task.start else float("inf"))
        return RunView(state=state, tasks=tuple(tasks))

    def first_start(self, dag_id: str, run_id: str, task_id: str) -> datetime | None:
        """Return when the first attempt of a task started."""
        path = f"/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/tries"
        starts = [_time(attempt["start_date"]) for attempt in self._call("GET", path)["task_instances"]]
        return min((start for start in starts if start), default=None)
