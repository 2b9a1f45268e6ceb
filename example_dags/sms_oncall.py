"""Page the person on call when a load fails, and text customers and wait for delivery."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.sms.notifier import SmsNotifier
from flowrunner_provider.sms.operators import SmsSendOperator
from flowrunner_provider.sms.sensors import SmsDeliverySensor

with DAG(
    dag_id="sms_oncall",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "sms"],
    default_args={"on_failure_callback": [SmsNotifier(sms_conn_id="oncall_sms", to=["+14155550123"])]},
):
    told = SmsSendOperator(
        task_id="told",
        sms_conn_id="customer_sms",
        to="/data/out/customers.csv",
        to_column="mobile",
        body="Dear {item.name}, your order of {{ ds }} is on its way.",
        rate_limit="10/second",
        on_unknown="stop",
    )

    arrived = SmsDeliverySensor(
        task_id="arrived",
        sms_conn_id="customer_sms",
        message_ids="{{ ti.xcom_pull(task_ids='told')['message_ids'] }}",
        success_states=["sent", "delivered"],
        timeout="2h",
        deferrable=True,
    )

    told >> arrived
