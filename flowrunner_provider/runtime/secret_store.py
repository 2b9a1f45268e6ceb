"""Secrets that must outlive a task, such as rotated refresh tokens: encrypted files that all workers share.

They lie below ``[flowrunner] state_path``, readable by the user alone, encrypted with Airflow's own
``[core] fernet_key`` as connections are; keys may be rotated as Airflow describes (``new,old``). The task state
store is no place for them: whoever may look at a task may look into it.
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

    Without an encryption key already reading is refused, *before* a token is used up whose successor could not
    be kept.

    :param purpose: a folder of its own for each.
    """

    def __init__(self, purpose: str) -> None:
        self._files = FileStore(state_path() / "secrets", (purpose,))

    def get(self, key: str) -> Any:
        """The value, or None when there is none.

        :raises ConfigError: without a key, or when the record was encrypted with another one.
        """
        fernet, record = _fernet(), self._files.get(key)
        if record is None:
            return None
        from cryptography.fernet import InvalidToken

        try:
            return json.loads(fernet.decrypt(record["fernet"].encode()))
        except (InvalidToken, ValueError, KeyError, TypeError, AttributeError):
            raise ConfigError(
                "a kept secret cannot be decrypted",
                field="fernet_key",
                remedy="keep the former key in [core] fernet_key, behind a comma; or delete the folder `secrets` of "
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
            remedy="make one with `airflow` or Fernet.generate_key()",
        ) from None
    if not fernet.is_encrypted:
        raise ConfigError(
            "refresh tokens that the server rotates cannot be kept: Airflow has no encryption key",
            field="fernet_key",
            remedy="set [core] fernet_key on every worker, or `rotated_tokens` to 'memory' below `flowrunner` in the "
            "connection's extra if the server does not rotate them",
        )
    return fernet
