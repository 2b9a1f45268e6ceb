"""Servers of the transport tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.oidc import Idp, idp


@pytest.fixture(scope="session", name="idp")
def idp_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Idp]:
    """A real OAuth 2.0 / OpenID Connect server."""
    with idp(tmp_path_factory.mktemp("idp")) as server:
        yield server
