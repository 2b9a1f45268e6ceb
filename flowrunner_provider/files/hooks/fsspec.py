"""fsspec filesystems, opened like Airflow's object storage does, from connections of any type."""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.config import FsspecConfig
from flowrunner_provider.files.hooks.base import StoreHook
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.boundary import outcome_of
from flowrunner_provider.runtime.hook import connection, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection
    from fsspec import AbstractFileSystem

    from flowrunner_provider.files.stores.fsspec import FsspecStore

__all__ = ["FlowRunnerFsspecHook"]

_NEEDED = "files of an fsspec filesystem"


class FlowRunnerFsspecHook(StoreHook[FsspecConfig]):
    """Opens fsspec filesystems from connections of any type.

    The connection is read by the provider that supports the protocol (its ``get_fs``). Other protocols are opened by
    fsspec itself with the ``storage_options`` from the connection's ``flowrunner`` extra. A connection without
    ``storage_options`` would have no effect there, so it is refused.

    :param conn_id: the Airflow connection; empty for none.
    """

    default_conn_name: ClassVar[str] = ""
    hook_name: ClassVar[str] = "fsspec"
    config_type: ClassVar[type] = FsspecConfig

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return our options only; the provider reads the rest."""
        return options_of(found)

    @cached_property
    def config(self) -> FsspecConfig:
        """The options of the connection; the defaults without one."""
        return self._read(connection(self.conn_id)) if self.conn_id else FsspecConfig()

    async def aload(self) -> None:
        if self.conn_id:
            await super().aload()

    def store(self, location: Location | None = None, *, field: str = "path") -> FsspecStore:
        from flowrunner_provider.files.stores.fsspec import FsspecStore

        if location is None:
            raise ConfigError(
                "an fsspec filesystem needs an address", field=field, remedy="write fsspec+PROTOCOL://conn_id@/"
            )
        config, protocol = self.config, location.scheme.partition("+")[2]
        return FsspecStore(
            lambda: self._filesystem(protocol, dict(config.storage_options), field),
            base=location.host,
            where=location.root.removesuffix("@") if not location.conn_id else location.root,
            timeout=config.timeout,
        )

    def _filesystem(self, protocol: str, options: dict[str, Any], field: str) -> AbstractFileSystem:
        """Blocking."""
        fsspec = load("fsspec", extra="fsspec", needed_for=_NEEDED)
        from airflow.sdk.io import get_fs, has_fs

        # This logger writes every request to Azure at INFO.
        logging.getLogger("azure.core.pipeline.policies.http_logging_policy").setLevel(logging.WARNING)

        if has_fs(protocol):
            opened = outcome_of(lambda: get_fs(protocol, self.conn_id or None, options or None))
        elif self.conn_id and not options:
            raise ConfigError(
                f"no installed provider supports {protocol!r}, so the connection {self.conn_id!r} would have no effect",
                field=field,
                remedy="install the provider, or set storage_options in the flowrunner extra of the connection",
            )
        else:
            opened = outcome_of(lambda: fsspec.filesystem(protocol, **options))
        if isinstance(opened, FlowRunnerError):
            raise ConfigError(
                f"the filesystem {protocol!r} cannot be opened: {opened.message}",
                field=field,
                remedy="install the package that the message names, or correct the connection",
            ) from opened
        return opened

    def check(self) -> str:
        """List the test folder with the protocol of the connection type."""
        config = self.config
        protocol = _PROTOCOLS.get(connection(self.conn_id).conn_type or "", "")
        if not protocol:
            raise ConfigError(
                f"the type of connection {self.conn_id!r} does not determine a protocol",
                field="conn_type",
                remedy="test it with files.list and the path fsspec+PROTOCOL://conn_id@/",
            )

        async def list_folder() -> str:
            location = Location(scheme=f"fsspec+{protocol}", conn_id=self.conn_id, path=config.test_folder)
            async with self.store(location) as store:
                found = 0
                async for _ in store.list(config.test_folder):
                    found += 1
                return f"The filesystem {protocol} answers; {config.test_folder} has {found} entries."

        return asyncio.run(list_folder())


_PROTOCOLS = {
    "adls": "abfs",
    "azure_data_lake": "adl",
    "aws": "s3",
    "ftp": "ftp",
    "google_cloud_platform": "gs",
    "msgraph": "msgd",
    "sftp": "sftp",
    "ssh": "sftp",
    "wasb": "abfs",
}
"""The protocol of each connection type whose provider supports fsspec."""
