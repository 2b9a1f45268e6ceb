"""The ``[flowrunner]`` section of Airflow's configuration, and the folder that it names."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk.configuration import conf

__all__ = ["rate_limit_url", "state_path"]

SECTION = "flowrunner"


def state_path() -> Path:
    """The folder for rate limits and, before Airflow 3.3, for checkpoints.

    ``[flowrunner] state_path``; by default ``$AIRFLOW_HOME/flowrunner``. Workers on several hosts
    that share checkpoints before Airflow 3.3 need a shared folder here.
    """
    configured = conf.get(SECTION, "state_path", fallback="")
    if configured:
        return Path(configured)
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "flowrunner"


def rate_limit_url() -> str:
    """``[flowrunner] rate_limit_url``: a Redis URL that shares rate limits between hosts, or empty."""
    return str(conf.get(SECTION, "rate_limit_url", fallback="") or "")
