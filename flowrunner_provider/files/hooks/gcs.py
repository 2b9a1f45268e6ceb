"""Google Cloud Storage from ``google_cloud_platform`` connections."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.hooks.bucket import BucketHook
from flowrunner_provider.runtime.hook import options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from flowrunner_provider.files.stores.gcs import GcsStore

__all__ = ["FlowRunnerGcsHook"]

_UNSUPPORTED = ("key_secret_name", "key_secret_project_id", "idp_issuer_url")


class FlowRunnerGcsHook(BucketHook[GcsConfig]):
    """Opens Google Cloud Storage buckets from ``google_cloud_platform`` connections.

    It reads the extras of the official provider but does not need that provider, whose package installs more than a
    hundred others. Credentials come from google-auth, with or without the official provider installed.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "gcp_conn_id"
    default_conn_name: ClassVar[str] = "google_cloud_default"
    conn_type: ClassVar[str] = "google_cloud_platform"
    hook_name: ClassVar[str] = "Google Cloud Storage"
    config_type: ClassVar[type] = GcsConfig
    scheme: ClassVar[str] = "gs"
    reads: ClassVar[tuple[str, ...]] = ("google_cloud_platform", "gcpstorage")

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the official extras (with or without their old prefix) and our options."""
        given = cls.official(found)
        if known := [name for name in _UNSUPPORTED if given.get(name)]:
            raise ConfigError(
                f"connection {found.conn_id!r}: {known[0]} is not supported",
                field=known[0],
                remedy="set key_path or keyfile_dict, or let the worker's identity impersonate the account",
            )
        values = {name: given[name] for name in ("key_path", "scope", "project") if given.get(name)}
        if keyfile := given.get("keyfile_dict"):
            values["keyfile_dict"] = keyfile if isinstance(keyfile, str) else json.dumps(keyfile)
        if external := given.get("credential_config_file"):
            values |= _external(external)
        if chain := given.get("impersonation_chain"):
            names = chain.split(",") if isinstance(chain, str) else chain
            values["impersonation_chain"] = [str(name).strip() for name in names]
        if "is_anonymous" in given:
            values["is_anonymous"] = str(given["is_anonymous"]).lower() == "true"
        return {**values, **options_of(found)}

    def bucket(self, name: str, where: str) -> GcsStore:
        from flowrunner_provider.files.stores.gcs import GcsStore

        return GcsStore(self.config, name, where=where)

    async def describe_account(self) -> str:
        from flowrunner_provider.files.stores.gcs import buckets

        return await buckets(self.config)


def _external(config: Any) -> dict[str, Any]:
    """Return the option for a workload identity federation config, which is a path or JSON."""
    if isinstance(config, dict):
        return {"keyfile_dict": json.dumps(config)}
    text = str(config)
    return {"keyfile_dict" if text.lstrip().startswith("{") else "key_path": text}
