"""The address for our own requests to a bucket, and the decision when to use boto3 instead."""

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

__all__ = ["BucketAddress", "bucket_address", "tls_context"]

_DNS_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
"""Bucket names that are one label of a host name, as a wildcard certificate covers only one."""

_REGION = re.compile(r"[a-z]{2,8}(-[a-z0-9]{1,16}){1,4}")
_ENDPOINT_SETTINGS = ("endpoint_url", "services", "s3", "use_dualstack_endpoint", "use_fips_endpoint")
_ENDPOINT_VARIABLES = (
    "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT",
)  # fmt: skip
_BOTO3_ONLY = ("proxies", "client_cert", "use_dualstack_endpoint", "use_fips_endpoint")


@dataclass(frozen=True, kw_only=True)
class BucketAddress:
    """The address of a bucket.

    :param host: the host name or address, as a socket takes it.
    :param netloc: the value of the header ``host``.
    :param prefix: the path before the key: empty, or begins with ``/``.
    :param bucket: the name of a bucket at AWS, where :meth:`moved` may change the region; else empty.
    """

    secure: bool
    host: str
    port: int
    netloc: str
    prefix: str
    region: str
    bucket: str = ""

    def path(self, key: str = "") -> str:
        """Return the encoded path of a key, or of the bucket."""
        return f"{self.prefix}/{encoded(key, path=True)}" if key else self.prefix or "/"

    def moved(self, region: str) -> BucketAddress:
        """Return the address in another region; unchanged if that is not a region, or not at AWS."""
        if not self.bucket or region == self.region or not _REGION.fullmatch(region):
            return self
        return replace(_address_at_aws(self.bucket, region, in_path=bool(self.prefix)), region=region)


def bucket_address(target: S3Target, session: Any, style: str) -> BucketAddress | None:
    """Return the address of the bucket; None if only boto3 supports it.

    Only boto3 supports proxies, client certificates, endpoints in the configuration of AWS, signatures other than
    version 4, access points, directory buckets, and partitions with other host names.

    :param session: a boto3 session.
    :param style: ``path``, ``virtual`` or ``auto``.
    """
    config, bucket = target.config, target.bucket
    region = config.region_name or session.region_name or "us-east-1"
    if _needs_boto3(target.client_config) or ":" in bucket or bucket.endswith("--x-s3"):
        return None
    if config.endpoint_url:
        address = _address_at(config.endpoint_url, bucket, region, in_path=style != "virtual")
    elif _has_other_endpoint(session) or not _REGION.fullmatch(region) or "iso" in region:
        return None
    else:
        address = _address_at_aws(bucket, region, in_path=style == "path" or not _DNS_LABEL.fullmatch(bucket))
    return None if _through_proxy(address) else address


def _address_at(endpoint: str, bucket: str, region: str, *, in_path: bool) -> BucketAddress:
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not host:
        raise ConfigError("endpoint_url is not a URL", field="endpoint_url", remedy="write https://host:port")
    name = host if in_path else f"{bucket}.{host}"
    shown = f"[{name}]" if ":" in name else name
    folder = encoded(parts.path.strip("/"), path=True)
    pieces = [piece for piece in (folder, encoded(bucket) if in_path else "") if piece]
    secure = parts.scheme == "https"
    return BucketAddress(
        secure=secure, host=name, port=port or (443 if secure else 80), region=region,
        netloc=shown if port is None else f"{shown}:{port}", prefix="".join(f"/{piece}" for piece in pieces),
    )  # fmt: skip


def _address_at_aws(bucket: str, region: str, *, in_path: bool) -> BucketAddress:
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    address = _address_at(f"https://s3.{region}.{suffix}", bucket, region, in_path=in_path)
    return replace(address, bucket=bucket)


def _needs_boto3(config: Any) -> bool:
    """Return whether the ``botocore.config.Config`` of the connection has settings that only boto3 supports."""
    from botocore import UNSIGNED

    if config is None:
        return False
    signature = getattr(config, "signature_version", None)
    own = set(getattr(config, "s3", None) or {}) - {"addressing_style", "payload_signing_enabled"}
    return (
        bool(own)
        or signature not in (None, UNSIGNED, "s3v4", "v4")
        or any(getattr(config, name, None) for name in _BOTO3_ONLY)
    )


def _has_other_endpoint(session: Any) -> bool:
    """Return whether the environment or the AWS profile configures another endpoint."""
    profile = session._session.get_scoped_config()
    return any(os.environ.get(name) for name in _ENDPOINT_VARIABLES) or any(
        name in profile for name in _ENDPOINT_SETTINGS
    )


def _through_proxy(address: BucketAddress) -> bool:
    from botocore.utils import get_environ_proxies

    scheme = "https" if address.secure else "http"
    return bool(get_environ_proxies(f"{scheme}://{address.netloc}/").get(scheme))


def tls_context(config: S3Config) -> ssl.SSLContext:
    """Return the TLS context with the same CAs as boto3; blocking.

    :raises ConfigError: if the CA bundle cannot be loaded.
    """
    from botocore.httpsession import get_cert_path

    bundle = config.ca_bundle or str(get_cert_path(True))
    try:
        return _context(bundle, Path(bundle).stat().st_mtime_ns, config.verify)
    except OSError as error:  # which includes ssl.SSLError
        why = "contains no certificate" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"the CA bundle {bundle} {why}", field="ca_bundle", remedy="set ca_bundle to a PEM file on the worker"
        ) from None


@lru_cache(maxsize=8)
def _context(bundle: str, changed_at: int, verify: bool) -> ssl.SSLContext:
    """Cached, as loading a bundle takes as long as a hundred requests."""
    context = ssl.create_default_context(cafile=bundle)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
