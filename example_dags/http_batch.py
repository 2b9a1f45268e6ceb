"""Send one HTTP request for each of thousands of items, in one task."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.http.operators import HttpBatchOperator, HttpPaginateOperator

with DAG("http_batch", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["flowrunner"]):
    customers = HttpPaginateOperator(
        task_id="customers",
        http_conn_id="shop_api",
        endpoint="/v1/customers",
        strategy="page",
        records_path="data",
        save_to="/data/shop/{{ run_id }}/customers.jsonl",
    )
    balances = HttpBatchOperator(
        task_id="balances",
        http_conn_id="shop_api",
        items=customers.output,
        request={"endpoint": "/v1/customers/{item.id}/balance", "query": {"date": "{{ ds }}"}},
        select="balance",
        save_to="/data/shop/{{ run_id }}/balances.jsonl",
        dead_letter="/data/shop/{{ run_id }}/balances_failed.jsonl",
    )
    reminders = HttpBatchOperator(
        task_id="reminders",
        http_conn_id="shop_api",
        items=customers.output,
        request={
            "method": "POST",
            "endpoint": "/v1/reminders",
            "json": {"customer": "{item.id}", "text": "Dear {item.name}, your invoice is due."},
        },
        idempotency_key="reminder-{{ ds }}-{item.id}",
        save_to="/data/shop/{{ run_id }}/reminders.jsonl",
        max_failures=50,
    )
    balances >> reminders
