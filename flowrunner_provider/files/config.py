"""Settings of the connections for files, as the official providers name them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.spec import option
from flowrunner_provider.transport.ssh import CIPHERS, SshTarget

__all__ = ["AzureBlobConfig", "FsspecConfig", "GcsConfig", "S3Config", "SftpConfig"]


@dataclass(frozen=True, kw_only=True)
class SftpConfig:
    """An ``sftp`` or ``ssh`` connection. Names and meanings are those of the official providers."""

    host: str = option(label="Host", help="name or address of the server")
    port: int = option(22, label="Port")
    login: str | None = option(None, label="Username")
    password: str | None = option(None, label="Password", secret=True)
    key_file: str | None = option(None, label="Key file", help="path of the private key on the worker")
    private_key: str | None = option(
        None, label="Private key", help="the private key itself, in PEM or OpenSSH format", secret=True
    )
    private_key_passphrase: str | None = option(None, label="Passphrase of the private key", secret=True)
    host_key: str | None = option(None, label="Host key", help="the server's public key: 'ssh-ed25519 AAAA...'")
    known_hosts: str | None = option(
        None, label="Known hosts", help="path of a known_hosts file on the worker; default ~/.ssh/known_hosts"
    )
    no_host_key_check: bool = option(False, label="No host key check", help="accept any server key; insecure")
    look_for_keys: bool = option(
        True, label="Look for keys", help="also try the keys in ~/.ssh and the agent of the worker"
    )
    ciphers: list[str] = option([], label="Ciphers", help="in order of preference")
    conn_timeout: float = option(15.0, label="Connect timeout", help="in seconds")
    timeout: float = option(60.0, label="Timeout", help="maximum silence of the server, in seconds")
    rate_limit: str | None = option(
        None,
        label="Rate limit",
        help="of file operations such as open, list and rename, for all tasks together, e.g. 600/minute",
    )
    burst: int = option(1, label="Burst", help="operations that may start at once within the rate limit")
    test_folder: str = option(".", label="Folder to test", help="must exist for the connection test to succeed")

    def __post_init__(self) -> None:
        if self.host_key is not None and not self.host_key.strip():
            raise ConfigError("the host key is empty", field="host_key", remedy="write 'ssh-ed25519 AAAA...'")
        if self.host_key and self.no_host_key_check:
            raise ConfigError(
                "host_key is set but no_host_key_check disables its check",
                field="no_host_key_check",
                remedy="remove no_host_key_check from the extra",
            )
        if self.private_key and self.key_file:
            raise ConfigError("private_key and key_file are both set", field="key_file", remedy="remove one of them")
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")

    def target(self) -> SshTarget:
        """Return the settings for the transport."""
        unchecked = self.no_host_key_check or (self.known_hosts or "").lower() == "none"
        return SshTarget(
            host=self.host,
            port=self.port,
            login=self.login,
            password=self.password,
            key_file=self.key_file,
            private_key=self.private_key,
            passphrase=self.private_key_passphrase,
            host_key=self.host_key,
            known_hosts=self.known_hosts,
            verify_host_key=not unchecked,
            look_for_keys=self.look_for_keys,
            ciphers=tuple(self.ciphers) or CIPHERS,
            connect_timeout=self.conn_timeout,
            timeout=self.timeout,
        )


@dataclass(frozen=True, kw_only=True)
class S3Config:
    """The options that we add to an ``aws`` connection; the official provider reads credentials, region and endpoint.

    The options are below ``flowrunner`` in its extra, or below ``flowrunner.s3`` if SES or SNS use other values.
    """

    bucket: str = option("", label="Bucket", help="default bucket, for addresses without one: s3://conn_id@/key")
    region_name: str | None = option(None, label="Region")
    endpoint_url: str | None = option(None, label="Endpoint", help="URL of an S3-compatible server; default AWS")
    verify: bool = option(True, label="Verify TLS", help="false accepts any certificate; insecure")
    ca_bundle: str | None = option(
        None, label="CA bundle", help="path of a PEM file with the trusted CAs on the worker"
    )
    addressing_style: Literal["auto", "path", "virtual"] = option(
        "auto",
        label="Addressing style",
        help="where the bucket name goes in URLs; auto: in the path if an endpoint is set",
    )
    request_checksum_calculation: Literal["auto", "when_required", "when_supported"] = option(
        "auto",
        label="Request checksums",
        help="when_supported sends CRC-32; when_required sends MD5, which costs five times the CPU; "
        "auto: CRC-32 for AWS, MD5 if an endpoint is set",
    )
    unsigned_payload: bool = option(
        False, label="Unsigned payload", help="do not sign the content; faster, and equally safe over TLS"
    )
    conditional_writes: bool | None = option(
        None,
        label="Conditional writes",
        help="whether the server supports If-None-Match for puts and completed multipart uploads; default: AWS only",
    )
    server_side_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = option(
        "",
        label="Server-side encryption",
        help="sent with every upload; also set it if the bucket encrypts with KMS by default: ETags are then not MD5",
    )
    kms_key_id: str = option("", label="KMS key", help="id or ARN; default: the key of the bucket or account")
    part_size: int = option(16, label="Part size", help="in MiB; larger files are transferred in parts of this size")
    parts_at_once: int = option(4, label="Parts at once", help="parts of one file in flight")
    conn_timeout: float = option(15.0, label="Connect timeout", help="in seconds")
    timeout: float = option(60.0, label="Timeout", help="maximum silence of the server, in seconds")
    prefix: str = option("", label="Prefix to test", help="must be listable for the connection test to succeed")

    def __post_init__(self) -> None:
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")
        for name, least, most in (("part_size", 5, 5 * 1024), ("parts_at_once", 1, 64)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}", field=name, remedy=f"write a number from {least} to {most}"
                )
        if self.kms_key_id and not self.encrypts_with_kms:
            raise ConfigError(
                "kms_key_id is set but KMS encryption is not",
                field="kms_key_id",
                remedy="set server_side_encryption to 'aws:kms'",
            )
        if self.endpoint_url and not self.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError("endpoint_url is not a URL", field="endpoint_url", remedy="write https://host:port")
        if self.ca_bundle and not self.verify:
            raise ConfigError("ca_bundle is set but verify is false", field="verify", remedy="remove verify")

    @property
    def encrypts_with_kms(self) -> bool:
        """Whether KMS encrypts; the ETags of objects and parts are then not the MD5 of their bytes."""
        return self.server_side_encryption.startswith("aws:kms")


@dataclass(frozen=True, kw_only=True)
class AzureBlobConfig:
    """A ``wasb`` connection. Names, meanings and order are those of the official provider: connection string, client
    secret (``tenant_id``), shared access key, SAS token, account key, and at last the identity of the machine.
    """

    host: str = option("", label="Account URL", help="default https://<account>.blob.core.windows.net")
    login: str = option("", label="Account name", help="with tenant_id: the client id")
    password: str | None = option(None, label="Account key", help="with tenant_id: the client secret", secret=True)
    connection_string: str | None = option(None, label="Connection string", secret=True)
    tenant_id: str | None = option(None, label="Tenant", help="tenant id of an application with a client secret")
    client_secret_auth_config: dict[str, Any] = option({}, label="Further options of ClientSecretCredential")
    shared_access_key: str | None = option(None, label="Shared access key", secret=True)
    sas_token: str | None = option(None, label="SAS token", help="may also be part of the account URL", secret=True)
    account_key: str | None = option(None, label="Account key", secret=True)
    managed_identity_client_id: str | None = option(None, label="Client id of the managed identity")
    workload_identity_tenant_id: str | None = option(None, label="Tenant of the workload identity")
    anonymous: bool = option(False, label="Anonymous", help="read a public container without credentials")
    container: str = option(
        "", label="Container", help="default container, for addresses without one: wasb://conn_id@/key"
    )
    part_size: int = option(8, label="Block size", help="in MiB; larger files are transferred in blocks of this size")
    parts_at_once: int = option(4, label="Blocks at once", help="blocks of one file in flight")
    conn_timeout: float = option(15.0, label="Connect timeout", help="in seconds")
    timeout: float = option(60.0, label="Timeout", help="maximum silence of the server, in seconds")

    def __post_init__(self) -> None:
        check_timeouts(self)
        check_range("part_size", self.part_size, 1, 1024)
        check_range("parts_at_once", self.parts_at_once, 1, 64)


@dataclass(frozen=True, kw_only=True)
class GcsConfig:
    """A ``google_cloud_platform`` connection. Names and meanings are those of the official provider."""

    key_path: str | None = option(None, label="Key file", help="path of a service account key (JSON) on the worker")
    keyfile_dict: str | None = option(None, label="Key", help="a service account key as JSON", secret=True)
    scope: str = option("https://www.googleapis.com/auth/cloud-platform", label="Scopes", help="separated by commas")
    project: str | None = option(None, label="Project", help="is billed for requester-pays buckets")
    impersonation_chain: list[str] = option(
        [], label="Impersonation chain", help="service accounts; the last one is impersonated"
    )
    is_anonymous: bool = option(False, label="Anonymous", help="read a public bucket without credentials")
    endpoint_url: str = option("https://storage.googleapis.com", label="Endpoint", help="URL of an emulator or proxy")
    bucket: str = option("", label="Bucket", help="default bucket, for addresses without one: gs://conn_id@/key")
    user_project: bool = option(False, label="Requester pays", help="bill the project for every request")
    part_size: int = option(16, label="Part size", help="in MiB; larger files are uploaded in parts of this size")
    parts_at_once: int = option(4, label="Parts at once", help="parts of one file in flight")
    conn_timeout: float = option(15.0, label="Connect timeout", help="in seconds")
    timeout: float = option(60.0, label="Timeout", help="maximum silence of the server, in seconds")

    def __post_init__(self) -> None:
        check_timeouts(self)
        check_range("part_size", self.part_size, 1, 96)
        check_range("parts_at_once", self.parts_at_once, 1, 64)
        if not self.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError("endpoint_url is not a URL", field="endpoint_url", remedy="write https://host:port")
        if self.key_path and self.keyfile_dict:
            raise ConfigError("key_path and keyfile_dict are both set", field="key_path", remedy="remove one of them")
        if self.user_project and not self.project:
            raise ConfigError("user_project needs a project", field="project", remedy="set the project to bill")


@dataclass(frozen=True, kw_only=True)
class FsspecConfig:
    """The options that we add to the connection of an fsspec filesystem, whose own provider reads the rest."""

    storage_options: dict[str, Any] = option(
        {},
        label="Storage options",
        help="arguments of the filesystem, in addition to those that its provider reads",
        secret=True,
    )
    timeout: float = option(300.0, label="Timeout", help="maximum duration of one call, in seconds")
    test_folder: str = option("/", label="Folder to test", help="must be listable for the connection test to succeed")

    def __post_init__(self) -> None:
        check_timeouts(self)


def check_timeouts(config: Any) -> None:
    """Raise ``ConfigError`` for a timeout that is not positive."""
    for name in ("conn_timeout", "timeout"):
        if not 0 < getattr(config, name, 1.0) < float("inf"):
            raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise ``ConfigError`` for a number outside its range."""
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}", field=name, remedy=f"write a number from {least} to {most}")
