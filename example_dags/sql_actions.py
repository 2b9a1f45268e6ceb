"""Load files into database tables exactly once.

``load_orders`` updates known orders and inserts new ones. ``load_returns`` replaces the rows of the table
and sets aside rows that do not fit.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.database.operators import SqlLoadOperator

with DAG(
    dag_id="sql_actions",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
):
    SqlLoadOperator(
        task_id="load_orders",
        conn_id="warehouse",
        source="/data/orders/{{ run_id }}.csv",
        table="sales.orders",
        mode="upsert",
        keys=["order_id"],
        column_map={"Order No": "order_id", "internal note": None},
        min_rows=1,
    )
    SqlLoadOperator(
        task_id="load_returns",
        conn_id="warehouse",
        source="/data/returns/{{ run_id }}.parquet",
        table="sales.returns",
        mode="truncate",
        on_bad_row="reject",
        reject_path="/data/returns/{{ run_id }}.rejected.jsonl",
        max_failures=100,
    )
