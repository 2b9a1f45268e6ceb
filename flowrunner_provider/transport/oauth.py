"""OAuth 2.0 credentials for :class:`~flowrunner_provider.transport.http.HttpTransport`.

::

    settings = ClientCredentials(issuer="https://login.example.com", client_id="etl", client_secret=...)
    HttpSettings(base_url=..., policy=..., credentials=OAuthCredentials(settings))

One object may serve any number of tasks, threads and event loops; all objects of a process with the same
settings share one token. What a token request does, and what each answer means: :mod:`.oauth_answers`; who
fetches and who waits: :mod:`.oauth_tokens`.

**Rotation.** A server that rotates refresh tokens gives each one once. The new one is saved in the
:class:`TokenStore` before the access token is used. A process that is killed between the server's answer and
that save has lost it, as no client can prevent; a server with a grace period gives it again, any other answers
``invalid_grant``, and somebody must consent anew. Two processes that refresh at the same time are told apart:
the one that is refused looks whether the store has a newer token, and goes on with that.
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
"""Where rotated refresh tokens live: a store of small JSON values, ``{"refresh_token": ...}``. What backs it
must be durable, shared by all workers, and fit for a secret (encrypted, as Airflow's connections and variables
are; the task state store is not). A failing call raises: "cannot tell" is never "there is none"."""

_CLIENT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_ASSERTIONS = ("assertion", "client_assertion")
_PROOF_LIFETIME = 60.0
_MOST_BYTES = 256 * 1024
_ANY_STATUS = range(200, 600)  # each is judged by what a token request means

_MEMORY = MemoryStore()
_log = logging.getLogger("flowrunner")


class _Bearer(dict[str, str]):
    """The header with a token, and the token's generation."""

    def __init__(self, token: str = "", generation: int = 0) -> None:
        super().__init__({"Authorization": f"Bearer {token}"})
        self.generation = generation


class OAuthCredentials:
    """A bearer token for each request, fetched and renewed in time; the ``credentials`` of a connection.

    A token request has ``token_timeout`` seconds with its repetitions, half of that for one exchange. It is
    repeated like any other (Retry-After included) also when a refresh token may have been used up by a lost
    answer: the old one is all there is, and servers that rotate allow that for a moment. Each repetition
    signs anew. Redirects are refused.

    :param store: where rotated refresh tokens are kept; None: in this process, with a warning when one is.
    :param tls: for the origin of ``token_url`` or ``issuer``.
    :param proxies: scheme -> proxy URL.
    :param allow_hosts: hosts beyond that origin that may be private, for what discovery finds.
    :param mask: told every token before it is used, so that logs hide it.
    :param tokens: the cache; all objects of a process share one by default.
    :param retry: when a token request is repeated in place.
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
        self._sent = _Bearer()
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
        """The token that is good now; fetched first if there is none.

        :raises AccessDenied: and the others that :mod:`.oauth_answers` names.
        """
        token, generation = await self._obtain() or ("", 0)
        sent = self._sent
        if generation != sent.generation:
            self._mask((token,))
            self._sent = sent = _Bearer(token, generation)
        return sent

    async def sign(self, request: Outgoing) -> Mapping[str, str]:
        return {}

    async def renew(self, refused: Refused) -> bool:
        """After a 401: fetch one new token, unless somebody has done so since the request was sent.

        :return: False if the refused token was itself fetched after a 401: asking on would be a loop.
        """
        generation = refused.sent.generation if isinstance(refused.sent, _Bearer) else self._slot().generation
        return await self._obtain(refused=generation) is not None

    def _slot(self) -> Slot:
        return self._tokens.slot(self._key)

    async def _obtain(self, refused: int | None = None) -> tuple[str, int] | None:
        slot = self._slot()
        patience = self.settings.token_timeout + 5.0
        return await self._tokens.obtain(
            slot, lambda: self._fetch(slot), clock=self._clock, patience=patience, refused=refused
        )

    # The token request

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
                token = await self._ask(http, slot)
            else:
                token = await self._refresh(http, slot, self.settings)
        slot.learn(token.access_token)
        return token

    async def _refresh(self, http: HttpTransport, slot: Slot, settings: RefreshToken) -> Token:
        current = self._current(slot, settings)
        try:
            token = await self._ask(http, slot, current)
        except MissingCredential:
            slot.unsaved = ""
            refused, current = current, self._current(slot, settings)
            if current == refused:
                raise
            token = await self._ask(http, slot, current)  # another process was quicker
        if token.refresh_token not in ("", current):
            self._keep(slot, settings, token.refresh_token)
        return token

    async def _ask(self, http: HttpTransport, slot: Slot, refresh_token: str = "") -> Token:
        settings = self.settings
        endpoint = settings.token_url or slot.endpoint or await self._discover(http, slot)
        headers, proof = self._proof()
        form = settings.form() + proof + ([("refresh_token", refresh_token)] if refresh_token else [])
        hide = Redactor((*self.secrets(), refresh_token, *(value for name, value in form if name in _ASSERTIONS)))
        began = self._clock.monotonic()
        failpoint("oauth.token.before_request")
        answer = await http.request(
            "POST",
            endpoint,
            headers={"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded", **headers},
            body=urlencode(form).encode(),
            repeatable=True,
            retry=False,
            max_bytes=_MOST_BYTES,
            expected=_ANY_STATUS,
        )
        failpoint("oauth.token.after_answer")
        return read_token(answer, settings, began=began, now=self._clock.now(), hide=hide.redact)

    async def _discover(self, http: HttpTransport, slot: Slot) -> str:
        issuer = self.settings.issuer.rstrip("/")
        parts = urlsplit(issuer)
        places = (
            f"{issuer}/.well-known/openid-configuration",
            f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}",
        )
        for place in places:
            answer = await http.request("GET", place, retry=False, max_bytes=_MOST_BYTES, expected=_ANY_STATUS)
            if answer.status != 404:
                break
        slot.endpoint = read_discovery(answer, self.settings, now=self._clock.now())
        return slot.endpoint

    def _proof(self) -> tuple[dict[str, str], list[tuple[str, str]]]:
        """What shows who we are, freshly signed where it is signed: headers and parameters."""
        settings, headers = self.settings, {}
        client, proof = [("client_id", settings.client_id)] if settings.client_id else [], list[tuple[str, str]]()
        match settings.client_auth:
            case "client_secret_basic":
                pair = f"{quote_plus(settings.client_id)}:{quote_plus(settings.client_secret)}"  # RFC 6749, 2.3.1
                headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
            case "client_secret_post":
                proof = [*client, ("client_secret", settings.client_secret)]
            case "private_key_jwt":
                claims = {"iss": settings.client_id, "sub": settings.client_id}
                assertion = self._signed(claims, _PROOF_LIFETIME)
                proof = [*client, ("client_assertion_type", _CLIENT_ASSERTION), ("client_assertion", assertion)]
            case "none":
                proof = client
        if isinstance(settings, JwtBearer):
            proof.append(("assertion", self._signed(settings.assertion(), settings.assertion_lifetime)))
        return headers, proof

    def _signed(self, claims: Mapping[str, object], lifetime: float) -> str:
        audience = self.settings.assertion_audience or self.settings.home
        return signed(self.settings, {**claims, "aud": audience}, now=self._clock.now(), lifetime=lifetime)

    # Rotated refresh tokens

    def _record(self, settings: RefreshToken) -> str:
        """The name of the record: of the first token of the family, so that a new consent begins anew."""
        return f"oauth.{fingerprint(settings.home, settings.client_id, settings.refresh_token)}"

    def _current(self, slot: Slot, settings: RefreshToken) -> str:
        if slot.unsaved:
            return slot.unsaved
        record = self._store.get(self._record(settings))
        if record is None:
            return settings.refresh_token
        kept = record.get("refresh_token") if isinstance(record, dict) else None
        if not isinstance(kept, str) or not kept:
            raise ConfigError(
                "OAuth: the record of the rotated refresh token is damaged",
                field="refresh_token",
                remedy="consent again and put the new refresh token into the connection",
            )
        self._learn(slot, kept)
        return kept

    def _keep(self, slot: Slot, settings: RefreshToken, rotated: str) -> None:
        slot.unsaved = rotated
        self._learn(slot, rotated)
        if self._store is _MEMORY:
            _log.warning(
                "OAuth: the server rotates refresh tokens; the new one is kept in this process only, "
                "so that the connection's refresh_token may not work for the next one"
            )
        failpoint("oauth.refresh.before_store")
        self._store.set(self._record(settings), {"refresh_token": rotated})
        failpoint("oauth.refresh.after_store")
        slot.unsaved = ""

    def _learn(self, slot: Slot, secret: str) -> None:
        slot.learn(secret)
        self._mask((secret,))
