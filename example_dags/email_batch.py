"""Send one personal mail to every customer in a file, with a report of each delivery."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.email.operators import EmailBatchOperator, EmailValidateOperator

with DAG(
    dag_id="email_batch",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "email"],
):
    checked = EmailValidateOperator(
        task_id="checked",
        source="/data/out/customers.csv",
        column="email",
        deny_domains=["example.org", "*.invalid"],
        valid="/data/out/customers.valid.csv",
        invalid="/data/out/customers.invalid.csv",
    )

    statements = EmailBatchOperator(
        task_id="statements",
        smtp_conn_id="office_mail",
        recipients="/data/out/customers.valid.csv",
        to="email",
        to_name="name",
        subject="Your statement of {{ day }}",
        html="<p>Dear {{ name }},</p><p>your balance is {{ balance }}.</p>",
        template_context={"day": "{{ ds }}"},
        headers={"List-Unsubscribe": "<https://example.com/unsubscribe/{{ id }}>"},
        attachments=["/data/out/terms.pdf"],
        attachment_column="statement",
        attachment_folder="/data/out/statements",
        report="/data/out/statements.sent.jsonl",
        dead_letter="/data/out/statements.failed.jsonl",
    )

    checked >> statements
