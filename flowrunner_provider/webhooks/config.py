"""Webhook options of an ``http`` connection: ``{"flowrunner": {"webhook": {...}}}`` in the extra."""

from __future__ import annotations

from dataclasses import dataclass

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import option
from flowrunner_provider.webhooks.choices import Scheme
from flowrunner_provider.webhooks.signing import Algorithm, Encoding, PlainHmac, Signer, StandardWebhooks, Unsigned

__all__ = ["WebhookOptions", "signer_of"]


@dataclass(frozen=True, kw_only=True)
class WebhookOptions:
    """How messages to one receiver are signed. Without ``scheme``, a secret selects Standard Webhooks."""

    scheme: Scheme | None = option(None, label="Signature", help="standard_webhooks, hmac or none.")
    secret: str | tuple[str, ...] = option(
        "", label="Signing secret", help="A secret, or a list while a Standard Webhooks secret is rotated.", secret=True
    )
    header: str = option("X-Signature-256", label="HMAC header", help="Header that carries the signature.")
    algorithm: Algorithm = option("sha256", label="HMAC algorithm")
    encoding: Encoding = option("hex", label="HMAC encoding", help="hex or base64.")
    prefix: str = option("", label="HMAC prefix", help="Text before the signature, e.g. sha256= or t={timestamp},v1=")
    signed: str = option("{body}", label="HMAC text", help="Signed text, e.g. {timestamp}.{body} or {id}.{body}")
    timestamp_header: str = option(
        "", label="HMAC timestamp header", help="Header that carries the Unix time of the request."
    )
    id_header: str = option(
        "webhook-id", label="Id header", help="Header that carries the message id, unless the scheme defines it."
    )

    @property
    def secrets(self) -> tuple[str, ...]:
        """All non-empty signing secrets."""
        values = (self.secret,) if isinstance(self.secret, str) else self.secret
        return tuple(value for value in values if value)


def signer_of(options: WebhookOptions, sign: Scheme | None = None) -> Signer:
    """Return the signer for a connection.

    :param sign: overrides the connection's scheme.
    :raises ConfigError: naming the option to correct.
    """
    secrets = options.secrets
    if not all(isinstance(secret, str) for secret in secrets):
        raise ConfigError("a signing secret is not a string", field="secret", remedy="make each secret a string")
    scheme = sign or options.scheme or ("standard_webhooks" if secrets else "none")
    if scheme == "none":
        return Unsigned(id_header=options.id_header)
    if not secrets:
        raise MissingCredential(
            f"the webhook scheme {scheme!r} needs a secret",
            field="secret",
            remedy='set {"flowrunner": {"webhook": {"secret": "..."}}} in the extra of the connection',
        )
    if scheme == "standard_webhooks":
        return StandardWebhooks(secrets=secrets)
    if len(secrets) > 1:
        raise ConfigError(
            "plain HMAC supports only one secret",
            field="secret",
            remedy="keep the secret that the receiver verifies now",
        )
    return PlainHmac(
        secret=secrets[0],
        header=options.header,
        algorithm=options.algorithm,
        encoding=options.encoding,
        prefix=options.prefix,
        signed=options.signed,
        timestamp_header=options.timestamp_header,
        id_header=options.id_header,
    )
