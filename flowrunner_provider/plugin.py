"""The Airflow plugin: loaded by every Airflow process, so it stays light."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin

__all__ = ["FlowRunnerPlugin"]


class FlowRunnerPlugin(AirflowPlugin):
    """Registers what Airflow can only learn from a plugin; pages, links and timetables join here."""

    name = "flowrunner"
