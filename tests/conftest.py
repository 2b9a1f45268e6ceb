"""Fixtures for all tests: a clean environment, a guard around this machine, and servers on demand.

The environment is set while this file is imported, before anything imports Airflow.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from flowrunner_provider.core.secrets import Redactor

if TYPE_CHECKING:
    from tests.support.azurite import Azurite
    from tests.support.chaos_proxy import ChaosProxy
    from tests.support.dovecot import Dovecot
    from tests.support.fake_gcs import FakeGcs
    from tests.support.http_server import HttpServer
    from tests.support.mariadb import Mariadb
    from tests.support.postgres import Postgres
    from tests.support.proftpd import Proftpd
    from tests.support.redis_server import RedisServer
    from tests.support.rgw import S3Server
    from tests.support.smtp_sink import SmtpSink
    from tests.support.sshd import Sshd
    from tests.support.tls import Tls
    from tests.support.vsftpd import Vsftpd

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:  # --import-mode=importlib does not; killed children import tests by name
    sys.path.insert(0, str(ROOT))

AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="flowrunner-airflow-home-"))
UNWANTED = {
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "FTP_PROXY", "NO_PROXY", "FLOWRUNNER_FAILPOINTS",
}  # fmt: skip

for name in list(os.environ):
    if name.upper() in UNWANTED or name.startswith(("AIRFLOW_", "AIRFLOW__")):
        del os.environ[name]
os.environ["AIRFLOW_HOME"] = str(AIRFLOW_HOME)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
os.environ["AWS_EC2_METADATA_DISABLED"] = "true"

settings.register_profile("default", max_examples=200, deadline=None)
settings.register_profile("nightly", max_examples=5000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_unconfigure() -> None:
    """End the fork server of the kill harness and remove the session's Airflow home."""
    if (kill := sys.modules.get("tests.support.kill")) is not None:
        kill.stop_fork_server()
    shutil.rmtree(AIRFLOW_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def clean_environment() -> Iterator[None]:
    """Every test starts from, and is put back to, the environment of the session."""
    before = dict(os.environ)
    yield
    if dict(os.environ) != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def no_secret_is_known() -> None:
    """What an earlier test has masked is a word as any other; thousands of secrets would also slow each test down."""
    if (masking := sys.modules.get("flowrunner_provider.runtime.masking")) is not None:
        masking._redactor = Redactor()  # type: ignore[attr-defined]
        if (masker := getattr(sys.modules["airflow.sdk.log"], "_secrets_masker", None)) is not None:  # from 3.3 on
            masker().reset_masker()


@pytest.fixture(autouse=True)
def this_machine_only() -> Iterator[None]:
    """A connection to any other machine fails the test, even if the error is swallowed."""
    from tests.support import guard

    guard.install()
    guard.outside.clear()
    yield
    tried = list(guard.outside)
    guard.outside.clear()
    if tried:
        pytest.fail(f"tried to connect to {', '.join(tried)}: that would leave this machine", pytrace=False)


@pytest.fixture
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An ``AIRFLOW_HOME`` of the test's own, for this process and the children that it starts.

    Airflow has read the session's configuration already; what is looked up later, and every process
    that starts afresh, sees this one.
    """
    home = tmp_path / "airflow"
    home.mkdir()
    monkeypatch.setenv("AIRFLOW_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate authority and a certificate for ``localhost`` and ``127.0.0.1``."""
    from tests.support.tls import Tls

    return Tls.create(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A real PostgreSQL; ``postgres.database()`` is a fresh database."""
    from tests.support.postgres import postgres

    with postgres() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def mariadb(tls: Tls) -> Iterator[Mariadb]:
    """A real MariaDB; ``mariadb.database()`` is a fresh database."""
    from tests.support.mariadb import mariadb

    with mariadb(tls) as server:
        yield server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis."""
    from tests.support.redis_server import redis

    with redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def rgw(tmp_path_factory: pytest.TempPathFactory, tls: Tls) -> Iterator[S3Server]:
    """A real S3 server: Ceph's gateway, plain and over TLS."""
    from tests.support.rgw import rgw

    with rgw(tmp_path_factory.mktemp("ceph"), tls) as server:
        yield server


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """moto's S3 server."""
    from tests.support.moto_server import moto

    with moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A real OpenSSH server with SFTP; ``sshd.root()`` is a fresh directory."""
    from tests.support.sshd import sshd

    with sshd() as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azurite]:
    """Microsoft's emulator of Azure Blob Storage; ``azurite.container()`` is a fresh container."""
    from tests.support.azurite import azurite

    with azurite(tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def fake_gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeGcs]:
    """fake-gcs-server; ``fake_gcs.bucket()`` is a fresh bucket."""
    from tests.support.fake_gcs import fake_gcs

    with fake_gcs(tmp_path_factory.mktemp("fake-gcs")) as server:
        yield server


@pytest.fixture(scope="session")
def proftpd(tls: Tls) -> Iterator[Proftpd]:
    """A real ProFTPD; ``proftpd.root()`` is a fresh directory."""
    from tests.support.proftpd import proftpd

    with proftpd(tls) as server:
        yield server


@pytest.fixture(scope="session")
def vsftpd(tls: Tls) -> Iterator[Vsftpd]:
    """A real vsftpd, which has no MLSD; ``vsftpd.root()`` is a fresh directory."""
    from tests.support.vsftpd import vsftpd

    with vsftpd(tls) as server:
        yield server


@pytest.fixture(scope="session")
def dovecot(tls: Tls) -> Iterator[Dovecot]:
    """A real Dovecot: IMAP; ``dovecot.mailbox()`` is a fresh mailbox."""
    from tests.support.dovecot import dovecot

    with dovecot(tls) as server:
        yield server


@pytest.fixture
def smtp_sink(tmp_path: Path) -> Iterator[SmtpSink]:
    """An SMTP server that keeps mail in ``tmp_path / "mail"``; plain, without AUTH."""
    from tests.support.smtp_sink import SmtpSink

    with SmtpSink(tmp_path / "mail") as sink:
        yield sink


@pytest.fixture
def http_server() -> Iterator[HttpServer]:
    """A programmable HTTP server."""
    from tests.support.http_server import HttpServer

    with HttpServer() as server:
        yield server


@pytest.fixture
def chaos() -> Iterator[Callable[[str, int], ChaosProxy]]:
    """``chaos(host, port)``: a chaos proxy in front of a server, stopped with the test."""
    from tests.support.chaos_proxy import ChaosProxy

    with ExitStack() as stack:
        yield lambda host, port: stack.enter_context(ChaosProxy(host, port))
