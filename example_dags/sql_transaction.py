"""Run several statements in one transaction, exactly once.

``settle`` books a payment and closes the order; the audit entry may fail without undoing the rest.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.database.operators import SqlTransactionOperator

with DAG(
    dag_id="sql_transaction",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
    params={"order_id": 1},
):
    SqlTransactionOperator(
        task_id="settle",
        conn_id="warehouse",
        isolation="serializable",
        statements=[
            {
                "name": "book",
                "sql": "INSERT INTO sales.payments (order_id, paid_on) VALUES (%s, %s)",
                "params": ["{{ params.order_id }}", "{{ ds }}"],
                "expect_rows": 1,
            },
            {
                "name": "close",
                "sql": "UPDATE sales.orders SET status = 'paid' WHERE order_id = %(order)s AND status = 'open'",
                "params": {"order": "{{ params.order_id }}"},
                "expect_rows": 1,
            },
            {
                "name": "audit",
                "sql": "INSERT INTO audit.events (text) VALUES (%s)",
                "params": ["order {{ params.order_id }} was settled"],
                "savepoint": "audit",
            },
        ],
        on_error="rollback_to",
    )
