"""Save the attachments of invoice mails, each once, and archive a mail only after its files are saved."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher

from flowrunner_provider.email.operators import MailOrganizeOperator, MailReadOperator
from flowrunner_provider.email.sensors import MailMessageSensor
from flowrunner_provider.email.triggers import MailMessageTrigger

INVOICE = {"from": "billing@example.com", "subject": "Invoice", "unseen": True}

orders_inbox = Asset(
    "orders_inbox",
    watchers=[
        AssetWatcher(
            name="orders",
            trigger=MailMessageTrigger(imap_conn_id="orders_mailbox", attachment_pattern="*.csv", name="orders_inbox"),
        )
    ],
)

with DAG(
    dag_id="mailbox_invoices",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "email"],
):
    arrived = MailMessageSensor(
        task_id="arrived",
        imap_conn_id="accounting_mailbox",
        search=INVOICE,
        attachment_pattern="*.pdf",
        deferrable=True,
    )

    invoices = MailReadOperator(
        task_id="invoices",
        imap_conn_id="accounting_mailbox",
        search=INVOICE,
        save_attachments_to="sftp://archive@/invoices/{{ ds }}",
        attachment_pattern="*.pdf",
        after="move",
        target_folder="Invoices/Read",
        create_target=True,
    )

    tidy = MailOrganizeOperator(
        task_id="tidy",
        imap_conn_id="accounting_mailbox",
        operation="archive",
        search={"from": "noreply@example.com", "before": "{{ ds }}"},
        missing_ok=True,
    )

    arrived >> invoices >> tidy

with DAG(
    dag_id="mailbox_orders",
    schedule=[orders_inbox],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "email"],
):
    MailReadOperator(
        task_id="orders",
        imap_conn_id="orders_mailbox",
        search={"unseen": True, "has_attachment": True},
        save_attachments_to="/data/orders",
        after="mark_seen",
        missing_ok=True,  # several events may have started one run
    )
