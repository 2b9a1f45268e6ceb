"""Who is let in, and what is said when nobody is."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    HostKeyMismatch,
    MissingCredential,
    TimedOut,
)
from flowrunner_provider.transport.ssh import CIPHERS, SshTarget, connect, start_sftp
from tests.files.conftest import target_of
from tests.support.chaos_proxy import Toxics
from tests.support.servers import free_port

pytestmark = pytest.mark.backend

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"


def enter(target: SshTarget) -> str:
    """Log in and ask for the home folder; returns the cipher."""

    async def body() -> str:
        async with asyncio.timeout(20), connect(target) as connection:
            client = await start_sftp(connection, 5)
            assert await client.realpath(".")
            return str(connection.get_extra_info("send_cipher"))

    return asyncio.run(body())


def fingerprint(sshd) -> str:
    return subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=sshd.host_key, capture_output=True, text=True, check=True
    ).stdout.split()[1]


def test_a_target_does_not_show_its_secrets():
    target = SshTarget(host="h", password="canary-1", private_key="canary-2", passphrase="canary-3")
    assert "canary" not in repr(target)


def test_the_fast_cipher_is_taken(sshd):
    assert enter(target_of(sshd)) == CIPHERS[0]


def test_known_hosts_file(sshd, tmp_path):
    (tmp_path / "known").write_text(sshd.known_hosts_line + "\n")
    enter(target_of(sshd, host_key=None, known_hosts=str(tmp_path / "known")))


def test_private_key_as_text(sshd):
    enter(target_of(sshd, key_file=None, private_key=sshd.key_file.read_text()))


def test_an_unknown_host_shows_the_key_to_add(sshd, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        enter(target_of(sshd, host_key=None))
    assert caught.value.field == "host_key"
    assert fingerprint(sshd) in str(caught.value)
    assert sshd.host_key in caught.value.remedy


def test_another_key_than_the_known_one(sshd):
    with pytest.raises(HostKeyMismatch) as caught:
        enter(target_of(sshd, host_key=OTHER_KEY))
    assert fingerprint(sshd) in str(caught.value)


def test_a_key_of_another_type_than_the_known_one(sshd, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(tmp_path / "rsa")], check=True)
    rsa = " ".join((tmp_path / "rsa.pub").read_text().split()[:2])
    with pytest.raises(HostKeyMismatch):
        enter(target_of(sshd, host_key=rsa))


def test_a_missing_known_hosts_file(sshd):
    with pytest.raises(ConfigError, match="known_hosts"):
        enter(target_of(sshd, host_key=None, known_hosts="/nowhere/known_hosts"))


def test_no_check_is_honoured_and_warned_about(sshd, caplog):
    enter(target_of(sshd, host_key=None, verify_host_key=False))
    assert "not verified" in caplog.text


def test_a_wrong_key_is_refused_with_the_methods_tried(sshd, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")], check=True)
    with pytest.raises(AccessDenied, match="the key of the connection, password"):
        enter(target_of(sshd, key_file=str(tmp_path / "key"), password="s3cret-canary"))


def test_a_wrong_password_is_not_shown(sshd):
    with pytest.raises(AccessDenied) as caught:
        enter(target_of(sshd, key_file=None, look_for_keys=False, password="s3cret-canary"))
    assert "s3cret" not in str(caught.value)


def test_no_byte_of_a_credential_goes_to_an_unknown_host(sshd, tmp_path, monkeypatch):
    log = sshd.server.log
    before = log.read_text()
    with pytest.raises(HostKeyMismatch):
        enter(target_of(sshd, host_key=OTHER_KEY, key_file=None, look_for_keys=False, password="s3cret-canary"))
    assert "Failed password" not in log.read_text()[len(before) :]


@pytest.mark.parametrize(
    "key", ["not a key", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----"]
)
def test_a_damaged_private_key(sshd, key):
    with pytest.raises(MissingCredential) as caught:
        enter(target_of(sshd, key_file=None, private_key=key))
    assert caught.value.field == "private_key"


def test_an_encrypted_key_needs_its_passphrase(sshd, tmp_path):
    key = tmp_path / "key"
    key.write_text(sshd.key_file.read_text())
    key.chmod(0o600)
    subprocess.run(["ssh-keygen", "-q", "-p", "-N", "secret words", "-f", str(key)], check=True)
    with pytest.raises(MissingCredential):
        enter(target_of(sshd, key_file=str(key)))
    enter(target_of(sshd, key_file=str(key), passphrase="secret words"))


def test_a_key_file_that_is_not_there(sshd):
    with pytest.raises(MissingCredential, match="key file"):
        enter(target_of(sshd, key_file="/nowhere/key"))


def test_nobody_listens():
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        enter(SshTarget(host="127.0.0.1", port=free_port(), verify_host_key=False, look_for_keys=False))


def test_a_server_that_accepts_and_says_nothing(sshd, chaos):
    proxy = chaos(sshd.host, sshd.port)
    proxy.toxics = Toxics(blackhole_down=True)
    with pytest.raises((TimedOut, ConnectionLost)):
        enter(target_of(sshd, port=proxy.port, connect_timeout=0.5, login_timeout=0.5))


def test_a_bad_cipher_is_a_matter_of_configuration(sshd):
    with pytest.raises(ConfigError):
        enter(target_of(sshd, ciphers=("rot13",)))
