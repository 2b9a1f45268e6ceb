"""The real FTP servers, as the store takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowrunner_provider.files.stores.ftp import FtpTarget
from tests.support.proftpd import PASSWORD, USER

if TYPE_CHECKING:
    from tests.support.proftpd import Proftpd
    from tests.support.tls import Tls
    from tests.support.vsftpd import Vsftpd


def proftpd_target(server: Proftpd, tls: Tls, security: str = "plain", **more: Any) -> FtpTarget:
    """The server and the credentials that it accepts."""
    given: dict[str, Any] = {
        "host": server.host,
        "port": server.implicit_port if security == "implicit" else server.port,
        "login": USER,
        "password": PASSWORD,
        "security": security,
        "ca_file": str(tls.ca_file),
    }
    return FtpTarget(**{**given, **more})


def vsftpd_target(server: Vsftpd, tls: Tls, security: str = "plain", **more: Any) -> FtpTarget:
    """The server; the login is anonymous."""
    given: dict[str, Any] = {
        "host": server.host,
        "port": server.port,
        "security": security,
        "ca_file": str(tls.ca_file),
    }
    return FtpTarget(**{**given, **more})
