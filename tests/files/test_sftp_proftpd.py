"""The SFTP store keeps the contract on another implementation, too: one that announces no limits."""

from __future__ import annotations

import pytest

from flowrunner_provider.files.stores.sftp import SftpStore
from flowrunner_provider.transport.ssh import SshTarget
from tests.contracts.store_contract import StoreContract
from tests.files.far import Disk
from tests.support.proftpd_sftp import proftpd_sftp

pytestmark = pytest.mark.backend


class TestProftpdSftp(StoreContract):
    @pytest.fixture(scope="class")
    @classmethod
    def server(cls):
        with proftpd_sftp() as server:
            yield server

    @pytest.fixture
    def far(self, server):
        return Disk(server.root())

    @pytest.fixture
    def open_store(self, server):
        target = SshTarget(
            host=server.host, port=server.port, login=server.user, password=server.password,
            host_key=server.host_key, look_for_keys=False,
        )  # fmt: skip
        return lambda: SftpStore(target)
