"""SFTP for these tests: the target of the real server, and servers that are set up otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

import pytest

from flowrunner_provider.transport.ssh import SshTarget

if TYPE_CHECKING:
    from tests.support.sshd import Sshd


def target_of(server: Sshd, **more: object) -> SshTarget:
    """The server and the credentials that it accepts."""
    given = {"host": server.host, "port": server.port, "login": server.user, "key_file": str(server.key_file)}
    return SshTarget(**{**given, "host_key": server.host_key, **more})  # type: ignore[arg-type]


@pytest.fixture
def special_sshd(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], AbstractContextManager[Sshd]]:
    """``special_sshd("-R")``: a server whose internal-sftp has these options."""
    from tests.support import sshd as module

    @contextmanager
    def start(options: str) -> Iterator[Sshd]:
        config = module.CONFIG.replace("ForceCommand internal-sftp", f"ForceCommand internal-sftp {options}")
        monkeypatch.setattr(module, "CONFIG", config)
        with module.sshd() as server:
            yield server

    return start
