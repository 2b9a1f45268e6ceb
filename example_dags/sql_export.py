"""Export one snapshot of a query or table to one file, or to many files for parallel tasks.

``export_orders`` writes the day's orders as Parquet. ``export_customers`` writes files of 100,000 rows each.
``export_by_country`` writes ``country=DE/2026-01-01.parquet`` and so on.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.database.operators import SqlExportOperator

with DAG(
    dag_id="sql_export",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
):
    SqlExportOperator(
        task_id="export_orders",
        conn_id="warehouse",
        sql="SELECT * FROM sales.orders WHERE ordered_on = %(day)s",
        parameters={"day": "{{ ds }}"},
        order_by=["order_id"],
        dest="/data/orders/{{ ds }}.parquet",
    )
    SqlExportOperator(
        task_id="export_customers",
        conn_id="warehouse",
        table="sales.customers",
        columns=["customer_id", "name", "country"],
        dest="/data/customers/{{ ds }}.csv",
        max_rows_per_file=100_000,
    )
    SqlExportOperator(
        task_id="export_by_country",
        conn_id="warehouse",
        sql="SELECT order_id, amount, country FROM sales.orders WHERE ordered_on = %(day)s",
        parameters={"day": "{{ ds }}"},
        partition_by=["country"],
        order_by=["order_id"],
        dest="/data/orders_by_country/{{ ds }}.parquet",
    )
