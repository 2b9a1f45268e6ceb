"""Encrypted files, shared by all workers, for secrets that must outlive a task, such as rotated refresh tokens.

They are stored in ``[flowrunner] state_path``, readable by the user alone, and encrypted with Airflow's ``[core]
fernet_key`` like connections; keys can be rotated as Airflow describes (``new,old``). The task state store is
unsuitable, because everyone who may view a task can read it.
"""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk.exceptions import AirflowException

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.runtime.checkpoint_store import FileStore
from flowrunner_provider.runtime.settings import state_path

__all__ = ["SecretStore"]


class SecretStore:
    """A :class:`~flowrunner_provider.core.journal.KeyValue` for secrets.

    Reading already fails without an encryption key, before a token is used up whose successor could not be stored.

    :param purpose: name of the folder.
    """

    def __init__(self, purpose: str) -> None:
        self._files = FileStore(state_path() / "secrets", (purpose,))

    def get(self, key: str) -> Any:
        """Return the value, or None if there is none.

        :raises ConfigError: without a key, or if the record was encrypted with another one.
        """
        fernet, record = _fernet(), self._files.get(key)
        if record is None:
            return None
        from cryptography.fernet import InvalidToken

        try:
            return json.loads(fernet.decrypt(record["fernet"].encode()))
        except (InvalidToken, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                "a stored secret cannot be decrypted",
                field="fernet_key",
                remedy="append the old key to [core] fernet_key, after a comma; or delete the folder `secrets` in "
                "[flowrunner] state_path, and consent again",
            ) from None

    def set(self, key: str, value: Any) -> None:
        """Store ``value`` durably before returning."""
        text = _fernet().encrypt(json.dumps(value).encode()).decode()
        self._files.set(key, {"fernet": text})


def _fernet() -> Any:
    from airflow.sdk.crypto import get_fernet

    try:
        fernet = get_fernet()
    except AirflowException:
        raise ConfigError(
            "[core] fernet_key is not a key",
            field="fernet_key",
            remedy="create one with Fernet.generate_key()",
        ) from None
    if not fernet.is_encrypted:
        raise ConfigError(
            "rotated refresh tokens cannot be stored: Airflow has no encryption key",
            field="fernet_key",
            remedy="set [core] fernet_key on every worker, or `rotated_tokens` to 'memory' under `flowrunner` in the "
            "connection's extra if the server does not rotate them",
        )
    return fernet
