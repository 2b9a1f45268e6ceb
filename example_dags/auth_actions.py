"""Check every morning that all connections work from a worker and that no credential expires soon."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.auth.operators import ConnectionCheckOperator, CredentialExpiryOperator

with DAG(
    "auth_actions", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["flowrunner"]
):
    ConnectionCheckOperator(
        task_id="connections_work",
        conn_ids=["shop_api", "warehouse", "partner"],
        check_timeout="30s",
    )
    CredentialExpiryOperator(
        task_id="credentials_last",
        targets=[
            {"kind": "tls_cert", "host": "api.example.com:443"},
            {"kind": "jwt", "conn_id": "shop_api"},
            {"kind": "ssh_key", "conn_id": "partner"},
            {"kind": "client_cert", "conn_id": "bank_api"},
        ],
        warn_days=30,
        fail_days=7,
    )
