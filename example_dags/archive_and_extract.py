"""Extract a partner's archive, and send our reports back as one encrypted archive."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileArchiveOperator, FileExtractOperator

with DAG(
    dag_id="archive_and_extract",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    unpack = FileExtractOperator(
        task_id="unpack",
        archive="sftp://partner@/out/orders-{{ ds }}.zip",
        dest="/data/incoming/{{ ds }}/",
        members=["*.csv"],
        max_size=5_000_000_000,
    )
    pack = FileArchiveOperator(
        task_id="pack",
        source="/data/reports/{{ ds }}/",
        dest="sftp://partner@/in/reports-{{ ds }}.zip",
        arcname="{{ ds }}/{path}",
        keys_conn_id="partner_keys",
    )
    unpack >> pack
