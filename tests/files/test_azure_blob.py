"""The Azure Blob store keeps the contract on Azurite, Microsoft's emulator, and tells its errors apart."""

from __future__ import annotations

import pytest

from flowrunner_provider.files.config import AzureBlobConfig
from flowrunner_provider.files.stores.azure_blob import AzureBlobStore
from tests.contracts.store_contract import StoreContract

pytestmark = pytest.mark.backend


class TestAzureBlob(StoreContract):
    @pytest.fixture
    def far(self, azurite):
        return azurite.container()

    @pytest.fixture
    def open_store(self, azurite, far):
        config = AzureBlobConfig(connection_string=azurite.connection_string, part_size=1)
        return lambda: AzureBlobStore(config, far.name)
