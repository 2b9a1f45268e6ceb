"""Keys and passwords for files, ours and our partners', in one connection."""

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
    """A ``generic`` connection with keys; all except the password are below ``flowrunner`` in its extra."""

    password: str = option("", label="Password", help="for zip archives, or for the PGP secret key", secret=True)
    pgp_secret_key: str = option(
        "", label="PGP secret key", help="our armored key, for decrypting and signing", secret=True
    )
    pgp_public_keys: str = option(
        "",
        label="PGP public keys",
        help="the armored keys of partners, one after another, for encrypting and verifying",
    )
    age_secret_key: str = option(
        "", label="age secret key", help="our key: AGE-SECRET-KEY-1..., or an OpenSSH private key", secret=True
    )
    age_recipients: list[str] = option(
        [], label="age recipients", help="the keys of partners: age1..., ssh-ed25519 ... or ssh-rsa ..."
    )
    aes_key: str = option(
        "", label="AES key", help="32 bytes in hexadecimal or base64, shared with the partner", secret=True
    )

    def aes_bytes(self) -> bytes:
        """Return the AES key.

        :raises ConfigError: if it is not an AES-256 key.
        """
        text = "".join(self.aes_key.split())
        for decode in (bytes.fromhex, b64decode):
            with suppress(ValueError):
                if len(key := decode(text)) == _AES_BYTES:
                    return key
        raise ConfigError(
            "aes_key is not an AES-256 key", field="aes_key", remedy="set 32 bytes, e.g. from `openssl rand -hex 32`"
        )

    def need(self, name: str, conn_id: str, why: str) -> str:
        """Return the value of a required field.

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
                f"{name} of connection {conn_id!r} is not an armored key",
                field=name,
                remedy="paste the complete output of `gpg --armor --export`, from -----BEGIN to -----END",
            )
        return str(value)
