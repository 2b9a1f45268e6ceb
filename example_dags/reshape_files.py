"""Convert a large file to UTF-8, split it, process the parts in parallel, and join them again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, task

from flowrunner_provider.files.operators import (
    FileConcatOperator,
    FileCopyOperator,
    FileEncodingOperator,
    FileSplitOperator,
)


@task
def addresses(split: dict[str, Any]) -> list[str]:
    """The parts, to be mapped over."""
    return list(split["parts"])


with DAG(
    dag_id="reshape_files",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    tags=["flowrunner", "files"],
):
    readable = FileEncodingOperator(
        task_id="readable",
        source="sftp://partner@/out/orders-{{ ds }}.csv",
        dest="/data/incoming/{{ ds }}/orders.csv",
        fallback_encoding="cp1252",
        newline="lf",
    )
    parts = FileSplitOperator(
        task_id="parts",
        source="/data/incoming/{{ ds }}/orders.csv",
        dest="/data/parts/{{ ds }}/",
        by="count",
        size=8,
        keep_header=True,
    )
    work = FileCopyOperator.partial(task_id="work", dest="/data/done/{{ ds }}/").expand(source=addresses(parts.output))
    joined = FileConcatOperator(
        task_id="joined",
        source="/data/done/{{ ds }}/orders-*.csv",
        dest="sftp://partner@/in/orders-{{ ds }}.csv",
        skip_header_after_first=True,
    )
    readable >> parts
    work >> joined
