"""Keys and passwords for files, from ``generic`` connections."""

from __future__ import annotations

from typing import Any, ClassVar

from flowrunner_provider.core.errors import MissingCredential
from flowrunner_provider.core.extras import load
from flowrunner_provider.files.keys import FileKeysConfig
from flowrunner_provider.runtime.hook import FlowRunnerHook
from flowrunner_provider.runtime.masking import mask

__all__ = ["FlowRunnerKeysHook", "keys_for", "zip_password"]


_LIBRARIES = {"pgp": "pysequoia", "age": "pyrage", "aes_gcm": "cryptography"}


class FlowRunnerKeysHook(FlowRunnerHook[FileKeysConfig]):
    """Reads keys from ``generic`` connections.

    The password of the connection opens zip archives and the PGP secret key. The keys are under ``flowrunner`` in its
    extra: ``pgp_secret_key``, ``pgp_public_keys``, ``age_secret_key``, ``age_recipients``, ``aes_key``.

    :param conn_id: the Airflow connection.
    """

    conn_name_attr: ClassVar[str] = "conn_id"
    default_conn_name: ClassVar[str] = "file_keys_default"
    conn_type: ClassVar[str] = "generic"
    hook_name: ClassVar[str] = "Keys for files"
    config_type: ClassVar[type] = FileKeysConfig
    reads: ClassVar[tuple[str, ...]] = ("generic",)

    def check(self) -> str:
        """Return which keys the connection holds; nothing is contacted."""
        config = self.config
        present = [name for name in vars(config) if getattr(config, name)]
        if not present:
            raise MissingCredential(
                f"connection {self.conn_id!r} holds neither a password nor a key",
                field="password",
                remedy="set its password, or keys under 'flowrunner' in its extra",
            )
        return f"The connection holds: {', '.join(present)}."


def zip_password(conn_id: str) -> str:
    """Return the password of a connection; empty without a connection."""
    if not conn_id:
        return ""
    return FlowRunnerKeysHook(conn_id).config.need("password", conn_id, "read or write an encrypted zip")


def keys_for(conn_id: str, scheme: str, operation: str, signed: bool) -> dict[str, Any]:
    """Return only the keys that an operation needs.

    :raises MissingCredential: if the connection lacks a key.
    :raises MissingExtra: if the library is not installed.
    """
    config = FlowRunnerKeysHook(conn_id).config
    load(_LIBRARIES[scheme], extra="crypt", needed_for=f"{scheme} encryption")
    needed: dict[str, Any] = {"secret_key": "", "password": config.password, "public_keys": "", "recipients": []}
    if scheme == "aes_gcm":
        config.need("aes_key", conn_id, operation)
        needed["secret_key"] = config.aes_bytes().hex()
        mask([needed["secret_key"]])
        return needed
    if scheme == "age":
        if operation == "decrypt":
            needed["secret_key"] = config.need("age_secret_key", conn_id, operation)
        else:
            config.need("age_recipients", conn_id, operation)
            needed["recipients"] = list(config.age_recipients)
        return needed
    if operation in ("decrypt", "sign") or (operation == "encrypt" and signed):
        needed["secret_key"] = config.need("pgp_secret_key", conn_id, "sign" if operation == "encrypt" else operation)
    if operation in ("encrypt", "verify") or (operation == "decrypt" and signed):
        why = "verify the signature" if operation == "decrypt" else operation
        needed["public_keys"] = config.need("pgp_public_keys", conn_id, why)
    return needed
