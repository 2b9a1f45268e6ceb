"""Fetch files from a partner's SFTP server, and deliver the day's report."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileCopyOperator, FileListOperator

with DAG(
    dag_id="files_actions",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    waiting = FileListOperator(
        task_id="what_is_waiting",
        path="sftp://partner@/out/*.csv",
        min_age="5m",
        sort="oldest",
        limit=100,
    )
    rehearsal = FileCopyOperator(
        task_id="what_would_be_fetched",
        source="sftp://partner@/out/*.csv",
        dest="/data/incoming/{{ run_id }}/",
        min_age="5m",
        missing_ok=True,
        dry_run=True,
    )
    fetch = FileCopyOperator(
        task_id="fetch",
        source="sftp://partner@/out/*.csv",
        dest="/data/incoming/{{ run_id }}/",
        after="move:done",
        verify="checksum",
        min_age="5m",
        on_item_error="continue",
        done_marker="_SUCCESS",
        missing_ok=True,
    )
    prices = FileCopyOperator(
        task_id="each_price_list_once",
        source="sftp://partner@/prices/*.csv",
        dest="/data/prices/",
        only_new=True,
        verify_sidecar=True,
        missing_ok=True,
    )
    deliver = FileCopyOperator(
        task_id="deliver",
        source="/data/reports/report.pdf",
        dest="sftp://partner@/in/report.pdf",
    )
    waiting >> rehearsal >> [fetch, prices] >> deliver
