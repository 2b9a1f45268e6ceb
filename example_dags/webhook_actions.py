"""Send a signed event to a partner, and report every failure through a webhook."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.webhooks.notifier import WebhookNotifier
from flowrunner_provider.webhooks.operators import WebhookSendOperator

with DAG(
    "webhook_actions",
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner"],
    default_args={"on_failure_callback": [WebhookNotifier(http_conn_id="pager", endpoint="/hooks/airflow")]},
):
    WebhookSendOperator(
        task_id="tell_partner",
        http_conn_id="partner_hooks",
        endpoint="/hooks/orders",
        event_type="orders.exported",
        payload={"run": "{{ run_id }}", "day": "{{ ds }}"},
        idempotent_receiver=True,
    )
