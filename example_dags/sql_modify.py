"""Close orders and delete old rows: at most the expected number, and exactly once."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.database.operators import SqlModifyOperator

with DAG(
    dag_id="sql_modify",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
):
    SqlModifyOperator(
        task_id="close_orders",
        conn_id="warehouse",
        operation="update",
        table="sales.orders",
        set={"status": "closed"},
        where={"status": ["paid", "sent"], "ordered_on": {"<": "{{ ds }}"}},
        max_affected=50_000,
    )
    SqlModifyOperator(
        task_id="forget_sessions",
        conn_id="warehouse",
        operation="delete",
        table="sales.sessions",
        where="last_seen < %(day)s::date - 90",
        parameters={"day": "{{ ds }}"},
    )
