"""Download to any store, submit forms with files, and upload each file once."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.http.operators import (
    HttpDownloadOperator,
    HttpPaginateOperator,
    HttpRequestOperator,
    HttpUploadOperator,
)

with DAG("http_files", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["flowrunner"]):
    rates = HttpDownloadOperator(
        task_id="rates",
        http_conn_id="shop_api",
        endpoint="/exports/rates.csv",
        save_to="sftp://partner@/in/rates.csv",
        only_if_changed=True,
    )
    customers = HttpPaginateOperator(
        task_id="customers",
        http_conn_id="shop_api",
        endpoint="/odata/Customers",
        query={"$count": "true", "$orderby": "Id"},
        strategy="odata",
        save_to="/data/shop/{{ run_id }}/customers.parquet",
    )
    claim = HttpRequestOperator(
        task_id="claim",
        http_conn_id="shop_api",
        method="POST",
        endpoint="/v1/claims",
        data={"order": "4711"},
        files={"photo": "sftp://partner@/out/damage.jpg"},
        idempotency_key=True,
        response_format="xml",
        select="claim.id",
    )
    invoices = HttpUploadOperator(
        task_id="invoices",
        http_conn_id="shop_api",
        source="/data/invoices/{{ ds }}/*.pdf",
        endpoint="/v1/invoices",
        metadata={"run": "{{ run_id }}"},
        idempotency_key=True,
        reconcile={"endpoint": "/v1/invoices?key={key}", "exists_when": "items[0]"},
        select="id",
    )
    archive = HttpUploadOperator(
        task_id="archive",
        http_conn_id="shop_api",
        source="/data/archive.zip",
        endpoint="{{ ti.xcom_pull(task_ids='claim') }}",
        mode="presigned_put",
    )
    [rates, customers] >> claim >> invoices >> archive
