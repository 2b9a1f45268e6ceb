"""The HTTP client of all connectors: aiohttp with rate limit, deadline, redirect checks, body checks and retries.

Each request waits for the connection's rate limit and has a deadline. Redirects are followed manually, so that no
credential leaves its origin and no private address is reached. Incomplete bodies raise, errors are typed, and
repeatable requests are retried in place.

::

    async with HttpTransport(settings, run) as http:
        orders = (await http.request("GET", "/orders", params={"page": 2})).json()
        async with http.stream("GET", "/export.csv") as answer:
            async for chunk in answer.chunks: ...
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Collection, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from flowrunner_provider.core.errors import (
    ConfigError,
    FlowRunnerError,
    OutcomeUnknown,
    Rejected,
    TransientError,
)
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.net_guard import (
    check_redirect,
    check_url,
    same_origin,
    strip_credentials,
    strip_query_credentials,
)
from flowrunner_provider.core.run import Run
from flowrunner_provider.core.secrets import Redactor, redact_url
from flowrunner_provider.core.streams import collect
from flowrunner_provider.transport.http_auth import Authenticator
from flowrunner_provider.transport.http_body import (
    MAX_BYTES,
    NO_RATIO,
    Body,
    BodyReader,
    Call,
    Response,
    Streamed,
    repeated,
)
from flowrunner_provider.transport.http_errors import broken, refused, unknown
from flowrunner_provider.transport.http_settings import HttpSettings, check_headers, guarded_resolver
from flowrunner_provider.transport.http_urls import Params, as_url, is_absolute, joined, with_credentials, with_query

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession, ClientTimeout
    from yarl import URL

__all__ = ["MAX_BYTES", "Body", "HttpTransport", "Response", "Streamed"]

T = TypeVar("T")

_REPEATABLE = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
_METHOD = re.compile(r"[A-Z]{1,16}")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BODY_HEADERS = frozenset({"content-type", "content-length", "content-encoding", "content-language", "content-md5"})
_ERROR_BODY_BYTES = 8192


class HttpTransport:
    """HTTP client for one connection during one run; an async context manager.

    :param settings: the connection.
    :param run: provides deadline, retry plan and rate limit.
    """

    def __init__(self, settings: HttpSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self._stack = AsyncExitStack()
        self._redactor: tuple[tuple[str, ...], Redactor] | None = None

    async def __aenter__(self) -> HttpTransport:
        self._aiohttp = load("aiohttp", extra="http", needed_for="HTTP")
        settings = self.settings
        self._authenticator = Authenticator(settings, self.run, self._describe)
        self._network_errors = (self._aiohttp.ClientError, TimeoutError, OSError)
        self._reader = BodyReader(self._network_errors, self._describe)
        self._tls = settings.tls.context()
        self._sessions: dict[bool, ClientSession] = {}
        self._client_timeout: ClientTimeout | None = None  # reused while unchanged
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()

    async def request(
        self,
        method: str,
        endpoint: str = "",
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
        max_bytes: int = MAX_BYTES,
        expected: Collection[int] | None = None,
        retry: bool = True,
    ) -> Response:
        """Send one request and return the complete, checked answer.

        :param endpoint: appended to the base URL; an absolute URL of another origin is sent without the connection's
            credentials.
        :param params: added to the query.
        :param headers: override the connection's headers.
        :param repeatable: whether repeating the request has no further effect; None: depends on the method.
        :param timeout: seconds for one exchange; None: the connection's timeout.
        :param max_bytes: largest accepted body, decoded.
        :param expected: statuses that count as success; None: every 2xx.
        :param retry: False leaves all retries to the caller.
        :raises OutcomeUnknown: if the request must not be repeated and may have been carried out.
        """
        limit = self.settings.timeout if timeout is None else timeout
        call = self._call(method, endpoint, params, headers, body, repeatable, limit, max_bytes, expected)
        if retry and call.repeatable:
            first = (call.method, call.url, call.home, call.headers, call.body)

            async def once() -> Response:
                call.method, call.url, call.home, call.headers, call.body = first
                return await self._read_complete(call)

            return await repeated(once, self.run)
        if call.repeatable:
            return await self._read_complete(call)
        return await self._or_unknown(call, self._read_complete(call))

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        endpoint: str = "",
        *,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        repeatable: bool | None = None,
        timeout: float | None = None,
        max_bytes: int | None = None,
        expected: Collection[int] | None = None,
    ) -> AsyncGenerator[Streamed, None]:
        """Open an answer and read it in chunks, in constant memory; nothing is retried in place.

        Takes the parameters of :meth:`request`. Without ``timeout``, the exchange is limited by the run's deadline, and
        each pause by the connection's ``read_timeout``. The chunks raise if the body is incomplete.
        """
        limit = self.run.deadline.seconds if timeout is None else timeout
        call = self._call(method, endpoint, params, headers, body, repeatable, limit, max_bytes, expected)
        call.silence = self.settings.read_timeout
        raw = await self._or_unknown(call, self._follow_to_answer(call))
        try:
            async with aclosing(self._reader.chunks(call, raw, NO_RATIO if max_bytes else 100.0)) as chunks:
                encoded = raw.headers.get("Content-Encoding", "identity") != "identity"
                length = None if encoded else raw.content_length
                yield Streamed(raw.status, raw.headers, str(raw.url), length, chunks)
        finally:
            raw.close()

    def _call(
        self,
        method: str,
        endpoint: str,
        params: Params | None,
        headers: Mapping[str, str] | None,
        body: Body | None,
        repeatable: bool | None,
        timeout: float,
        max_bytes: int | None,
        expected: Collection[int] | None,
    ) -> Call:
        if not _METHOD.fullmatch(method):
            raise ConfigError(f"{method!r} is not an HTTP method", field="method", remedy="use e.g. GET")
        check_headers(headers or {})
        home = True
        if is_absolute(endpoint):
            check_url(endpoint, self.settings.policy)
            home, text = same_origin(endpoint, self.settings.base_url), endpoint
        else:
            text = joined(self.settings.base_url, endpoint)
        if params:
            text = with_query(text, params)
        url = self._address(text, home=home)
        if repeatable is None:
            repeatable = method in _REPEATABLE
        repeatable = repeatable and not isinstance(body, AsyncIterator)
        return Call(method, url, home, headers or {}, body, repeatable, timeout, max_bytes, expected)

    def _address(self, text: str, *, home: bool) -> URL:
        """Return the final URL, checked again in the spelling that is passed to aiohttp."""
        if home and (secrets := self.settings.credentials.query):
            text = with_credentials(text, secrets)
        url = as_url(text)
        if not home:
            check_url(str(url), self.settings.policy)
        return url

    async def _send(self, call: Call) -> ClientResponse:
        """Make one hop and return the head of the answer."""
        run, settings = self.run, self.settings
        await run.paced()
        headers = await self._authenticator.headers(call)
        seconds = run.deadline.limit(call.timeout)
        if seconds <= 0:
            run.deadline.check(self._describe(call))
        if self._client_timeout is None or (self._client_timeout.total, self._client_timeout.sock_read) != (
            seconds,
            call.silence,
        ):
            self._client_timeout = self._aiohttp.ClientTimeout(
                total=seconds, sock_connect=settings.connect_timeout, sock_read=call.silence
            )
        try:
            return await self._session(call.repeatable)._request(
                call.method,
                call.url,
                headers=headers,
                data=call.body() if callable(call.body) else call.body,
                allow_redirects=False,
                timeout=self._client_timeout,
                ssl=self._tls if call.home else True,
                proxy=settings.proxies.get(call.url.scheme) if settings.proxies else None,
            )
        except self._network_errors as error:
            raise broken(self._describe(call), error, repeatable=call.repeatable) from None

    def _session(self, repeatable: bool) -> ClientSession:
        """Return the session for repeatable or non-repeatable requests.

        Repeatable requests use pooled connections. A non-repeatable one gets its own connection: a pooled connection
        that the server closes while idle would look like a lost reply.
        """
        session = self._sessions.get(repeatable)
        if session is None:
            aiohttp, settings = self._aiohttp, self.settings
            trusted = frozenset(urlsplit(proxy).hostname or "" for proxy in settings.proxies.values())
            connector = aiohttp.TCPConnector(
                limit=settings.max_connections,
                resolver=guarded_resolver(settings.policy, trusted),
                force_close=not repeatable,
            )
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=256 * 1024,
            )
            session._retry_connection = False  # aiohttp must not retry on its own
            self._stack.push_async_callback(session.close)
            self._sessions[repeatable] = session
        return session

    async def _follow_to_answer(self, call: Call) -> ClientResponse:
        """Follow redirects to the expected answer, or raise the error for an unexpected one."""
        hops, renewed = 0, False
        while True:
            raw = await self._send(call)
            if call.expects(raw.status):
                call.acted = call.acted or not call.repeatable
                return raw
            try:
                if raw.status in _REDIRECTS and self.settings.follow_redirects and "Location" in raw.headers:
                    hops += 1
                    self._follow(call, raw, hops)
                    continue
                if raw.status == 401 and call.home and not renewed:
                    renewed = True
                    if await self._authenticator.renew(call, raw):
                        continue
                raise await self._refused(call, raw)
            finally:
                raw.release()

    def _follow(self, call: Call, raw: ClientResponse, hops: int) -> None:
        """Point ``call`` to the redirect's target, without anything that must not be sent there."""
        settings, here = self.settings, str(call.url)
        if raw.status in (301, 302, 303):
            call.acted = call.acted or not call.repeatable
        if hops > settings.max_redirects:
            raise Rejected(
                f"{self._describe(call)}: more than {settings.max_redirects} redirects",
                status=raw.status,
                remedy="check the address; it may redirect in a loop",
            )
        target = urljoin(here, raw.headers["Location"])
        check_redirect(here, target, settings.policy)
        if not same_origin(here, target):
            call.home = False
            call.headers = strip_credentials(call.headers, here, target, settings.secret_headers)
            target = strip_query_credentials(target, settings.credentials.query)
        call.url = self._address(target, home=call.home)
        becomes_get = call.method == "POST" if raw.status in (301, 302) else call.method != "HEAD"
        if raw.status in (301, 302, 303) and becomes_get:
            call.method, call.body = "GET", None
            call.headers = {name: v for name, v in call.headers.items() if name.lower() not in _BODY_HEADERS}
        elif call.once_only:
            raise Rejected(
                f"{self._describe(call)}: the redirect requires the body again, but it was a one-time stream",
                status=raw.status,
                remedy="use the target of the redirect as address",
            )

    async def _refused(self, call: Call, raw: ClientResponse) -> FlowRunnerError:
        sample = bytearray()
        try:
            async with aclosing(self._reader.chunks(call, raw, NO_RATIO, cap=_ERROR_BODY_BYTES)) as chunks:
                async for chunk in chunks:
                    sample += chunk
        except FlowRunnerError:
            sample = sample[:_ERROR_BODY_BYTES]  # truncated or damaged: the status is enough
        error = refused(
            self._describe(call),
            raw.status,
            raw.headers,
            self._redact(sample.decode("utf-8", "replace")),
            now=self.run.clock.now(),
            repeatable=call.repeatable,
            has_credentials=self.settings.credentials.configured,
            sent_credentials=call.home,
            fields=self.settings.credentials.fields,
        )
        error.status = raw.status
        if isinstance(error, TransientError) and error.retry_after:
            self.run.hold(error.retry_after)
        return error

    async def _or_unknown(self, call: Call, work: Awaitable[T]) -> T:
        """Await ``work``; after a non-repeatable request was carried out, raise every error as OutcomeUnknown."""
        try:
            return await work
        except OutcomeUnknown:
            raise
        except FlowRunnerError as error:
            if call.acted and not call.repeatable:
                raise unknown(error.message) from error
            raise

    async def _read_complete(self, call: Call) -> Response:
        raw = await self._follow_to_answer(call)
        try:
            if "Content-Encoding" in raw.headers:
                chunks = self._reader.chunks(call, raw, NO_RATIO, cap=call.max_bytes)
                content = await collect(chunks, max_bytes=call.max_bytes or 0, what=self._describe(call))
            else:
                content = await self._reader.plain(call, raw)
            return Response(raw.status, raw.headers, str(raw.url), content)
        finally:
            raw.release()

    def _describe(self, call: Call) -> str:
        return f"{call.method} {self._redact(redact_url(str(call.url)))}"

    def _redact(self, text: str) -> str:
        secrets = (*self.settings.secrets, *self.settings.credentials.secrets())
        if self._redactor is None or self._redactor[0] != secrets:
            self._redactor = (secrets, Redactor(secrets))
        return self._redactor[1].redact(text)
