"""Differences between the supported Airflow versions; the only module that checks the version."""

from __future__ import annotations

from typing import Any

import airflow.sdk.log
from airflow import __version__ as _airflow_version
from packaging.version import Version

__all__ = ["AIRFLOW_V_3_3_PLUS", "amask_secret"]

AIRFLOW_V_3_3_PLUS: bool = Version(Version(_airflow_version).base_version) >= Version("3.3.0")
"""Retry policies and state stores are available."""


async def amask_secret(secret: str) -> None:
    """Call Airflow's ``amask_secret``, or ``mask_secret`` where it does not exist."""
    log: Any = airflow.sdk.log
    if hasattr(log, "amask_secret"):
        await log.amask_secret(secret)
    else:
        log.mask_secret(secret)
