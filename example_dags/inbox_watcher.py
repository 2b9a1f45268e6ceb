"""Start a DAG as soon as a file in a partner's folder is complete: once per file, without a polling worker."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG, Asset, AssetWatcher, task

from flowrunner_provider.files.operators import FileCopyOperator
from flowrunner_provider.files.triggers import FileArrivedTrigger

inbox = Asset(
    "partner_inbox",
    watchers=[
        AssetWatcher(
            name="partner_inbox",
            trigger=FileArrivedTrigger(
                path="sftp://partner@/out/*.csv", stable_for="30s", poll_interval="30s", name="partner_inbox"
            ),
        )
    ],
)

with DAG(
    dag_id="inbox_watcher",
    schedule=[inbox],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "files"],
):

    @task
    def arrived(triggering_asset_events: dict | None = None) -> list[str]:
        """The files of all events that have started this run; an event that was told twice counts once."""
        events = [event for some in (triggering_asset_events or {}).values() for event in some]
        told = {event.extra["payload"]["id"]: event.extra["payload"]["files"] for event in events}
        return [file["path"] for files in told.values() for file in files]

    FileCopyOperator.partial(task_id="fetch", dest="/data/inbox/").expand(source=arrived())
