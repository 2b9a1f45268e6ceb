"""The FTP store keeps the contract on real servers: in clear, with explicit and with implicit TLS, with and without
MLSD.
"""

from __future__ import annotations

import pytest

from flowrunner_provider.files.stores.ftp import FtpStore
from tests.contracts.store_contract import StoreContract
from tests.files.far import Disk
from tests.files.ftp_targets import proftpd_target, vsftpd_target

pytestmark = pytest.mark.backend


class Proftpd(StoreContract):
    security = "plain"

    @pytest.fixture
    def far(self, proftpd):
        return Disk(proftpd.root())

    @pytest.fixture
    def open_store(self, proftpd, tls):
        return lambda: FtpStore(proftpd_target(proftpd, tls, self.security))


class TestFtp(Proftpd):
    pass


class TestFtpsExplicit(Proftpd):
    security = "explicit"


class TestFtpsImplicit(Proftpd):
    security = "implicit"


class TestVsftpd(StoreContract):
    """Lists by LIST, SIZE and MDTM; every data connection must resume the TLS session."""

    @pytest.fixture
    def far(self, vsftpd):
        return Disk(vsftpd.root())

    @pytest.fixture
    def open_store(self, vsftpd, tls):
        return lambda: FtpStore(vsftpd_target(vsftpd, tls, "explicit"))
