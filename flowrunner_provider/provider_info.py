"""Provider info for Airflow's provider manager, built from the registry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flowrunner_provider import __version__
from flowrunner_provider.registry import CONNECTORS

__all__ = ["get_provider_info"]

_CONNECTIONS = Path(__file__).parent / "flows" / "connections.json"
"""Read as a file, because importing its package would slow down every Airflow process."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "state_path": {
        "description": "Folder of shared rate limits and, before Airflow 3.3, of checkpoints. "
        "Default: flowrunner/ in AIRFLOW_HOME.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/var/lib/airflow/flowrunner",
        "default": "",
    },
    "rate_limit_url": {
        "description": "Redis URL for sharing the rate limits of connections between hosts. Without it, "
        "the processes of each host share them.",
        "version_added": "0.1.0",
        "type": "string",
        "sensitive": True,
        "example": "redis://:password@redis:6379/0",
        "default": "",
    },
}


def _modules(*, sensors: bool) -> list[dict[str, Any]]:
    found = [
        (connector.title, [name for name in connector.operators if name.endswith(".sensors") is sensors])
        for connector in CONNECTORS
    ]
    return [
        {"integration-name": f"FlowRunner {title}", "python-modules": modules} for title, modules in found if modules
    ]


def _triggers() -> list[dict[str, Any]]:
    return [
        {
            "integration-name": f"FlowRunner {connector.title}",
            "python-modules": sorted({path.rpartition(".")[0] for path in connector.watchers}),
        }
        for connector in CONNECTORS
        if connector.watchers
    ]


def get_provider_info() -> dict[str, Any]:
    """Return the provider info (entry point ``apache_airflow_provider``) without importing any connector."""
    integrations = [
        {
            "integration-name": f"FlowRunner {connector.title}",
            "external-doc-url": "https://airflow.apache.org/",
            "tags": ["software"],
        }
        for connector in CONNECTORS
    ]
    return {
        "package-name": "airflow-provider-flowrunner",
        "name": "FlowRunner",
        "description": "Connectors that are safe to retry.",
        "versions": [__version__],
        "integrations": integrations,
        "operators": _modules(sensors=False),
        "sensors": _modules(sensors=True),
        "triggers": _triggers(),
        "connection-types": json.loads(_CONNECTIONS.read_text(encoding="utf-8")),
        "notifications": [path for connector in CONNECTORS for path in connector.notifiers],
        "cli": ["flowrunner_provider.cli.airflow_commands"],
        "config": {"flowrunner": {"description": "The FlowRunner provider.", "options": _OPTIONS}},
    }
