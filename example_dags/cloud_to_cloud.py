"""Copy files from Azure Blob Storage to Google Cloud Storage, and mirror them to a store that fsspec opens."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileCopyOperator, FileSyncOperator

with DAG(
    dag_id="cloud_to_cloud",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    collect = FileCopyOperator(
        task_id="collect",
        source="wasb://sales_account@exports/daily/{{ ds }}/*.parquet",
        dest="gs://analytics_lake@raw-sales/{{ ds }}/",
        verify="checksum",
        done_marker="_SUCCESS",
    )
    mirror = FileSyncOperator(
        task_id="mirror",
        source="gs://analytics_lake@raw-sales/{{ ds }}/",
        dest="fsspec+abfs://archive_account@archive/sales/{{ ds }}/",
        compare="checksum",  # object stores do not keep modification times
        delete_extra=True,
        max_deletes=100,
    )
    collect >> mirror
