"""A real Dovecot: IMAP with TLS, STARTTLS and in clear text, LMTP to put mail in, SASL for Postfix.

Every mailbox exists as soon as it is named: any login ``<name>@example.com`` with :data:`PASSWORD` is one, kept as
a maildir that the tests read themselves. With ``introspection`` tokens of a real OAuth server are good, too.
"""

from __future__ import annotations

import grp
import imaplib
import json
import os
import pwd
import shutil
import ssl
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.support.servers import HOST, Server, free_port, greets, require
from tests.support.tls import Tls

__all__ = ["PASSWORD", "Dovecot", "Mailbox", "dovecot"]

PASSWORD = "canary-Imap-Pa55-7f3e"

CONFIG = """
base_dir = {run}/dv
state_dir = {run}/state
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
protocols = imap lmtp
listen = {host}
log_path = {run}/server.log
ssl = yes
ssl_cert = <{cert}
ssl_key = <{key}
disable_plaintext_auth = no
auth_mechanisms = {mechanisms}
auth_failure_delay = 0
first_valid_uid = 1
mail_location = maildir:{run}/mail/%u
mail_max_userip_connections = 200
{capability}
{oauth}
passdb {{
  driver = static
  args = password={password}
}}
userdb {{
  driver = static
  args = uid={uid} gid={gid} home={run}/mail/%u
}}
service imap-login {{
  chroot =
  process_min_avail = 1
  service_count = 0
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = {imaps}
    ssl = yes
  }}
}}
service auth {{
  inet_listener {{
    port = {sasl}
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp}
  }}
}}
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
"""

OAUTH = """
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {run}/oauth2.ext
}}
"""


@dataclass
class Mailbox:
    """One user's mailbox, as an independent client and as files; it is picklable."""

    directory: Path
    ports: dict[str, int]
    ca_file: Path
    login: str

    @property
    def maildir(self) -> Path:
        return self.directory / "mail" / self.login

    def client(self) -> imaplib.IMAP4:
        """The standard library's client, logged in, in clear text."""
        client = imaplib.IMAP4(HOST, self.ports["imap"], timeout=20)
        client.login(self.login, PASSWORD)
        return client

    def put(self, *messages: EmailMessage | bytes, folder: str = "INBOX", flags: str = "", date: str = "") -> None:
        """Append messages; the folder is made."""
        with self.client() as client:
            if folder != "INBOX":
                client.create(folder)
            for message in messages:
                data = message if isinstance(message, bytes) else message.as_bytes()
                when = f'"{date}"' if date else None
                data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                answer, text = client.append(folder, flags or None, when, data)  # type: ignore[arg-type]
                assert answer == "OK", text

    def uids(self, folder: str = "INBOX", criteria: str = "ALL") -> list[int]:
        with self.client() as client:
            answer, _ = client.select(folder, readonly=True)
            if answer != "OK":
                return []
            return [int(uid) for uid in client.uid("SEARCH", criteria)[1][0].split()]  # type: ignore[no-untyped-call]

    def message_ids(self, folder: str = "INBOX", criteria: str = "ALL") -> list[str]:
        """The Message-IDs of a folder, sorted."""
        found = []
        with self.client() as client:
            if client.select(folder, readonly=True)[0] != "OK":
                return []
            for uid in client.uid("SEARCH", criteria)[1][0].split():  # type: ignore[no-untyped-call]
                data: Any = client.uid("FETCH", uid, "(BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])")[1]  # type: ignore[no-untyped-call]
                found.append(data[0][1].decode().partition(":")[2].strip())
        return sorted(found)

    def remove(self, *uids: int, folder: str = "INBOX") -> None:
        """As another client would."""
        with self.client() as client:
            client.select(folder)
            for uid in uids:
                client.uid("STORE", str(uid), "+FLAGS", "(\\Deleted)")  # type: ignore[no-untyped-call]
            client.expunge()

    def renumber(self) -> None:
        """Give the INBOX another UIDVALIDITY and its messages other UIDs, as after a restore from a backup."""
        listing = self.maildir / "dovecot-uidlist"
        version, *_ = listing.read_text().splitlines()
        fields = version.split()
        fields[1] = f"V{int(fields[1][1:]) + 1}"
        fields[2] = "N501"
        names = sorted(path.name for place in ("cur", "new") for path in (self.maildir / place).iterdir())
        lines = [f"{number} :{name.partition(':')[0]}" for number, name in enumerate(reversed(names), 401)]
        listing.write_text("\n".join([" ".join(fields), *lines, ""]))
        for index in self.maildir.glob("dovecot.index*"):
            index.unlink()

    def connection(self, conn_id: str = "mailbox", *, security: str = "tls", **more: Any) -> None:
        """Define the connection for this process and its children."""
        options = {"ca_file": str(self.ca_file), **more.pop("options", {})}
        if security != "tls":
            options["security"] = security
        value = {
            "conn_type": "imap",
            "host": "127.0.0.1",
            "port": self.ports["imaps" if security == "tls" else "imap"],
            "login": self.login,
            "password": PASSWORD,
            **more,
        }
        value["extra"] = {**value.get("extra", {}), "flowrunner": options}
        os.environ[f"AIRFLOW_CONN_{conn_id.upper()}"] = json.dumps(value)


@dataclass
class Dovecot:
    """The running server."""

    directory: Path
    tls: Tls
    ports: dict[str, int]
    server: Server

    def mailbox(self, login: str = "") -> Mailbox:
        """A mailbox; a fresh one without a name."""
        return Mailbox(self.directory, self.ports, self.tls.ca_file, login or f"u{uuid.uuid4().hex[:12]}@example.com")

    def context(self) -> ssl.SSLContext:
        return self.tls.client_context()


@contextmanager
def dovecot(tls: Tls, *, introspection: str = "", capability: str = "") -> Iterator[Dovecot]:
    """Run the server for the block.

    :param introspection: the address, with credentials, at which it asks whether a token is good.
    :param capability: what it says that it can do, instead of everything.
    """
    program = require("/usr/sbin/dovecot", apt="dovecot-imapd dovecot-lmtpd")
    require("/usr/lib/dovecot/lmtp", apt="dovecot-imapd dovecot-lmtpd")
    directory = Path(tempfile.mkdtemp(prefix="flowrunner-dovecot-", dir="/tmp"))  # short: it holds sockets
    directory.chmod(0o755)
    user = pwd.getpwnam("mail") if os.geteuid() == 0 else pwd.getpwuid(os.getuid())
    for name, source in (("cert.pem", tls.cert_file), ("key.pem", tls.key_file)):
        shutil.copy(source, directory / name)
    (directory / "mail").mkdir()
    ports = {name: free_port() for name in ("imaps", "sasl", "lmtp")}
    group = grp.getgrgid(user.pw_gid).gr_name
    mechanisms = "plain login xoauth2 oauthbearer" if introspection else "plain login"
    if introspection:
        (directory / "oauth2.ext").write_text(
            f"introspection_mode = post\nintrospection_url = {introspection}\nusername_attribute = client_id\n"
            "active_attribute = active\nactive_value = true\nusername_format = %u\n"
        )

    def command(port: int) -> list[str]:
        ports["imap"] = port
        config = directory / "dovecot.conf"
        config.write_text(
            CONFIG.format(
                run=directory,
                host=HOST,
                user=user.pw_name,
                group=group,
                uid=user.pw_uid,
                gid=user.pw_gid,
                cert=directory / "cert.pem",
                key=directory / "key.pem",
                mechanisms=mechanisms,
                password=PASSWORD,
                oauth=OAUTH.format(run=directory) if introspection else "",
                capability=f"imap_capability = {capability}" if capability else "",
                **ports,
            )
        )
        return [program, "-F", "-c", str(config)]

    if os.geteuid() == 0:
        for path in (directory, *directory.iterdir()):
            shutil.chown(path, user.pw_name, group)
    try:
        with Server(
            "dovecot",
            command,
            ready=lambda port: greets(port, b"* OK"),
            log=directory / "dovecot.log",
            user=user.pw_name if os.geteuid() == 0 else None,
        ) as server:
            yield Dovecot(directory, tls, ports, server)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
