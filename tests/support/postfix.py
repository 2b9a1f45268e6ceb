"""A real Postfix that takes mail over TLS with a login and hands it to Dovecot; nothing can leave this machine.

Root only: Postfix changes users. Sender and recipient are mailboxes of the Dovecot that checks the logins.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.dovecot import Dovecot
from tests.support.servers import HOST, Server, free_port, greets, require

__all__ = ["Postfix", "postfix"]

MAIN = """
compatibility_level = 3.6
queue_directory = {run}/queue
data_directory = {run}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = {host}
inet_protocols = ipv4
myhostname = mx.example.com
mydestination =
mynetworks =
local_transport = error:no local
virtual_mailbox_domains = example.com
virtual_mailbox_maps = static:any
virtual_transport = lmtp:inet:{host}:{lmtp}
default_transport = error:5.1.2 outbound disabled
relay_transport = error:5.1.2 outbound disabled
smtpd_relay_restrictions = permit_sasl_authenticated, reject_unauth_destination
smtpd_recipient_restrictions = check_recipient_access inline:{{
  {{never@example.com=550 5.1.1 no such mailbox}},
  {{later@example.com=451 4.7.1 come again later}} }}
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:{host}:{sasl}
smtpd_tls_cert_file = {run}/cert.pem
smtpd_tls_key_file = {run}/key.pem
smtpd_tls_session_cache_database =
smtputf8_enable = yes
message_size_limit = 40000000
maillog_file = {run}/mail.log
maillog_file_prefixes = /tmp
smtp_host_lookup = native
disable_dns_lookups = yes
smtpd_peername_lookup = no
"""

MASTER = """
{host}:{port} inet n - n - - smtpd
  -o smtpd_tls_security_level=encrypt
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_tls_auth_only=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
{host}:{tls} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
  -o smtpd_sasl_auth_enable=yes
  -o smtpd_client_restrictions=permit_sasl_authenticated,reject
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
lmtp unix - - n - - lmtp
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
showq unix n - n - - showq
"""


@dataclass(frozen=True)
class Postfix:
    """The running server. It refuses ``never@example.com`` for good and ``later@example.com`` for now.

    :param starttls: the submission port.
    :param tls: the port with TLS from the start.
    """

    server: Server
    tls: int

    @property
    def starttls(self) -> int:
        return self.server.port


@contextmanager
def postfix(dovecot: Dovecot) -> Iterator[Postfix]:
    """Run the server for the block."""
    require("/usr/sbin/postfix", apt="postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix runs as root only")
    run = Path(tempfile.mkdtemp(prefix="flowrunner-postfix-", dir="/tmp"))
    run.chmod(0o755)
    etc = run / "etc"
    for folder in (etc, run / "queue", run / "data"):
        folder.mkdir(mode=0o755)
    shutil.chown(run / "data", "postfix")
    for name, source in (("cert.pem", dovecot.tls.cert_file), ("key.pem", dovecot.tls.key_file)):
        shutil.copy(source, run / name)
    tls = free_port()
    ports = {"lmtp": dovecot.ports["lmtp"], "sasl": dovecot.ports["sasl"]}
    (etc / "main.cf").write_text(MAIN.format(run=run, host=HOST, **ports))

    def command(port: int) -> list[str]:
        (etc / "master.cf").write_text(MASTER.format(host=HOST, port=port, tls=tls))
        subprocess.run(["/usr/sbin/postfix", "-c", str(etc), "check"], check=True, timeout=60, capture_output=True)
        return ["env", f"MAIL_CONFIG={etc}", "/usr/lib/postfix/sbin/master", "-c", str(etc), "-d"]

    try:
        with Server("postfix", command, ready=lambda port: greets(port, b"220 "), log=run / "server.log") as server:
            yield Postfix(server, tls)
    finally:
        shutil.rmtree(run, ignore_errors=True)
