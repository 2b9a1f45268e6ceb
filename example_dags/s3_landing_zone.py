"""Move a partner's files from SFTP to S3, verified, and add the day's exports.

Anybody who has the link can download the export for an hour.
"""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileCopyOperator, FileListOperator, FilePresignOperator

with DAG(
    dag_id="s3_landing_zone",
    schedule="@hourly",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files", "s3"],
):
    land = FileCopyOperator(
        task_id="land",
        source="sftp://partner@/out/*.csv",
        dest="s3://lake@raw/orders/{{ ds }}/",
        move=True,
        missing_ok=True,
    )
    export = FileCopyOperator(
        task_id="export",
        source="/data/exports/customers.parquet",
        dest="s3://lake@raw/customers/{{ ds }}.parquet",
        if_exists="fail",
    )
    landed = FileListOperator(
        task_id="landed",
        path="s3://lake@raw/orders/{{ ds }}/",
        limit=1_000,
    )
    link = FilePresignOperator(
        task_id="link",
        path="s3://lake@raw/customers/{{ ds }}.parquet",
        expires="1h",
    )
    land >> landed
    export >> [landed, link]
