"""Credentials that sign each request: vendor-specific HMAC, and AWS Signature Version 4.

A signature covers one request on one hop. It is created anew for each retry and each redirect within the origin, and
never leaves it.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qsl, urlsplit

from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.spec import option
from flowrunner_provider.transport.http_settings import Outgoing

__all__ = ["AwsCredentials", "AwsOptions", "HmacCredentials", "HmacOptions"]

_PARTS = ("method", "url", "host", "path", "query", "path_and_query", "timestamp", "key_id", "body", "body_sha256")
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VISIBLE = re.compile(r"[\x20-\x7e]*")


class _SigningCredentials:
    """Common part of signers: no headers except the signature."""

    configured: ClassVar[bool] = True
    fixed: ClassVar[Mapping[str, str]] = {}
    query: ClassVar[Mapping[str, str]] = {}
    signs: ClassVar[bool] = True

    async def headers(self) -> Mapping[str, str]:
        return {}

    async def renew(self, refused: object) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class HmacOptions:
    """How the server expects signatures; the connection's password is the secret, its login the key id.

    ``signs`` lists the signed parts, joined by ``separator``: method, url, host, path, query, path_and_query,
    timestamp, key_id, body, body_sha256 (in hex).
    """

    header: str = option("X-Signature", label="Signature header")
    prefix: str = option("", label="Prefix of the signature", help="E.g. `sha256=`.")
    algorithm: Literal["sha256", "sha384", "sha512", "sha1"] = option("sha256", label="Algorithm")
    secret_encoding: Literal["utf-8", "hex", "base64"] = option("utf-8", label="Encoding of the secret")
    signature_encoding: Literal["hex", "base64"] = option("hex", label="Encoding of the signature")
    signs: tuple[str, ...] = option(("method", "path_and_query", "timestamp", "body"), label="What is signed")
    separator: str = option("\n", label="Separator", help="Separates the signed parts.")
    timestamp_header: str = option(
        "X-Timestamp", label="Timestamp header", help="Header that carries the timestamp; empty for none."
    )
    timestamp_format: Literal["unix", "unix_ms", "iso8601"] = option("unix", label="Timestamp format")
    key_id_header: str = option("", label="Key ID header", help="Header that carries the connection's login.")

    def __post_init__(self) -> None:
        if not self.signs:
            raise _wrong("signs nothing", "signs", f"list some of {', '.join(_PARTS)}")
        for part in self.signs:
            if part not in _PARTS:
                raise _wrong(f"cannot sign {str(part)[:40]!r}", "signs", f"choose from {', '.join(_PARTS)}")
        if "timestamp" in self.signs and not self.timestamp_header:
            raise _wrong("signs a timestamp that is not sent", "timestamp_header", "set its header")
        names = [name for name in (self.timestamp_header, self.key_id_header) if name]
        for name in (self.header, *names):
            if not _NAME.fullmatch(name):
                raise _wrong(f"{name[:40]!r} is not a valid header name", "header", "correct it")
        if not _VISIBLE.fullmatch(self.prefix):
            raise _wrong("prefix contains a control character", "prefix", "correct it")

    @property
    def headers(self) -> tuple[str, ...]:
        """The names of all headers that it adds."""
        return tuple(name for name in (self.header, self.timestamp_header, self.key_id_header) if name)


def _wrong(message: str, field: str, remedy: str) -> ConfigError:
    return ConfigError(f"hmac: {message}", field=f"hmac.{field}", remedy=remedy)


class HmacCredentials(_SigningCredentials):
    """A keyed hash over parts of each request.

    :param key_id: identifies the secret to the server.
    :raises ConfigError: if the secret does not have its encoding.
    """

    fields: ClassVar[tuple[str, ...]] = ("password", "hmac")

    def __init__(self, options: HmacOptions, *, secret: str, key_id: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        self.options, self._secret, self._key_id, self._clock = options, secret, key_id, clock
        if options.key_id_header and not (key_id and _VISIBLE.fullmatch(key_id)):
            raise MissingCredential("hmac: the key id is missing", field="login", remedy="set the login")
        try:
            match options.secret_encoding:
                case "hex":
                    self._key = bytes.fromhex(secret)
                case "base64":
                    self._key = base64.b64decode(secret, validate=True)
                case _:
                    self._key = secret.encode()
        except (ValueError, binascii.Error):
            raise ConfigError(
                f"hmac: the secret is not {options.secret_encoding}",
                field="password",
                remedy="correct the password, or `secret_encoding` under `hmac`",
            ) from None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def secrets(self) -> Iterable[str]:
        return (self._secret,)

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        options, sent = self.options, dict[str, str]()
        stamp = self._stamp()
        if options.timestamp_header:
            sent[options.timestamp_header] = stamp
        if options.key_id_header:
            sent[options.key_id_header] = self._key_id
        message = options.separator.encode().join(self._part(name, request, stamp) for name in options.signs)
        mac = hmac.new(self._key, message, options.algorithm).digest()
        shown = mac.hex() if options.signature_encoding == "hex" else base64.b64encode(mac).decode()
        sent[options.header] = options.prefix + shown
        return sent

    def _stamp(self) -> str:
        now = self._clock.now()
        match self.options.timestamp_format:
            case "unix":
                return str(int(now.timestamp()))
            case "unix_ms":
                return str(int(now.timestamp() * 1000))
            case _:
                return now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def _part(self, name: str, request: Outgoing, stamp: str) -> bytes:
        if name == "body":
            return _body_bytes(request, "hmac")
        if name == "body_sha256":
            return hashlib.sha256(_body_bytes(request, "hmac")).hexdigest().encode()
        parts = urlsplit(request.url)
        path = parts.path or "/"
        text = {
            "method": request.method,
            "url": request.url,
            "host": parts.netloc,
            "path": path,
            "query": parts.query,
            "path_and_query": f"{path}?{parts.query}" if parts.query else path,
            "timestamp": stamp,
            "key_id": self._key_id,
        }
        return text[name].encode()


@dataclass(frozen=True, kw_only=True)
class AwsOptions:
    """AWS Signature Version 4; the login is the access key id, the password the secret key.

    Without a login, the worker's own AWS identity signs (environment, profile, container or instance role), as found by
    botocore.
    """

    region: str = option(label="Region", help="E.g. eu-central-1.")
    service: str = option(label="Service", help="Signing name of the service: execute-api, es, aps, s3 ...")
    session_token: str = option("", label="Session token", help="Session token of temporary keys.", secret=True)
    profile: str = option("", label="Profile", help="Profile of the worker's AWS configuration, used without a login.")

    def __post_init__(self) -> None:
        for name in ("region", "service"):
            if not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", getattr(self, name)):
                raise ConfigError(f"aws: invalid {name}", field=f"aws.{name}", remedy=f"correct {name} under `aws`")


class AwsCredentials(_SigningCredentials):
    """Signs requests with botocore, for AWS APIs and those behind AWS gateways.

    :param mask: called with the keys that botocore found, so that logs hide them.
    """

    fields: ClassVar[tuple[str, ...]] = ("login", "password", "aws")

    def __init__(
        self,
        options: AwsOptions,
        *,
        access_key: str = "",
        secret_key: str = "",
        mask: Callable[[Iterable[str]], None] = lambda secrets: None,
    ) -> None:
        if bool(access_key) != bool(secret_key):
            missing = "password" if access_key else "login"
            raise MissingCredential(
                "aws: access key and secret key must both be set",
                field=missing,
                remedy=f"set the {missing}, or neither",
            )
        self.options, self._access_key, self._mask = options, access_key, mask
        self._known = tuple(filter(None, (secret_key, options.session_token)))
        self._keys: Any = None
        if access_key:
            kinds = load("botocore.credentials", extra="aws", needed_for="AWS signatures")
            self._keys = kinds.Credentials(access_key, secret_key, options.session_token or None)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.options!r})"

    def secrets(self) -> Iterable[str]:
        return self._known

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        auth = load("botocore.auth", extra="aws", needed_for="AWS signatures")
        aws = load("botocore.awsrequest", extra="aws", needed_for="AWS signatures")
        keys = self._keys if self._access_key else await asyncio.to_thread(self._worker_keys)
        kind = auth.S3SigV4Auth if self.options.service == "s3" else auth.SigV4Auth
        body = _body_bytes(request, "aws_sigv4")
        headers = {name: value for name, value in request.headers.items() if _is_signed(name)}
        if body and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = "application/octet-stream"
        parts = urlsplit(request.url)
        to_sign = aws.AWSRequest(
            method=request.method,
            url=parts._replace(query="", fragment="").geturl(),
            data=body,
            headers=headers,
            params=parse_qsl(parts.query, keep_blank_values=True),
        )
        kind(keys, self.options.service, self.options.region).add_auth(to_sign)
        return {str(name): str(value) for name, value in to_sign.headers.items()}

    def _worker_keys(self) -> Any:
        """Return the worker's keys, refreshed if temporary; may query the instance metadata."""
        if self._keys is None:
            session = load("botocore.session", extra="aws", needed_for="AWS signatures")
            errors = load("botocore.exceptions", extra="aws", needed_for="AWS signatures")
            try:
                self._keys = session.Session(profile=self.options.profile or None).get_credentials()
            except errors.BotoCoreError as error:
                raise _no_keys(type(error).__name__) from None
        if self._keys is None:
            raise _no_keys("nothing is configured")
        frozen = self._keys.get_frozen_credentials()
        known = tuple(filter(None, (frozen.secret_key, frozen.token)))
        if known != self._known:
            self._mask(known)
            self._known = known
        return frozen


def _no_keys(reason: str) -> MissingCredential:
    return MissingCredential(
        f"aws: neither the connection nor the worker has keys ({reason})",
        field="login",
        remedy="set login and password to access key and secret key, or assign the worker a role",
    )


def _is_signed(name: str) -> bool:
    name = name.lower()
    return name == "content-type" or (name.startswith("x-amz-") and name not in ("x-amz-date", "x-amz-security-token"))


def _body_bytes(request: Outgoing, auth: str) -> bytes:
    if request.body is None or isinstance(request.body, bytes):
        return request.body or b""
    kind = "a stream that can be read once" if isinstance(request.body, AsyncIterator) else "a stream"
    raise ConfigError(
        f"{auth} signs the body, but this one is {kind}",
        field="auth",
        remedy="send it from memory, or use another `auth`",
    )
