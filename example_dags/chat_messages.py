"""Post a Slack message that follows a load, a Teams card and threaded messages, and report failures in Teams."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.chat.notifier import TeamsNotifier
from flowrunner_provider.chat.operators import ChatPostOperator, SlackUpsertOperator, TeamsPostOperator

with DAG(
    dag_id="chat_messages",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "chat"],
    default_args={"on_failure_callback": [TeamsNotifier(teams_conn_id="data_team", language="es")]},
):
    begun = SlackUpsertOperator(
        task_id="begun",
        slack_conn_id="slack_api",
        channel="C0123456789",
        message_key="load-{{ ds }}",
        text=":hourglass: the load of {{ ds }} is running",
    )

    card = TeamsPostOperator(
        task_id="card",
        teams_conn_id="data_team",
        title="Load of {{ ds }}",
        facts={"Run": "{{ run_id }}", "Rows": "12,345"},
        links={"Report": "https://reports.example.com/{{ ds }}"},
        mentions=[{"name": "Ann", "id": "ann@example.com"}],
    )

    thread = ChatPostOperator(
        task_id="thread",
        chat_conn_id="data_space",
        thread_key="loads",
        text="The load of {{ ds }} is done.",
    )

    ended = SlackUpsertOperator(
        task_id="ended",
        slack_conn_id="slack_api",
        channel="C0123456789",
        message_key="load-{{ ds }}",
        text=":white_check_mark: the load of {{ ds }} is done",
    )

    begun >> [card, thread] >> ended
