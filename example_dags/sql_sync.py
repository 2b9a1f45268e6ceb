"""Sync tables from a shop's database to the warehouse and compare them; new orders start this DAG.

``copy_products`` replaces all rows. ``follow_orders`` copies the rows that changed since the last run and marks
deleted ones. ``compare_orders`` fails if a row differs, and writes the keys to a file.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG, Asset, AssetWatcher

from flowrunner_provider.database.operators import SqlReconcileOperator, SqlSyncOperator
from flowrunner_provider.database.triggers import SqlRowTrigger

new_orders = Asset(
    "new_orders",
    watchers=[
        AssetWatcher(
            name="orders",
            trigger=SqlRowTrigger(conn_id="shop_db", table="shop.orders", watermark="updated_at", tie_break="order_id"),
        )
    ],
)

with DAG(
    dag_id="sql_sync",
    schedule=[new_orders],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["flowrunner", "example"],
):
    SqlSyncOperator(
        task_id="copy_products",
        source_conn_id="shop_db",
        source_table="shop.products",
        conn_id="warehouse",
        table="sales.products",
        column_map={"internal note": None},
    )
    follow = SqlSyncOperator(
        task_id="follow_orders",
        source_conn_id="shop_db",
        source_table="shop.orders",
        conn_id="warehouse",
        table="sales.orders",
        mode="incremental",
        keys=["order_id"],
        watermark="updated_at",
        lookback="10m",
        detect_deletes=True,
        soft_delete_column="deleted_at",
        schema_drift="add",
    )
    compare = SqlReconcileOperator(
        task_id="compare_orders",
        left_conn_id="shop_db",
        left_sql="SELECT order_id, amount FROM shop.orders WHERE ordered_on < %s",
        left_parameters=["{{ ds }}"],
        right_conn_id="warehouse",
        right_sql="SELECT order_id, amount FROM sales.orders WHERE ordered_on < %s AND deleted_at IS NULL",
        right_parameters=["{{ ds }}"],
        compare="rows",
        keys=["order_id"],
        tolerance=0.005,
        diff_path="/data/orders/differences-{{ ds }}.jsonl",
    )
    follow >> compare
