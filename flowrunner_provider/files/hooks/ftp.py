"""FTP and FTPS servers from ``ftp`` connections."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.hooks.base import StoreHook
from flowrunner_provider.files.stores.ftp import FtpStore
from flowrunner_provider.files.stores.ftp_config import FtpConfig
from flowrunner_provider.files.uri import Location
from flowrunner_provider.runtime.hook import extra_of, options_of

if TYPE_CHECKING:
    from airflow.sdk import Connection

__all__ = ["FlowRunnerFtpHook"]

_log = logging.getLogger("flowrunner.ftp")
_FALSE = ("false", "0", "no", "off")


class FlowRunnerFtpHook(StoreHook[FtpConfig]):
    """Opens FTP servers from ``ftp`` connections; ``ftps://`` addresses use TLS.

    It reads the fields and extras of the official provider.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "ftp_conn_id"
    default_conn_name: ClassVar[str] = "ftp_default"
    conn_type: ClassVar[str] = "ftp"
    hook_name: ClassVar[str] = "FTP"
    config_type: ClassVar[type] = FtpConfig
    reads: ClassVar[tuple[str, ...]] = ("ftp", "ftps")

    @classmethod
    def values(cls, found: Connection) -> dict[str, Any]:
        """Return the standard fields, the official extras and our options."""
        extra, values = extra_of(found), super().values(found)
        if extra.get("passive") is not None:
            values["passive"] = str(extra["passive"]).strip().lower() not in _FALSE
        if extra.get("encoding"):
            values["encoding"] = extra["encoding"]
        return {**values, **options_of(found)}

    def store(self, location: Location | None = None, *, field: str = "path") -> FtpStore:
        config, scheme = self.config, location.scheme if location else self._scheme()
        if location is not None:
            self.refuse_other_host(location, config.host, field)
        if scheme == "ftp" and self._scheme() == "ftps":
            raise ConfigError(
                f"the connection {self.conn_id!r} requires TLS, and ftp:// would send its password in clear text",
                field=field,
                remedy=f"write ftps://{self.conn_id}@/path",
            )
        if scheme == "ftps" and not config.verify:
            _log.warning(
                "The certificate of %s is not verified (verify=false): anyone could impersonate the server", config.host
            )
        return FtpStore(config.target(tls=scheme == "ftps"), where=f"{scheme}://{self.conn_id}@")

    def _scheme(self) -> str:
        """Return the scheme that the connection itself implies."""
        return "ftps" if self.config.tls or self.config.tls_at_once else "ftp"

    def check(self) -> str:
        """Connect, log in and list the test folder (default: the home folder of the login)."""
        config = self.config

        async def list_folder() -> str:
            async with self.store() as store:
                listing = store.list(config.test_folder)
                try:
                    await anext(listing, None)
                finally:
                    await listing.aclose()  # type: ignore[attr-defined]
                able = store.capabilities
                missing = [
                    text
                    for has, text in (
                        (able.atomic_replace, "replace a file atomically (readers may briefly find no file)"),
                        (able.sets_modified, "set modification times"),
                        (able.ranged_read, "resume downloads"),
                    )
                    if not has
                ]
                how = "with TLS" if self._scheme() == "ftps" else "without TLS"
                cannot = f" It cannot {', nor '.join(missing)}." if missing else ""
                return f"Logged in to {config.host}:{config.port} {how} and listed {config.test_folder}.{cannot}"

        return asyncio.run(list_folder())
