"""Mail the orders of the day: as a table in the mail, and as an Excel file."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.reports.operators import SqlToEmailOperator

with DAG(
    dag_id="sql_report",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "email", "sql"],
):
    SqlToEmailOperator(
        task_id="orders",
        conn_id="warehouse",
        sql="SELECT region, count(*) AS orders, sum(total) AS total FROM orders WHERE day = %(day)s GROUP BY region",
        parameters={"day": "{{ ds }}"},
        smtp_conn_id="office_mail",
        to=["Sales <sales@example.com>"],
        subject="Orders of {{ ds }}",
        html="<p>Good morning, these are the orders of {{ ds }}.</p>",
        threshold=50,  # more rows are attached as a CSV file
        skip_if_empty=True,
    )

    SqlToEmailOperator(
        task_id="details",
        conn_id="warehouse",
        sql="SELECT * FROM orders WHERE day = %(day)s ORDER BY id",
        parameters={"day": "{{ ds }}"},
        smtp_conn_id="office_mail",
        to="controlling@example.com",
        subject="All orders of {{ ds }}",
        format="xlsx",
        attachment_name="orders-{{ ds }}",
    )
