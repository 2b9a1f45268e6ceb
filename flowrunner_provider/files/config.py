"""The settings of a connection for files, read from what the official providers already use."""

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
    private_key: str | None = option(None, label="Private key", help="its text, PEM or OpenSSH", secret=True)
    private_key_passphrase: str | None = option(None, label="Passphrase of the private key", secret=True)
    host_key: str | None = option(None, label="Host key", help="the server's public key: 'ssh-ed25519 AAAA...'")
    known_hosts: str | None = option(None, label="Known hosts", help="a file; by default ~/.ssh/known_hosts")
    no_host_key_check: bool = option(False, label="No host key check", help="accept any server: anybody could answer")
    look_for_keys: bool = option(True, label="Look for keys", help="try the worker's own keys and agent")
    ciphers: list[str] = option([], label="Ciphers", help="in order of preference")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")
    rate_limit: str | None = option(
        None,
        label="Rate limit",
        help="operations on files, such as open, list and rename, of all tasks, e.g. 600/minute",
    )
    burst: int = option(1, label="Burst", help="operations that may come at once within the rate limit")
    test_folder: str = option(".", label="Folder to test", help="must be there for the connection test to pass")

    def __post_init__(self) -> None:
        if self.host_key is not None and not self.host_key.strip():
            raise ConfigError("the host key is empty", field="host_key", remedy="write 'ssh-ed25519 AAAA...'")
        if self.host_key and self.no_host_key_check:
            raise ConfigError(
                "a host key is given and its check is switched off",
                field="no_host_key_check",
                remedy="remove no_host_key_check from the extra",
            )
        if self.private_key and self.key_file:
            raise ConfigError("private_key and key_file are both given", field="key_file", remedy="keep one of them")
        for name in ("conn_timeout", "timeout"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")

    def target(self) -> SshTarget:
        """The same for the transport."""
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
    """What we add to an ``aws`` connection; who one is, the region and the endpoint are the official provider's.

    The options stand below ``flowrunner`` in its extra, or below ``s3`` in there where SES or SNS have others.
    """

    bucket: str = option("", label="Bucket", help="of addresses that name none: s3://conn_id@/key")
    region_name: str | None = option(None, label="Region")
    endpoint_url: str | None = option(None, label="Endpoint", help="of an S3-compatible server; AWS by default")
    verify: bool = option(True, label="Verify TLS", help="false accepts any server: anybody could answer")
    ca_bundle: str | None = option(None, label="CA bundle", help="a PEM file on the worker with who is trusted")
    addressing_style: Literal["auto", "path", "virtual"] = option(
        "auto", label="Addressing style", help="where the bucket's name stands; auto: in the path for an own endpoint"
    )
    request_checksum_calculation: Literal["auto", "when_required", "when_supported"] = option(
        "auto",
        label="Request checksums",
        help="when_supported sends CRC-32, for servers that know it; when_required MD5, five times as dear; "
        "auto: CRC-32 at AWS, MD5 at an own endpoint",
    )
    unsigned_payload: bool = option(
        False, label="Unsigned payload", help="do not sign the bytes themselves; faster, and over TLS just as safe"
    )
    conditional_writes: bool | None = option(
        None,
        label="Conditional writes",
        help="whether the server honours If-None-Match for puts and for completed uploads; by default only AWS does",
    )
    server_side_encryption: Literal["", "AES256", "aws:kms", "aws:kms:dsse"] = option(
        "",
        label="Server-side encryption",
        help="sent with what is written; name it, too, where the bucket itself encrypts with KMS: its ETags are no MD5",
    )
    kms_key_id: str = option("", label="KMS key", help="id or ARN; by default the bucket's or the account's own")
    part_size: int = option(16, label="Part size", help="MiB; what is larger is moved in parts of this size")
    parts_at_once: int = option(4, label="Parts at once", help="parts of one file that travel at the same time")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")
    prefix: str = option("", label="Prefix to test", help="must be listable for the connection test to pass")

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
                "a KMS key is given and nothing is encrypted with it",
                field="kms_key_id",
                remedy="set server_side_encryption to 'aws:kms'",
            )
        if self.endpoint_url and not self.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError("endpoint_url is no URL", field="endpoint_url", remedy="write https://host:port")
        if self.ca_bundle and not self.verify:
            raise ConfigError("a CA bundle is given and verify is false", field="verify", remedy="remove verify")

    @property
    def encrypts_with_kms(self) -> bool:
        """Then the ETag of an object, or of a part, is no MD5 of its bytes."""
        return self.server_side_encryption.startswith("aws:kms")


@dataclass(frozen=True, kw_only=True)
class AzureBlobConfig:
    """A ``wasb`` connection. Names, meanings and order are those of the official provider: connection string, client
    secret (``tenant_id``), shared access key, SAS token, account key, and at last the identity of the machine.
    """

    host: str = option("", label="Account URL", help="by default https://<account>.blob.core.windows.net")
    login: str = option("", label="Account name", help="with tenant_id the client id")
    password: str | None = option(None, label="Account key", help="with tenant_id the client secret", secret=True)
    connection_string: str | None = option(None, label="Connection string", secret=True)
    tenant_id: str | None = option(None, label="Tenant", help="of an application with a client secret")
    client_secret_auth_config: dict[str, Any] = option({}, label="Further options of ClientSecretCredential")
    shared_access_key: str | None = option(None, label="Shared access key", secret=True)
    sas_token: str | None = option(None, label="SAS token", help="or an account URL that has one", secret=True)
    account_key: str | None = option(None, label="Account key", secret=True)
    managed_identity_client_id: str | None = option(None, label="Client id of the managed identity")
    workload_identity_tenant_id: str | None = option(None, label="Tenant of the workload identity")
    anonymous: bool = option(False, label="Anonymous", help="read a public container without any credential")
    container: str = option("", label="Container", help="of addresses that name none: wasb://conn_id@/key")
    part_size: int = option(8, label="Block size", help="MiB; what is larger is moved in blocks of this size")
    parts_at_once: int = option(4, label="Blocks at once", help="blocks of one file that travel at the same time")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")

    def __post_init__(self) -> None:
        check_timeouts(self)
        check_range("part_size", self.part_size, 1, 1024)
        check_range("parts_at_once", self.parts_at_once, 1, 64)


@dataclass(frozen=True, kw_only=True)
class GcsConfig:
    """A ``google_cloud_platform`` connection. Names and meanings are those of the official provider."""

    key_path: str | None = option(None, label="Key file", help="path of a service account's JSON key on the worker")
    keyfile_dict: str | None = option(None, label="Key", help="the service account's key, as JSON", secret=True)
    scope: str = option("https://www.googleapis.com/auth/cloud-platform", label="Scopes", help="separated by commas")
    project: str | None = option(None, label="Project", help="that pays where the bucket is 'requester pays'")
    impersonation_chain: list[str] = option(
        [], label="Impersonation chain", help="service accounts; the last one is acted as"
    )
    is_anonymous: bool = option(False, label="Anonymous", help="read a public bucket without any credential")
    endpoint_url: str = option("https://storage.googleapis.com", label="Endpoint", help="of an emulator or a proxy")
    bucket: str = option("", label="Bucket", help="of addresses that name none: gs://conn_id@/key")
    user_project: bool = option(False, label="Requester pays", help="send the project with every request")
    part_size: int = option(16, label="Part size", help="MiB; what is larger is uploaded in parts of this size")
    parts_at_once: int = option(4, label="Parts at once", help="parts of one file that travel at the same time")
    conn_timeout: float = option(15.0, label="Connect time-out", help="seconds")
    timeout: float = option(60.0, label="Time-out", help="the longest silence of the server, seconds")

    def __post_init__(self) -> None:
        check_timeouts(self)
        check_range("part_size", self.part_size, 1, 96)
        check_range("parts_at_once", self.parts_at_once, 1, 64)
        if not self.endpoint_url.startswith(("http://", "https://")):
            raise ConfigError("endpoint_url is no URL", field="endpoint_url", remedy="write https://host:port")
        if self.key_path and self.keyfile_dict:
            raise ConfigError("key_path and keyfile_dict are both given", field="key_path", remedy="keep one of them")
        if self.user_project and not self.project:
            raise ConfigError("requester pays needs a project", field="project", remedy="name the project that pays")


@dataclass(frozen=True, kw_only=True)
class FsspecConfig:
    """What we add to the connection of an fsspec filesystem; the rest is read by the filesystem's own provider."""

    storage_options: dict[str, Any] = option(
        {}, label="Storage options", help="arguments of the filesystem, beside what its provider reads", secret=True
    )
    timeout: float = option(300.0, label="Time-out", help="the longest that one call may take, seconds")
    test_folder: str = option("/", label="Folder to test", help="must be listable for the connection test to pass")

    def __post_init__(self) -> None:
        check_timeouts(self)


def check_timeouts(config: Any) -> None:
    """Raise ``ConfigError`` for a time-out that is none."""
    for name in ("conn_timeout", "timeout"):
        if not 0 < getattr(config, name, 1.0) < float("inf"):
            raise ConfigError(f"{name} must be positive", field=name, remedy="write seconds, e.g. 30")


def check_range(name: str, value: int, least: int, most: int) -> None:
    """Raise ``ConfigError`` for a number outside its range."""
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}", field=name, remedy=f"write a number from {least} to {most}")
