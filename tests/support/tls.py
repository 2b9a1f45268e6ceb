"""A certificate authority for one test session."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Tls"]


@dataclass(frozen=True)
class Tls:
    """A CA of trustme and one certificate of it for ``localhost`` and ``127.0.0.1``.

    ``ca`` issues more, e.g. ``tls.ca.issue_cert("wrong.test")``; a second ``Tls`` is a CA nobody trusts.
    """

    ca: trustme.CA
    ca_file: Path
    cert_file: Path
    key_file: Path

    @classmethod
    def create(cls, directory: Path) -> Tls:
        """Write ``ca.pem``, ``cert.pem`` (the chain) and ``key.pem`` (mode 600) into ``directory``."""
        ca = trustme.CA()
        cert = ca.issue_cert("localhost", "127.0.0.1")
        tls = cls(ca, directory / "ca.pem", directory / "cert.pem", directory / "key.pem")
        tls.ca_file.write_bytes(ca.cert_pem.bytes())
        tls.cert_file.write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
        tls.key_file.touch(mode=0o600)
        tls.key_file.write_bytes(cert.private_key_pem.bytes())
        return tls

    def server_context(self) -> ssl.SSLContext:
        """For a server that shows the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client that trusts this CA and no other."""
        return ssl.create_default_context(cafile=str(self.ca_file))
