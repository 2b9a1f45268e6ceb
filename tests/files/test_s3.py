"""The S3 store keeps the contract on Ceph's gateway and on moto, and tells its errors apart."""

from __future__ import annotations

import pytest

from tests.contracts.store_contract import StoreContract
from tests.files.s3 import Bucket, store_of

pytestmark = pytest.mark.backend


class TestCeph(StoreContract):
    @pytest.fixture
    def far(self, rgw):
        return Bucket(rgw)

    @pytest.fixture
    def open_store(self, rgw):
        return lambda: store_of(rgw.endpoint)


class TestMoto(StoreContract):
    @pytest.fixture
    def far(self, moto):
        return Bucket(moto)

    @pytest.fixture
    def open_store(self, moto):
        return lambda: store_of(moto.endpoint, conditional_writes=True)
