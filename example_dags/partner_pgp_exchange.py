"""Fetch, decrypt and verify a partner's files, and send our report back encrypted and signed."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileCryptoOperator

with DAG(
    dag_id="partner_pgp_exchange",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    receive = FileCryptoOperator(
        task_id="receive",
        operation="decrypt",
        source="sftp://partner@/out/*.pgp",
        dest="/data/incoming/{{ ds }}/",
        keys_conn_id="partner_keys",
    )
    send = FileCryptoOperator(
        task_id="send",
        operation="encrypt",
        source="/data/reports/{{ ds }}.csv",
        dest="sftp://partner@/in/",
        keys_conn_id="partner_keys",
    )
    receive >> send
