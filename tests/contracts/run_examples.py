"""Runs every task of every example DAG once, with Airflow's metadata database and a far side that nobody serves.

It is a program of its own: Airflow reads its configuration when it is imported. ``AIRFLOW_HOME`` is an empty folder and
the connections are in the environment. What each task came to goes to standard output, a line each.
"""

from __future__ import annotations

import importlib
import json
import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

LOGICAL_DATE = datetime(2026, 1, 2, tzinfo=UTC)


def prepare(task: Any) -> None:
    """It fails once, soon, and whatever became of those before it."""
    task.retries, task.execution_timeout, task.trigger_rule = 0, timedelta(seconds=20), "all_done"
    for name, value in (("poke_interval", 0.05), ("timeout", 2), ("mode", "poke")):
        if hasattr(task, "poke") and hasattr(task, name):
            setattr(task, name, value)


def connections(conn_ids: list[str]) -> None:
    """Each is looked at and tried, as the button in Airflow's UI does."""
    from airflow.sdk import BaseHook

    from flowrunner_provider.registry import CONNECTORS

    hooks = {conn_type: path for connector in CONNECTORS for conn_type, path in connector.hooks}
    for conn_id in conn_ids:
        connection = BaseHook.get_connection(conn_id)
        module, _, name = hooks[connection.conn_type].rpartition(".")
        reached, message = getattr(importlib.import_module(module), name)(conn_id).test_connection()
        sys.stdout.write(f"connection {conn_id} {reached} {message!r}\n")


def main(conn_ids: list[str], wanted: list[str]) -> None:
    from airflow.dag_processing import dagbag as module
    from airflow.utils import db

    from flowrunner_provider.core.retry import Backoff

    Backoff.ceiling = lambda self, attempt: 0.01  # type: ignore[method-assign]
    db.initdb()
    connections(conn_ids)
    bags: dict[str, Any] = {}
    written: set[str] = set()
    bag_of, write = module.BundleDagBag, module.sync_bag_to_db

    def once_parsed(**how: Any) -> Any:
        name = how["bundle_name"]
        if name not in bags:
            bags[name] = bag_of(**how)
        return bags[name]

    def once_written(bag: Any, name: str, *rest: Any) -> None:
        if name not in written:
            write(bag, name, *rest)
            written.add(name)

    dags = module.DagBag().dags
    with patch.object(module, "BundleDagBag", once_parsed), patch.object(module, "sync_bag_to_db", once_written):
        for dag_id in sorted(dags):
            if wanted and dag_id not in wanted:
                continue
            dag = dags[dag_id]
            for task in dag.tasks:
                prepare(task)
            run = dag.test(logical_date=LOGICAL_DATE)
            states = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
            sys.stdout.write(f"ran {json.dumps({dag_id: states})}\n")


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
