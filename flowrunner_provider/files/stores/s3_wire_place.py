"""Where our own requests to S3 go, and when only boto3 knows that."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.files.stores.s3_wire_sign import encoded

if TYPE_CHECKING:
    from flowrunner_provider.files.config import S3Config
    from flowrunner_provider.files.stores.s3_client import S3Target

__all__ = ["Place", "place_of", "trust"]

_PLAIN = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""A bucket whose name can be one part of a host's name, which a certificate with a ``*`` covers."""

_REGION = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,16}){1,4}")
_ELSEWHERE = ("endpoint_url", "services", "s3", "use_dualstack_endpoint", "use_fips_endpoint")
_ELSEWHERE_BY = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT",
)  # fmt: skip
_SPECIAL = ("proxies", "client_cert", "use_dualstack_endpoint", "use_fips_endpoint")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bucket on a server.

    :param host: the server's name or address, as a socket wants it.
    :param netloc: what the header ``host`` says.
    :param prefix: what stands before the key in a path: empty, or begins with ``/``.
    :param bucket: if the region can be changed because it is at AWS; else empty.
    """

    secure: bool
    host: str
    port: int
    netloc: str
    prefix: str
    region: str
    bucket: str = ""

    def path(self, key: str = "") -> str:
        """The path of a key, or of the bucket, encoded."""
        return f"{self.prefix}/{encoded(key, path=True)}" if key else self.prefix or "/"

    def moved(self, region: str) -> Place:
        """The same bucket, when AWS says that it is in another region; unchanged if that is none, or not at AWS."""
        if not self.bucket or region == self.region or not _REGION.fullmatch(region):
            return self
        return replace(_at_aws(self.bucket, region, in_path=bool(self.prefix)), region=region)


def place_of(target: S3Target, session: Any, style: str) -> Place | None:
    """Where the bucket is; None if our own requests would not find it or may not go there, and boto3's do.

    These are the connections with a proxy, a certificate of the client, an endpoint that AWS's own settings name, or
    another signature than version 4; access points and directory buckets; and the partitions with hosts of their own.

    :param session: boto3's.
    :param style: ``path``, ``virtual`` or ``auto``.
    """
    config, bucket = target.config, target.bucket
    region = config.region_name or session.region_name or "us-east-1"
    if _is_special(target.client_config) or ":" in bucket or bucket.endswith("--x-s3"):
        return None
    if config.endpoint_url:
        place = _at(config.endpoint_url, bucket, region, in_path=style != "virtual")
    elif _is_configured(session) or not _REGION.fullmatch(region) or "iso" in region:
        return None
    else:
        place = _at_aws(bucket, region, in_path=style == "path" or not _PLAIN.fullmatch(bucket))
    return None if _through_proxy(place) else place


def _at(endpoint: str, bucket: str, region: str, *, in_path: bool) -> Place:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host:
        raise ConfigError("endpoint_url is no URL", field="endpoint_url", remedy="write https://host:port")
    name = host if in_path else f"{bucket}.{host}"
    shown = f"[{name}]" if ":" in name else name
    folder = encoded(parts.path.strip("/"), path=True)
    pieces = [piece for piece in (folder, encoded(bucket) if in_path else "") if piece]
    secure = parts.scheme == "https"
    return Place(
        secure=secure, host=name, port=port or (443 if secure else 80), region=region,
        netloc=shown if port is None else f"{shown}:{port}", prefix="".join(f"/{piece}" for piece in pieces),
    )  # fmt: skip


def _at_aws(bucket: str, region: str, *, in_path: bool) -> Place:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    place = _at(f"https://s3.{region}.{suffix}", bucket, region, in_path=in_path)
    return replace(place, bucket=bucket)


def _is_special(config: Any) -> bool:
    """Whether the connection's arguments of ``botocore.config.Config`` ask for what is boto3's."""
    from botocore import UNSIGNED

    if config is None:
        return False
    signature = getattr(config, "signature_version", None)
    own = set(getattr(config, "s3", None) or {}) - {"addressing_style", "payload_signing_enabled"}
    return (
        bool(own)
        or signature not in (None, UNSIGNED, "s3v4", "v4")
        or any(getattr(config, name, None) for name in _SPECIAL)
    )


def _is_configured(session: Any) -> bool:
    """Whether AWS's own settings, of the environment or of the profile, name another endpoint."""
    profile = session._session.get_scoped_config()
    return any(os.environ.get(name) for name in _ELSEWHERE_BY) or any(name in profile for name in _ELSEWHERE)


def _through_proxy(place: Place) -> bool:
    from botocore.utils import get_environ_proxies

    scheme = "https" if place.secure else "http"
    return bool(get_environ_proxies(f"{scheme}://{place.netloc}/").get(scheme))


def trust(config: S3Config) -> ssl.SSLContext:
    """Whom to trust: the same as boto3. Blocking.

    :raises ConfigError: if the connection's bundle is none.
    """
    from botocore.httpsession import get_cert_path

    bundle = config.ca_bundle or str(get_cert_path(True))
    try:
        return _context(bundle, Path(bundle).stat().st_mtime_ns, config.verify)
    except OSError as error:  # that of ssl is one, too
        why = "holds no certificate" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"the CA bundle {bundle} {why}", field="ca_bundle", remedy="name a PEM file on the worker"
        ) from None


@lru_cache(maxsize=8)
def _context(bundle: str, written: int, verify: bool) -> ssl.SSLContext:
    """Kept, as reading a bundle takes as long as a hundred requests."""
    context = ssl.create_default_context(cafile=bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
