"""The pipeline of ``flowrunner demo``: from an API to a database, a mailbox and a partner's SFTP server.

A task that is killed at any point is simply retried: no page is fetched twice, every row is in the table
once, the team gets one mail, and the partner never sees a partial file.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import DAG

from flowrunner_provider.data.operators import WriteCsvOperator
from flowrunner_provider.database.operators import SqlLoadOperator
from flowrunner_provider.email.operators import EmailSendOperator
from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.http.operators import HttpPaginateOperator

STAGING = os.environ.get("FLOWRUNNER_DEMO_DIR", "/data/flowrunner") + "/staging"

with DAG(
    "recovery_pipeline",
    description=__doc__,
    schedule=None,
    default_args={"retries": 5, "retry_delay": timedelta(seconds=1), "timeout": "2m"},
    tags=["flowrunner", "example"],
):
    fetch = HttpPaginateOperator(
        task_id="fetch",
        http_conn_id="demo_api",
        endpoint="/v1/airports",
        strategy="cursor",
        records_path="data",
        cursor_path="next_cursor",
        total_path="total",
        save_to=f"{STAGING}/airports.jsonl",
    )
    stage = WriteCsvOperator(task_id="stage", source=fetch.output, path=f"{STAGING}/airports.csv")
    load = SqlLoadOperator(
        task_id="load",
        conn_id="demo_db",
        source=stage.output,
        table="airports",
        mode="upsert",
        keys=["iata"],
        create_table=True,
    )
    report = EmailSendOperator(
        task_id="report",
        smtp_conn_id="demo_smtp",
        to="team@example.com",
        subject="Airports of {{ dag_run.run_id }}",
        html="<p><b>{{ ti.xcom_pull('load').rows }}</b> airports are in the table; the file is attached.</p>",
        attachments=[f"{STAGING}/airports.csv"],
    )
    archive = FileCopyOperator(
        task_id="archive", source=f"{STAGING}/airports.csv", dest="sftp://demo_sftp@/archive/airports.csv"
    )
    load >> report >> archive
