"""The ``[flowrunner]`` section of Airflow's configuration."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk.configuration import conf

__all__ = ["rate_limit_url", "state_path"]

SECTION = "flowrunner"


def state_path() -> Path:
    """Return the folder for rate limits and, before Airflow 3.3, for checkpoints.

    It is ``[flowrunner] state_path``; by default ``$AIRFLOW_HOME/flowrunner``. Before Airflow 3.3, workers on several
    hosts need a shared folder here to resume each other's checkpoints.
    """
    configured = conf.get(SECTION, "state_path", fallback="")
    if configured:
        return Path(configured)
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "flowrunner"


def rate_limit_url() -> str:
    """Return ``[flowrunner] rate_limit_url``: a Redis URL that shares rate limits between hosts, or empty."""
    return str(conf.get(SECTION, "rate_limit_url", fallback="") or "")
