"""Deliver the day's price list to a partner over FTPS, and fetch their acknowledgements."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileCopyOperator, FileListOperator

with DAG(
    dag_id="ftps_partner_drop",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    deliver = FileCopyOperator(
        task_id="deliver",
        source="/data/prices/prices.csv",
        dest="ftps://partner_drop@/in/prices-{{ ds }}.csv",
        verify="checksum",
    )
    answers = FileListOperator(
        task_id="answers",
        path="ftps://partner_drop@/out/*.ack",
        min_age="1m",
        sort="oldest",
    )
    fetch = FileCopyOperator(
        task_id="fetch",
        source="ftps://partner_drop@/out/*.ack",
        dest="/data/acknowledged/{{ run_id }}/",
        move=True,
        missing_ok=True,
    )
    deliver >> answers >> fetch
