"""Wait for a partner's files, verify them, read the control file, and write a log line and a done marker."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileChecksumOperator, FileReadOperator, FileWriteOperator
from flowrunner_provider.files.sensors import StoreFileSensor

with DAG(
    dag_id="files_content",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    control = FileReadOperator(task_id="control", path="sftp://partner@/out/control.json", read_as="json")
    note = FileWriteOperator(
        task_id="note",
        path="/data/log/deliveries.txt",
        content="{{ ds }} delivered\n",
        append=True,
    )
    done = FileWriteOperator(task_id="done", path="sftp://partner@/in/{{ ds }}.done", content="", if_exists="skip")
    arrived = StoreFileSensor(
        task_id="arrived",
        path="sftp://partner@/out/*.csv",
        min_files=3,
        stable_for="2m",
        deferrable=True,
    )
    sound = FileChecksumOperator(task_id="sound", path="sftp://partner@/out/*.csv", verify_sidecar=True)
    arrived >> sound >> control >> note >> done
