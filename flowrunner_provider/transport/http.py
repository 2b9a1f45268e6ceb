"""The one HTTP engine of all connectors: aiohttp, with every promise of the package around each exchange.

Each exchange waits for the connection's pace, has a deadline, follows redirects by hand (so that no
credential leaves its origin and no private address is reached), checks that the body is whole, and
fails with the error that says what to do. Requests that may be repeated are repeated in place.

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
from flowrunner_provider.transport.http_auth import Proofs
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
_ABOUT_BODY = frozenset({"content-type", "content-length", "content-encoding", "content-language", "content-md5"})
_SAMPLE = 8192


class HttpTransport:
    """Speaks to one connection during one run; an async context manager.

    :param settings: the connection.
    :param run: brings deadline, retry plan and pace.
    """

    def __init__(self, settings: HttpSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self._stack = AsyncExitStack()
        self._redactor: tuple[tuple[str, ...], Redactor] | None = None

    async def __aenter__(self) -> HttpTransport:
        self._aiohttp = load("aiohttp", extra="http", needed_for="HTTP")
        settings = self.settings
        self._proofs = Proofs(settings, self.run, self._what)
        self._wire = (self._aiohttp.ClientError, TimeoutError, OSError)
        self._reader = BodyReader(self._wire, self._what)
        self._tls = settings.tls.context()
        self._sessions: dict[bool, ClientSession] = {}
        self._limits: ClientTimeout | None = None  # of the latest exchange: the next one mostly has the same
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
        """Return the whole, checked answer to one request.

        :param endpoint: appended to the base URL; an absolute URL gets none of the connection's credentials
            unless it has the same origin.
        :param params: added to the query.
        :param headers: go before the connection's own.
        :param repeatable: whether doing it twice is like doing it once; None: what the method says.
        :param timeout: seconds for one exchange; None: the connection's.
        :param max_bytes: the most decoded bytes to accept.
        :param expected: statuses that are a success; None: all of 2xx.
        :param retry: False to leave every repetition to the caller.
        :raises OutcomeUnknown: when it must not be repeated and may have been carried out.
        """
        limit = self.settings.timeout if timeout is None else timeout
        call = self._call(method, endpoint, params, headers, body, repeatable, limit, max_bytes, expected)
        if retry and call.repeatable:
            first = (call.method, call.url, call.home, call.headers, call.body)

            async def once() -> Response:
                call.method, call.url, call.home, call.headers, call.body = first
                return await self._whole(call)

            return await repeated(once, self.run)
        if call.repeatable:
            return await self._whole(call)
        return await self._certain(call, self._whole(call))

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
        """Open an answer and read it piece by piece, in constant memory; nothing is repeated in place.

        The parameters are those of :meth:`request`; without ``timeout`` the whole exchange has the run's
        deadline, and each silence the connection's ``read_timeout``. The chunks raise when the body is not whole.
        """
        limit = self.run.deadline.seconds if timeout is None else timeout
        call = self._call(method, endpoint, params, headers, body, repeatable, limit, max_bytes, expected)
        call.silence = self.settings.read_timeout
        raw = await self._certain(call, self._answered(call))
        try:
            async with aclosing(self._reader.chunks(call, raw, NO_RATIO if max_bytes else 100.0)) as chunks:
                encoded = raw.headers.get("Content-Encoding", "identity") != "identity"
                length = None if encoded else raw.content_length
                yield Streamed(raw.status, raw.headers, str(raw.url), length, chunks)
        finally:
            raw.close()

    # One exchange, hop by hop

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
            raise ConfigError(f"{method!r} is not an HTTP method", field="method", remedy="write GET, say")
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
        """What is really requested, judged once more in the spelling that goes to aiohttp."""
        if home and (secrets := self.settings.credentials.query):
            text = with_credentials(text, secrets)
        url = as_url(text)
        if not home:
            check_url(str(url), self.settings.policy)
        return url

    async def _send(self, call: Call) -> ClientResponse:
        """One hop: pace, deadline, headers, and the head of the answer."""
        run, settings = self.run, self.settings
        await run.paced()
        headers = await self._proofs.headers(call)
        seconds = run.deadline.limit(call.timeout)
        if seconds <= 0:
            run.deadline.check(self._what(call))
        if self._limits is None or (self._limits.total, self._limits.sock_read) != (seconds, call.silence):
            self._limits = self._aiohttp.ClientTimeout(
                total=seconds, sock_connect=settings.connect_timeout, sock_read=call.silence
            )
        try:
            return await self._session(call.repeatable)._request(
                call.method,
                call.url,
                headers=headers,
                data=call.body() if callable(call.body) else call.body,
                allow_redirects=False,
                timeout=self._limits,
                ssl=self._tls if call.home else True,
                proxy=settings.proxies.get(call.url.scheme) if settings.proxies else None,
            )
        except self._wire as error:
            raise broken(self._what(call), error, repeatable=call.repeatable) from None

    def _session(self, repeatable: bool) -> ClientSession:
        """Pooled connections for what may be repeated. A request that may not gets a connection of its own:
        one that the server closes while it idles in a pool would look like a lost reply."""
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
            session._retry_connection = False  # it repeats behind the back of pace, deadline and ledger
            self._stack.push_async_callback(session.close)
            self._sessions[repeatable] = session
        return session

    async def _answered(self, call: Call) -> ClientResponse:
        """Follow redirects to the expected answer, or raise what the unexpected one means."""
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
                    if await self._proofs.renew(call, raw):
                        continue
                raise await self._refused(call, raw)
            finally:
                raw.release()

    def _follow(self, call: Call, raw: ClientResponse, hops: int) -> None:
        """Turn ``call`` to where the answer points, without what must not travel there."""
        settings, here = self.settings, str(call.url)
        if raw.status in (301, 302, 303):
            call.acted = call.acted or not call.repeatable
        if hops > settings.max_redirects:
            raise Rejected(
                f"{self._what(call)}: more than {settings.max_redirects} redirects",
                status=raw.status,
                remedy="check the address; it may lead in a circle",
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
            call.headers = {name: v for name, v in call.headers.items() if name.lower() not in _ABOUT_BODY}
        elif call.once_only:
            raise Rejected(
                f"{self._what(call)}: the redirect asks for the body again, which was a stream",
                status=raw.status,
                remedy="use the address that the redirect leads to",
            )

    async def _refused(self, call: Call, raw: ClientResponse) -> FlowRunnerError:
        sample = bytearray()
        try:
            async with aclosing(self._reader.chunks(call, raw, NO_RATIO, cap=_SAMPLE)) as chunks:
                async for chunk in chunks:
                    sample += chunk
        except FlowRunnerError:
            sample = sample[:_SAMPLE]  # it was cut or damaged: the status says enough
        error = refused(
            self._what(call),
            raw.status,
            raw.headers,
            self._hide(sample.decode("utf-8", "replace")),
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

    async def _certain(self, call: Call, work: Awaitable[T]) -> T:
        """Await ``work``; once the act was carried out, no error may say that nothing happened."""
        try:
            return await work
        except OutcomeUnknown:
            raise
        except FlowRunnerError as error:
            if call.acted and not call.repeatable:
                raise unknown(error.message) from error
            raise

    async def _whole(self, call: Call) -> Response:
        raw = await self._answered(call)
        try:
            if "Content-Encoding" in raw.headers:
                chunks = self._reader.chunks(call, raw, NO_RATIO, cap=call.max_bytes)
                content = await collect(chunks, max_bytes=call.max_bytes or 0, what=self._what(call))
            else:
                content = await self._reader.plain(call, raw)
            return Response(raw.status, raw.headers, str(raw.url), content)
        finally:
            raw.release()

    def _what(self, call: Call) -> str:
        return f"{call.method} {self._hide(redact_url(str(call.url)))}"

    def _hide(self, text: str) -> str:
        secrets = (*self.settings.secrets, *self.settings.credentials.secrets())
        if self._redactor is None or self._redactor[0] != secrets:
            self._redactor = (secrets, Redactor(secrets))
        return self._redactor[1].redact(text)
