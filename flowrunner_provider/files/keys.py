"""The keys and passwords for files, from one connection: ours, and those of the partner."""

from __future__ import annotations

from base64 import b64decode
from contextlib import suppress
from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import option

__all__ = ["FileKeysConfig"]

_AES_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class FileKeysConfig:
    """A ``generic`` connection that holds keys; all but the password below the key ``flowrunner`` of its extra."""

    password: str = option("", label="Password", help="of zip archives; of the PGP secret key", secret=True)
    pgp_secret_key: str = option("", label="PGP secret key", help="ours, armored: decrypts and signs", secret=True)
    pgp_public_keys: str = option(
        "", label="PGP public keys", help="the partners', armored, one after another: encrypt and verify"
    )
    age_secret_key: str = option(
        "", label="age secret key", help="ours: AGE-SECRET-KEY-1..., or an OpenSSH private key", secret=True
    )
    age_recipients: list[str] = option(
        [], label="age recipients", help="the partners': age1..., ssh-ed25519 ... or ssh-rsa ..."
    )

    aes_key: str = option(
        "", label="AES key", help="32 bytes in hexadecimal digits or base64, which both sides know", secret=True
    )

    def aes_bytes(self) -> bytes:
        """The AES key.

        :raises ConfigError: if it is none.
        """
        text = "".join(self.aes_key.split())
        for decode in (bytes.fromhex, b64decode):
            with suppress(ValueError):
                if len(key := decode(text)) == _AES_BYTES:
                    return key
        raise ConfigError(
            "aes_key is no AES-256 key", field="aes_key", remedy="write 32 bytes, as `openssl rand -hex 32` makes them"
        )

    def need(self, name: str, conn_id: str, why: str) -> str:
        """The text of a field that must be there.

        :raises MissingCredential: if it is empty.
        """
        value = getattr(self, name)
        if not value:
            where = "its password" if name == "password" else f"{name} below 'flowrunner' in its extra"
            raise MissingCredential(
                f"connection {conn_id!r} has no {name}, which is needed to {why}", field=name, remedy=f"set {where}"
            )
        if name.startswith("pgp_") and not ("-----BEGIN PGP" in value and "-----END PGP" in value):
            raise ConfigError(
                f"{name} of connection {conn_id!r} is no armored key",
                field=name,
                remedy="paste all of what `gpg --armor --export` gives, from -----BEGIN to -----END",
            )
        return str(value)
