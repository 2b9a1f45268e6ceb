"""Signed URLs of Google Cloud Storage, version 4; google-auth computes the signature.

Source: cloud.google.com/storage/docs/authentication/canonical-requests.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from flowrunner_provider.core.errors import ConfigError

__all__ = ["signed_url"]

_ALGORITHM = "GOOG4-RSA-SHA256"


def signed_url(
    credentials: Any, endpoint: str, bucket: str, key: str, method: str, expires: timedelta, now: datetime
) -> str:
    """Return a URL for one object. Blocking: impersonated accounts sign with a request to Google.

    :param credentials: google-auth credentials of a service account, which may be impersonated.
    :param now: the current time in UTC.
    :raises ConfigError: if these credentials cannot sign.
    """
    sign, signer = getattr(credentials, "sign_bytes", None), getattr(credentials, "signer_email", None)
    if sign is None or not signer:
        raise ConfigError(
            f"credentials of type {type(credentials).__name__} cannot sign URLs",
            field="keyfile_dict",
            remedy="use a service account's key, or an impersonation_chain that ends in a service account",
        )
    host = urlsplit(endpoint).netloc
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/auto/storage/goog4_request"
    query = "&".join(
        f"{name}={quote(value, safe='')}"
        for name, value in (
            ("X-Goog-Algorithm", _ALGORITHM),
            ("X-Goog-Credential", f"{signer}/{scope}"),
            ("X-Goog-Date", stamp),
            ("X-Goog-Expires", str(int(expires.total_seconds()))),
            ("X-Goog-SignedHeaders", "host"),
        )
    )
    path = f"/{quote(bucket, safe='')}/{quote(key, safe='/~')}"
    canonical = "\n".join((method, path, query, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD"))
    text = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return f"{endpoint.rstrip('/')}{path}?{query}&X-Goog-Signature={sign(text.encode()).hex()}"
