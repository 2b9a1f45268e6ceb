"""SFTP servers from ``sftp`` and ``ssh`` connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.config import SftpConfig
from flowrunner_provider.files.hooks.base import StoreHook
from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.hook import extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerSftpHook"]


class FlowRunnerSftpHook(StoreHook[SftpConfig]):
    """Opens SFTP servers from ``sftp`` and ``ssh`` connections.

    It reads the fields and extras of the official providers.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "ssh_conn_id"
    default_conn_name: ClassVar[str] = "sftp_default"
    conn_type: ClassVar[str] = "sftp"
    hook_name: ClassVar[str] = "SFTP"
    config_type: ClassVar[type] = SftpConfig
    reads: ClassVar[tuple[str, ...]] = ("sftp", "ssh")

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the standard fields, the official extras and our options."""
        extra = extra_of(found)
        values = super().values(found)
        names = ("key_file", "private_key", "private_key_passphrase", "host_key", "known_hosts", "ciphers")
        values.update({name: extra[name] for name in names if extra.get(name)})
        if not values.get("private_key_passphrase") and extra.get("passphrase"):
            values["private_key_passphrase"] = extra["passphrase"]
        unchecked = extra.get("no_host_key_check", extra.get("ignore_hostkey_verification"))
        if unchecked is not None:
            values["no_host_key_check"] = str(unchecked).lower() == "true"
        if "look_for_keys" in extra:
            values["look_for_keys"] = str(extra["look_for_keys"]).lower() != "false"
        if extra.get("conn_timeout"):
            try:
                values["conn_timeout"] = float(extra["conn_timeout"])
            except (TypeError, ValueError):
                raise ConfigError(
                    f"connection {found.conn_id!r}: conn_timeout is not a number",
                    field="conn_timeout",
                    remedy="write seconds, e.g. 30",
                ) from None
        return {**values, **options_of(found)}

    def store(self, location: Location | None = None, *, field: str = "path") -> SftpStore:
        if location is not None:
            self.refuse_other_host(location, self.config.host, field)
        return SftpStore(self.config.target(), where=f"{location.scheme if location else 'sftp'}://{self.conn_id}@")

    def check(self) -> str:
        """Connect, log in and check the test folder (default: the home folder of the login)."""
        config = self.config

        async def check_folder() -> str:
            async with self.store() as store:
                entry = await store.stat(config.test_folder)
                if not entry.is_dir and not entry.is_link:
                    raise ConfigError(
                        f"{config.test_folder} is not a folder", field="test_folder", remedy="name a folder"
                    )
                replaces = (
                    "replaces files atomically"
                    if store.capabilities.atomic_replace
                    else "cannot replace a file atomically: readers may briefly find no file"
                )
                return f"Logged in to {config.host}:{config.port}; the server {replaces}."

        return asyncio.run(check_folder())
