"""Wait for an export, run an asynchronous job and fetch its result, and call a GraphQL API."""

from __future__ import annotations

from datetime import UTC, datetime

from airflow.sdk import DAG

from flowrunner_provider.http.operators import GraphQLOperator, HttpAsyncJobOperator
from flowrunner_provider.http.sensors import HttpConditionSensor

with DAG("http_jobs", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=["flowrunner"]):
    export_is_there = HttpConditionSensor(
        task_id="export_is_there",
        http_conn_id="shop_api",
        endpoint="/v1/exports/{{ ds }}",
        success_when="json.state == 'ready'",
        fail_when="json.state == 'failed' && json.reason",
        select="json.rows",
        poke_interval="1m",
        timeout="6h",
        deferrable=True,
    )
    report = HttpAsyncJobOperator(
        task_id="report",
        http_conn_id="shop_api",
        submit={"endpoint": "/v1/reports", "json": {"day": "{{ ds }}"}, "idempotency_key": True},
        job_id_path="id",
        poll={
            "endpoint": "/v1/reports/{job_id}",
            "status_path": "state",
            "success": ["done"],
            "failed": ["failed", "cancelled"],
            "interval": "30s",
        },
        result={"endpoint": "/v1/reports/{job_id}/file", "save_to": "/data/shop/{{ run_id }}/report.csv"},
        cancel={"endpoint": "/v1/reports/{job_id}", "method": "DELETE"},
        timeout="4h",
        deferrable=True,
    )
    issues = GraphQLOperator(
        task_id="issues",
        http_conn_id="shop_graphql",
        query="""
            query ($first: Int!, $after: String) {
              repository { issues(first: $first, after: $after) {
                nodes { id title }
                pageInfo { hasNextPage endCursor }
              } }
            }
        """,
        page_info_path="repository.issues.pageInfo",
        page_size=100,
        save_to="/data/shop/{{ run_id }}/issues.jsonl",
    )
    close = GraphQLOperator(
        task_id="close",
        http_conn_id="shop_graphql",
        query="mutation ($run: ID!) { closeRun(id: $run) { id closedAt } }",
        variables={"run": "{{ run_id }}"},
        idempotency_key=True,
        select="closeRun.closedAt",
    )
    export_is_there >> report >> issues >> close
