"""Extract all pages of an API, download a file that resumes after a failure, and send a POST exactly once."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.http.operators import HttpDownloadOperator, HttpPaginateOperator, HttpRequestOperator

with DAG(
    "http_actions", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["flowrunner"]
):
    orders = HttpPaginateOperator(
        task_id="orders",
        http_conn_id="shop_api",
        endpoint="/v1/orders",
        query={"status": "paid"},
        strategy="cursor",
        records_path="data",
        cursor_path="meta.next_cursor",
        total_path="meta.total",
        save_to="/data/shop/{{ run_id }}/orders.jsonl",
    )
    price_list = HttpDownloadOperator(
        task_id="price_list",
        http_conn_id="shop_api",
        endpoint="/exports/prices.csv",
        save_to="/data/shop/{{ run_id }}/",
        if_exists="skip",
    )
    report = HttpRequestOperator(
        task_id="report",
        http_conn_id="shop_api",
        method="POST",
        endpoint="/v1/reports",
        json={"run": "{{ run_id }}", "rows": "{{ ti.xcom_pull(task_ids='orders')['rows'] }}"},
        idempotency_key=True,
        reconcile={"endpoint": "/v1/reports?key={key}", "exists_when": "items[0]"},
        select="id",
    )
    [orders, price_list] >> report
