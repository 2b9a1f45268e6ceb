"""The storage account and the credential of a ``wasb`` connection."""

from __future__ import annotations

import binascii
from base64 import b64decode
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.config import AzureBlobConfig

__all__ = ["AzureAccount", "account_of"]


@dataclass(frozen=True, kw_only=True)
class AzureAccount:
    """A storage account and the credential in its connection, if there is one.

    :param url: without shared access signature and final slash.
    """

    name: str
    url: str
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)


def account_of(config: AzureBlobConfig) -> AzureAccount:
    """Resolve the connection; options take precedence in the order of the official provider.

    :raises ConfigError: if the connection names no account, or its key is invalid.
    """
    if config.connection_string:
        return _require_valid_key(_parse_connection_string(config.connection_string))
    url, sas = config.host, (config.sas_token or "").lstrip("?")
    if sas.startswith("https://"):
        url, _, sas = sas.partition("?")
    if "." not in url and "://" not in url:  # empty, or a directory id, which the official provider allows
        url = f"{config.login}.blob.core.windows.net" if config.login else ""
    if not url:
        raise ConfigError(
            "the connection does not name a storage account",
            field="login",
            remedy="set the account name as login, or its URL as host",
        )
    url = (url if "://" in url else f"https://{url}").rstrip("/")
    name = _account_name(url) if config.tenant_id or not config.login else config.login
    if config.tenant_id or config.anonymous:
        return AzureAccount(name=name, url=url)
    if config.shared_access_key:
        return _require_valid_key(AzureAccount(name=name, url=url, key=config.shared_access_key))
    if sas:
        return AzureAccount(name=name, url=url, sas=sas)
    return _require_valid_key(AzureAccount(name=name, url=url, key=config.password or config.account_key or ""))


def _parse_connection_string(text: str) -> AzureAccount:
    pairs = (item.partition("=") for item in text.strip().strip(";").split(";"))
    values = {name.strip().lower(): value.strip() for name, _, value in pairs}
    name = values.get("accountname", "")
    scheme, suffix = values.get("defaultendpointsprotocol", "https"), values.get("endpointsuffix", "core.windows.net")
    url = (values.get("blobendpoint") or (f"{scheme}://{name}.blob.{suffix}" if name else "")).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "the connection string names neither AccountName nor BlobEndpoint",
            field="connection_string",
            remedy="copy it from the storage account's page 'Access keys'",
        )
    return AzureAccount(
        name=name or _account_name(url),
        url=url,
        key=values.get("accountkey", ""),
        sas=values.get("sharedaccesssignature", "").lstrip("?"),
    )


def _account_name(url: str) -> str:
    """Return the account name of a URL: the path for an emulator, else the first label of the host."""
    parts = urlsplit(url)
    return parts.path.strip("/") or (parts.hostname or "").partition(".")[0]


def _require_valid_key(account: AzureAccount) -> AzureAccount:
    try:
        b64decode(account.key, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            "the account key is not valid base64",
            field="password",
            remedy="copy it from the storage account's page 'Access keys'; a SAS token goes into sas_token",
        ) from None
    return account
