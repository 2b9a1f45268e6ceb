"""Which storage account a ``wasb`` connection means, and with which of its credentials."""

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
    """A storage account and the credential that stands in the connection, if one does.

    :param url: without a shared access signature and without a final slash.
    """

    name: str
    url: str
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)


def account_of(config: AzureBlobConfig) -> AzureAccount:
    """Read the connection in the order of the official provider.

    :raises ConfigError: if it names no account, or its key is none.
    """
    if config.connection_string:
        return _checked(_of_string(config.connection_string))
    url, sas = config.host, (config.sas_token or "").lstrip("?")
    if sas.startswith("https://"):
        url, _, sas = sas.partition("?")
    if "." not in url and "://" not in url:  # empty, or as the official provider allows the id of a directory
        url = f"{config.login}.blob.core.windows.net" if config.login else ""
    if not url:
        raise ConfigError(
            "the connection does not name a storage account",
            field="login",
            remedy="write the account's name as login, or its URL as host",
        )
    url = (url if "://" in url else f"https://{url}").rstrip("/")
    name = _name_in(url) if config.tenant_id or not config.login else config.login
    if config.tenant_id or config.anonymous:
        return AzureAccount(name=name, url=url)
    if config.shared_access_key:
        return _checked(AzureAccount(name=name, url=url, key=config.shared_access_key))
    if sas:
        return AzureAccount(name=name, url=url, sas=sas)
    return _checked(AzureAccount(name=name, url=url, key=config.password or config.account_key or ""))


def _of_string(text: str) -> AzureAccount:
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
        name=name or _name_in(url),
        url=url,
        key=values.get("accountkey", ""),
        sas=values.get("sharedaccesssignature", "").lstrip("?"),
    )


def _name_in(url: str) -> str:
    """The first part of the host name; or the path, where the host is an address, as the emulator's is."""
    parts = urlsplit(url)
    return parts.path.strip("/") or (parts.hostname or "").partition(".")[0]


def _checked(account: AzureAccount) -> AzureAccount:
    try:
        b64decode(account.key, validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(
            "the account key is not base64",
            field="password",
            remedy="copy it from the storage account's page 'Access keys'; a SAS token goes into sas_token",
        ) from None
    return account
