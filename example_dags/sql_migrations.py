"""Migrate a schema: validate the scripts, then run the new ones, each once.

The scripts beside this file are for PostgreSQL.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from airflow.sdk import DAG

from flowrunner_provider.database.operators import SqlMigrateOperator

SCRIPTS = str(Path(__file__).parent / "migrations")

with DAG(
    dag_id="sql_migrations",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
    params={"schema": "sales"},
    default_args={"conn_id": "warehouse", "location": SCRIPTS, "vars": {"schema": "{{ params.schema }}"}},
):
    validate = SqlMigrateOperator(task_id="validate", command="validate")
    apply = SqlMigrateOperator(task_id="apply")
    validate >> apply
