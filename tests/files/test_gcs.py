"""The Google Cloud Storage store keeps the contract on community emulators, and tells its errors apart."""

from __future__ import annotations

import pytest

from flowrunner_provider.files.config import GcsConfig
from flowrunner_provider.files.stores.gcs import GcsStore
from tests.contracts.store_contract import StoreContract

pytestmark = pytest.mark.backend


class TestGcs(StoreContract):
    @pytest.fixture
    def far(self, fake_gcs):
        return fake_gcs.bucket()

    @pytest.fixture
    def open_store(self, fake_gcs, far):
        config = GcsConfig(is_anonymous=True, endpoint_url=fake_gcs.url, part_size=1)
        return lambda: GcsStore(config, far.name)
