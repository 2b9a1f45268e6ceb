"""Send a report with a template and an attachment; a retry mails nobody twice."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.email.operators import EmailSendOperator

with DAG(
    dag_id="email_actions",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "email"],
):
    summary = EmailSendOperator(
        task_id="summary",
        smtp_conn_id="office_mail",
        to=["Sales <sales@example.com>", '"Doe, John" <john@example.com>'],
        cc="archive@example.com",
        subject="Orders of {{ ds }}",
        html="<h1>Orders of {{ ds }}</h1><p>The file is attached.</p>",
        attachments=["/data/out/orders-{{ ds }}.csv"],
    )

    reminder = EmailSendOperator(
        task_id="reminder",
        smtp_conn_id="office_mail",
        to="team@example.com",
        subject="Please check the orders of {{ ds }}",
        text="The orders of {{ ds }} wait for you.\n",
        on_unknown="resend",  # a second copy of a reminder does no harm
    )

    review = EmailSendOperator(
        task_id="review",
        smtp_conn_id="office_mail",
        to=["Sales <sales@example.com>"],
        subject="Review of the orders of {{ ds }}",
        text="Let us look at the numbers together.\n",
        attachments=["s3://lake@reports/{{ ds }}/*.pdf"],  # from any store; their sizes are checked first
        invitation={
            "start": "{{ data_interval_end.add(days=1).isoformat() }}",
            "end": "{{ data_interval_end.add(days=1, minutes=30).isoformat() }}",
            "location": "Room 7",
        },
    )

    summary >> reminder >> review
