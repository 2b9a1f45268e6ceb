"""Create a folder, delete old backups, and mirror the rest."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileDeleteOperator, FileSyncOperator, MakeDirectoryOperator

with DAG(
    dag_id="files_housekeeping",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    folder = MakeDirectoryOperator(task_id="folder_of_the_day", path="sftp://partner@/in/{{ ds }}/")
    retention = FileDeleteOperator(
        task_id="retention",
        path="/data/backups/*.tar.gz",
        older_than="30d",
        keep_last=7,
        missing_ok=True,
        max_deletes=50,
    )
    mirror = FileSyncOperator(
        task_id="mirror",
        source="/data/backups/",
        dest="sftp://partner@/mirror/",
        delete_extra=True,
        max_deletes=50,
        backup_dir="sftp://partner@/mirror-attic/",
        exclude=["*.tmp"],
    )
    folder >> retention >> mirror
