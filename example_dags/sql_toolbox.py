"""Maintain tables: merge changes, check the structure, refresh statistics, swap partitions, call a procedure."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.database.operators import (
    SqlCreateTableOperator,
    SqlMaintainOperator,
    SqlProcedureOperator,
    SqlSchemaCheckOperator,
    SqlUpsertOperator,
)

with DAG(
    dag_id="sql_toolbox",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
):
    SqlUpsertOperator(
        task_id="merge_prices",
        conn_id="warehouse",
        table="sales.prices",
        keys=["sku"],
        source="/data/prices.csv",
        update_columns=["price"],
        keep="last",
    )
    SqlUpsertOperator(
        task_id="seed_countries",
        conn_id="warehouse",
        table="sales.countries",
        keys=["code"],
        rows=[{"code": "AT", "name": "Austria"}, {"code": "NO", "name": "Norway"}],
        on_conflict="ignore",
    )
    SqlMaintainOperator(
        task_id="empty_staging",
        conn_id="warehouse",
        operation="truncate",
        tables=["staging.orders"],
        confirm=["staging.orders"],
        max_rows=5_000_000,
    )
    SqlMaintainOperator(
        task_id="swap_month",
        conn_id="warehouse",
        operation="swap_partition",
        tables=["sales.orders_{{ ds_nodash[:6] }}"],
        replacement="sales.orders_loaded",
    )
    SqlMaintainOperator(
        task_id="fresh_statistics", conn_id="warehouse", operation="analyze", tables=["sales.orders", "sales.prices"]
    )
    SqlCreateTableOperator(
        task_id="price_table",
        conn_id="warehouse",
        table="sales.prices",
        columns={
            "sku": "string",
            "price": {"type": "decimal", "nullable": False},
            "valid_from": {"type": "date", "default": "now"},
        },
        keys=["sku"],
        indexes=[{"columns": ["valid_from"]}],
    )
    SqlSchemaCheckOperator(
        task_id="no_surprises",
        conn_id="warehouse",
        expected="s3://lake@schemas/sales.json",
        on_drift="warn",
    )
    SqlProcedureOperator(
        task_id="close_month",
        conn_id="warehouse",
        name="sales.close_month",
        arguments=[{"value": "{{ ds }}", "type": "date"}, {"mode": "out", "name": "closed"}],
    )
