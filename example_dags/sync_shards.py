"""Sync a large folder to the lake with several workers; files are deleted only after all workers have finished."""

from __future__ import annotations

import pendulum
from airflow.sdk import DAG

from flowrunner_provider.files.operators import FileSyncFinishOperator, FileSyncPlanOperator, FileSyncShardOperator
from flowrunner_provider.files.task_groups import sync_task_group

IMAGES = {"source": "sftp://partner@/images/", "dest": "/data/images", "plan_path": "s3://lake@plans/"}

with DAG(
    dag_id="sync_shards",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["flowrunner", "files"],
):
    # plan runs in parallel with shard[0..7], which copy while it still lists; finish runs last. Any workers will do.
    # A shard that waits for the plan waits in the triggerer.
    sync_task_group(
        source="sftp://partner@/measurements/",
        dest="s3://lake@raw/measurements/",
        shards=8,
        compare="checksum",
        delete_extra=True,
        max_deletes=500,
        wave_size=5_000,
        deferrable=True,
        pool="partner_sftp",
    )

with DAG(
    dag_id="sync_shards_by_hand",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["flowrunner", "files"],
):
    # The same tasks, declared one by one: the shards run in different queues and start when the plan is complete.
    plan = FileSyncPlanOperator(task_id="plan", shards=2, **IMAGES)
    near = FileSyncShardOperator(task_id="near", shard=0, queue="near", **IMAGES)
    far = FileSyncShardOperator(task_id="far", shard=1, queue="far", **IMAGES)
    finish = FileSyncFinishOperator(task_id="finish", **IMAGES)

    plan >> [near, far] >> finish
