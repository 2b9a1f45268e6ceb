"""What differs between the Airflow versions that are supported; the only place that asks for them."""

from __future__ import annotations

from airflow import __version__ as _airflow_version
from packaging.version import Version

__all__ = ["AIRFLOW_V_3_3_PLUS"]

AIRFLOW_V_3_3_PLUS: bool = Version(Version(_airflow_version).base_version) >= Version("3.3.0")
"""Retry policies and state stores are there."""
