"""OAuth 2.0 credentials for :class:`~flowrunner_provider.transport.http.HttpTransport`.

::

    settings = ClientCredentials(issuer="https://login.example.com", client_id="etl", client_secret=...)
    HttpSettings(base_url=..., policy=..., credentials=OAuthCredentials(settings))

One object may serve any number of tasks, threads and event loops; all objects of a process with the same settings share
one token. :mod:`.oauth_answers` interprets the answers of the token endpoint; :mod:`.oauth_tokens` decides who fetches
and who waits.

**Rotation.** A server that rotates refresh tokens accepts each one once. The new one is saved in the
:class:`TokenStore` before the access token is used. A process that is killed between the server's answer and that save
loses it, which no client can prevent. A server with a grace period then returns it again; any other answers
``invalid_grant``, and the user must consent again. If two processes refresh at the same time, the refused one uses the
newer token from the store.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import quote_plus, urlencode, urlsplit

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.deadline import SYSTEM_CLOCK, Clock
from flowrunner_provider.core.errors import ConfigError, FlowRunnerError, MissingCredential
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.journal import KeyValue, MemoryStore
from flowrunner_provider.core.net_guard import NetPolicy
from flowrunner_provider.core.retry import RetryPlan
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import Redactor
from flowrunner_provider.transport.http import HttpTransport
from flowrunner_provider.transport.http_settings import HttpSettings, Outgoing, Refused, TlsOptions
from flowrunner_provider.transport.oauth_answers import Token, read_discovery, read_token
from flowrunner_provider.transport.oauth_settings import JwtBearer, OAuthSettings, RefreshToken
from flowrunner_provider.transport.oauth_signing import signed
from flowrunner_provider.transport.oauth_tokens import PROCESS_TOKENS, Slot, TokenCache

__all__ = ["OAuthCredentials", "TokenStore"]

TokenStore = KeyValue
"""Storage of rotated refresh tokens: small JSON values, ``{"refresh_token": ...}``. It must be durable, shared by all
workers, and suitable for secrets (encrypted, unlike the task state store). A failing call raises; it must never look
like a missing value."""

_CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTIONS = ("assertion", "client_assertion")
_CLIENT_ASSERTION_LIFETIME = 60.0
_MAX_BYTES = 256 * 1024
_ANY_STATUS = range(200, 600)  # read_token interprets every status

_MEMORY = MemoryStore()
_log = logging.getLogger("flowrunner")


class _Bearer(dict[str, str]):
    """The Authorization header, with the token's generation."""

    def __init__(self, token: str = "", generation: int = 0) -> None:
        super().__init__({"Authorization": f"Bearer {token}"})
        self.generation = generation


class OAuthCredentials:
    """Adds a bearer token to each request, fetching and renewing it in time; the ``credentials`` of a connection.

    A token request has ``token_timeout`` seconds including retries, and half of that per exchange. It is retried like
    any request (honouring Retry-After), even if a lost answer may have used up a refresh token: the old one is the only
    one left, and rotating servers accept it for a short time. Each retry signs anew. Redirects are refused.

    :param store: stores rotated refresh tokens; None keeps them in this process and logs a warning.
    :param tls: for the origin of ``token_url`` or ``issuer``.
    :param proxies: maps scheme to proxy URL.
    :param allow_hosts: other hosts that may be private, for endpoints found by discovery.
    :param mask: called with every token before it is used, so that logs redactor it.
    :param tokens: the cache; by default shared by the process.
    :param retry: when to retry a token request in metadata_url.
    """

    configured = True
    fields: tuple[str, ...] = ("scope", "audience")
    fixed = None
    query: Mapping[str, str] = {}
    signs = False

    def __init__(
        self,
        settings: OAuthSettings,
        *,
        store: TokenStore | None = None,
        tls: TlsOptions | None = None,
        proxies: Mapping[str, str] | None = None,
        allow_hosts: tuple[str, ...] = (),
        mask: Callable[[Iterable[str]], None] = lambda secrets: None,
        tokens: TokenCache = PROCESS_TOKENS,
        retry: RetryPlan | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self._store: TokenStore = _MEMORY if store is None else store
        self._mask, self._tokens, self._clock = mask, tokens, clock
        self._retry = retry or RetryPlan()
        self._known: tuple[str, ...] = tuple(settings.secrets())
        self._bearer = _Bearer()
        plain = settings.allow_http or settings.home.startswith("http:")
        self._wire = HttpSettings(
            base_url=settings.home,
            policy=NetPolicy(
                home=settings.home, allow_hosts=allow_hosts, schemes=("https", "http") if plain else ("https",)
            ),
            timeout=settings.token_timeout / 2,
            tls=tls or TlsOptions(),
            proxies=proxies or {},
            follow_redirects=False,
        )
        self._key = fingerprint(
            type(settings).__name__, dataclasses.asdict(settings), dataclasses.asdict(self._wire.tls)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    def secrets(self) -> Iterable[str]:
        return (*self._known, *self._slot().known())

    async def headers(self) -> Mapping[str, str]:
        """Return the current token, fetching one first if needed.

        :raises AccessDenied: and the other errors of :mod:`.oauth_answers`.
        """
        token, generation = await self._obtain_token() or ("", 0)
        sent = self._bearer
        if generation != sent.generation:
            self._mask((token,))
            self._bearer = sent = _Bearer(token, generation)
        return sent

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        return {}

    async def renew(self, refused: Refused) -> bool:
        """After a 401, fetch one new token, unless that was done since the request was sent.

        :return: False if the refused token was itself fetched after a 401, to avoid a loop.
        """
        generation = refused.sent.generation if isinstance(refused.sent, _Bearer) else self._slot().generation
        return await self._obtain_token(refused=generation) is not None

    def _slot(self) -> Slot:
        return self._tokens.slot(self._key)

    async def _obtain_token(self, refused: int | None = None) -> tuple[str, int] | None:
        slot = self._slot()
        patience = self.settings.token_timeout + 5.0
        return await self._tokens.obtain(
            slot, lambda: self._fetch(slot), clock=self._clock, patience=patience, refused=refused
        )

    async def _fetch(self, slot: Slot) -> Token:
        run = Run.alone(timeout=self.settings.token_timeout, retry=self._retry, clock=self._clock)
        try:
            return await run.retry.acall(lambda: self._attempt(run, slot), run.deadline)
        except FlowRunnerError:
            slot.endpoint = ""  # it may have moved
            raise

    async def _attempt(self, run: Run, slot: Slot) -> Token:
        async with HttpTransport(dataclasses.replace(self._wire, secrets=tuple(self.secrets())), run) as http:
            if not isinstance(self.settings, RefreshToken):
                token = await self._request_token(http, slot)
            else:
                token = await self._request_with_refresh_token(http, slot, self.settings)
        slot.learn(token.access_token)
        return token

    async def _request_with_refresh_token(self, http: HttpTransport, slot: Slot, settings: RefreshToken) -> Token:
        current = self._current_refresh_token(slot, settings)
        try:
            token = await self._request_token(http, slot, current)
        except MissingCredential:
            slot.unsaved = ""
            refused, current = current, self._current_refresh_token(slot, settings)
            if current == refused:
                raise
            token = await self._request_token(http, slot, current)  # another process has refreshed it
        if token.refresh_token not in ("", current):
            self._save_refresh_token(slot, settings, token.refresh_token)
        return token

    async def _request_token(self, http: HttpTransport, slot: Slot, refresh_token: str = "") -> Token:
        settings = self.settings
        endpoint = settings.token_url or slot.endpoint or await self._discover(http, slot)
        headers, params = self._client_authentication()
        form = settings.form() + params + ([("refresh_token", refresh_token)] if refresh_token else [])
        redactor = Redactor((*self.secrets(), refresh_token, *(value for name, value in form if name in _ASSERTIONS)))
        began = self._clock.monotonic()
        failpoint("oauth.token.before_request")
        answer = await http.request(
            "POST",
            endpoint,
            headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded", **headers},
            body=urlencode(form).encode(),
            repeatable=True,
            retry=False,
            max_bytes=_MAX_BYTES,
            expected=_ANY_STATUS,
        )
        failpoint("oauth.token.after_answer")
        return read_token(answer, settings, began=began, now=self._clock.now(), hide=redactor.redact)

    async def _discover(self, http: HttpTransport, slot: Slot) -> str:
        issuer = self.settings.issuer.rstrip("/")
        parts = urlsplit(issuer)
        metadata_urls = (
            f"{issuer}/.well-known/openid-configuration",
            f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}",
        )
        for metadata_url in metadata_urls:
            answer = await http.request("GET", metadata_url, retry=False, max_bytes=_MAX_BYTES, expected=_ANY_STATUS)
            if answer.status != 404:
                break
        slot.endpoint = read_discovery(answer, self.settings, now=self._clock.now())
        return slot.endpoint

    def _client_authentication(self) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """Return headers and parameters that authenticate the client, freshly signed if signatures are used."""
        settings, headers = self.settings, {}
        client, params = [("client_id", settings.client_id)] if settings.client_id else [], list[tuple[str, str]]()
        match settings.client_auth:
            case "client_secret_basic":
                pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret)}"  # RFC 6749, 2.3.1
                headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            case "client_secret_post":
                params = [*client, ("client_secret", settings.client_secret)]
            case "private_key_jwt":
                claims = {"iss": settings.client_id, "sub": settings.client_id}
                assertion = self._signed(claims, _CLIENT_ASSERTION_LIFETIME)
                params = [*client, ("client_assertion_type", _CLIENT_ASSERTION), ("client_assertion", assertion)]
            case "none":
                params = client
        if isinstance(settings, JwtBearer):
            params.append(("assertion", self._signed(settings.assertion(), settings.assertion_lifetime)))
        return headers, params

    def _signed(self, claims: Mapping[str, object], lifetime: float) -> str:
        audience = self.settings.assertion_audience or self.settings.home
        return signed(self.settings, {**claims, "aud": audience}, now=self._clock.now(), lifetime=lifetime)

    def _record_name(self, settings: RefreshToken) -> str:
        """Return the record's name, derived from the first refresh token, so that a new consent starts a new record."""
        return f"oauth.{fingerprint(settings.home, settings.client_id, settings.refresh_token)}"

    def _current_refresh_token(self, slot: Slot, settings: RefreshToken) -> str:
        if slot.unsaved:
            return slot.unsaved
        record = self._store.get(self._record_name(settings))
        if record is None:
            return settings.refresh_token
        kept = record.get("refresh_token") if isinstance(record, dict) else None
        if not isinstance(kept, str) or not kept:
            raise ConfigError(
                "OAuth: the stored refresh token is damaged",
                field="refresh_token",
                remedy="consent again and put the new refresh token into the connection",
            )
        self._add_secret(slot, kept)
        return kept

    def _save_refresh_token(self, slot: Slot, settings: RefreshToken, rotated: str) -> None:
        slot.unsaved = rotated
        self._add_secret(slot, rotated)
        if self._store is _MEMORY:
            _log.warning(
                "OAuth: the server rotates refresh tokens, but the new one is kept in this process only; "
                "the connection's refresh_token may not work for the next process"
            )
        failpoint("oauth.refresh.before_store")
        self._store.set(self._record_name(settings), {"refresh_token": rotated})
        failpoint("oauth.refresh.after_store")
        slot.unsaved = ""

    def _add_secret(self, slot: Slot, secret: str) -> None:
        slot.learn(secret)
        self._mask((secret,))
