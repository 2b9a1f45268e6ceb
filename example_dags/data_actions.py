"""Convert JSON to a dataset, then write it as a CSV file for people and as a Parquet file for programs."""

from __future__ import annotations

from airflow.sdk import DAG

from flowrunner_provider.data.operators import ReadJsonOperator, WriteColumnarOperator, WriteCsvOperator

with DAG("data_actions", schedule=None, tags=["example", "data"]):
    orders = ReadJsonOperator(
        task_id="orders",
        path="/data/in/orders-{{ ds }}.json",
        records_path="data.orders",
        flatten=1,
        save_to="/data/staged/orders-{{ ds }}.jsonl.gz",
    )
    WriteCsvOperator(
        task_id="for_people",
        source=orders.output,
        path="/data/out/orders-{{ ds }}.csv",
        columns={"id": "Order", "customer_name": "Customer", "total": "Total"},
        delimiter=";",
        decimal=",",
        encoding="utf-8-sig",
        escape_formulas=True,
    )
    WriteColumnarOperator(
        task_id="for_programs",
        source=orders.output,
        path="/data/out/orders-{{ ds }}.parquet",
        on_mixed="string",
    )
