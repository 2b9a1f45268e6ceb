"""Signed assertions (RFC 7523): JWTs that authenticate a client or name its user."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.transport.oauth_settings import OAuthSettings

__all__ = ["signed"]

_NEEDED_FOR = "signing OAuth assertions"
_MIN_RSA_BITS = 2048


def signed(settings: OAuthSettings, claims: Mapping[str, Any], *, now: datetime, lifetime: float) -> str:
    """Return a JWT with ``claims``, usable once and for ``lifetime`` seconds from ``now``.

    :raises ConfigError: naming ``private_key`` if the key is malformed or does not fit ``algorithm``.
    """
    jwt = load("joserfc.jwt", extra="oauth", needed_for=_NEEDED_FOR)
    errors = load("joserfc.errors", extra="oauth", needed_for=_NEEDED_FOR)
    header = {"alg": settings.algorithm, **({"kid": settings.key_id} if settings.key_id else {})}
    issued = int(now.timestamp())
    timed = {"iat": issued, "exp": issued + max(1, int(lifetime)), "jti": secrets.token_urlsafe(24)}
    key = _key(settings, errors)
    try:
        return str(jwt.encode(header, {**claims, **timed}, key, algorithms=[settings.algorithm]))
    except (errors.JoseError, TypeError, ValueError) as error:
        raise _bad_key(f"cannot sign with {settings.algorithm} ({type(error).__name__})") from None


def _key(settings: OAuthSettings, errors: Any) -> Any:
    jwk = load("joserfc.jwk", extra="oauth", needed_for=_NEEDED_FOR)
    kinds = {"ES": jwk.ECKey, "RS": jwk.RSAKey, "PS": jwk.RSAKey, "Ed": jwk.OKPKey}
    kind = kinds[settings.algorithm[:2]]
    text = settings.private_key.strip()
    try:
        if text.startswith("{"):
            key = kind.import_key(json.loads(text))
        else:
            key = kind.import_key(text.replace("\\n", "\n"), password=settings.private_key_password or None)
    except (errors.JoseError, TypeError, ValueError, KeyError, AttributeError) as error:
        # the cause may quote the key
        raise _bad_key(f"cannot be read as a key for {settings.algorithm} ({type(error).__name__})") from None
    if not key.is_private:
        raise _bad_key("is a public key")
    if kind is jwk.RSAKey and key.private_key.key_size < _MIN_RSA_BITS:
        raise _bad_key(f"is shorter than {_MIN_RSA_BITS} bits")
    return key


def _bad_key(reason: str) -> ConfigError:
    return ConfigError(
        f"OAuth: the private key {reason}",
        field="private_key",
        remedy="use a PEM or JWK, set `private_key_password` if it is encrypted, and the matching `algorithm`",
    )
