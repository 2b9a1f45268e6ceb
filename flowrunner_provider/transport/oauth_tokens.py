"""Access tokens of this process: each is fetched once, however many requests need it at the same time.

Tasks, threads and event loops share one :class:`TokenCache`. The first request without a fresh token starts a fetch,
and all others wait for it, in whichever event loop. The fetch is independent of the requests: cancelling a request does
not cancel it, so that a rotated refresh token on its way is not lost.

A short outage of the server goes unnoticed: the old token is used until it expires.

A *generation* numbers the tokens. After a 401, the request reports the refused generation. A newer token is returned as
it is, so only the first report causes a renewal.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

from flowrunner_provider.core.deadline import Clock
from flowrunner_provider.core.errors import FlowRunnerError, TransientError, from_event
from flowrunner_provider.transport.oauth_answers import Token

__all__ = ["PROCESS_TOKENS", "Slot", "TokenCache"]

_REFUSAL_SECONDS = 30.0
_FORCED_SECONDS = 60.0
_FALLBACK_SECONDS = 10.0
_MAX_SLOTS = 256

_generations = itertools.count(1)  # process-wide, so that a recreated slot never repeats a number


class _PendingFetch:
    """A running fetch and its waiters: futures, each with its event loop.

    :param fallback: the old token, used until it expires if the fetch fails.
    """

    def __init__(self, fallback: Token | None) -> None:
        self.fallback = fallback
        self.waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.task: asyncio.Task[Token] | None = None  # the loop only holds weak references
        self.generation = 0
        self.token: Token | None = None
        self.error: BaseException | None = None


@dataclass(eq=False)
class Slot:
    """State of one OAuth client; ``lock`` guards it and is never held across an await.

    :param shown: the latest secrets, for redaction: a server may quote the previous token.
    :param unsaved: a rotated refresh token that the store did not accept.
    :param endpoint: the result of discovery.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: Token | None = None
    generation: int = 0
    forced_at: float | None = None
    refusal: tuple[FlowRunnerError, float] | None = None
    pending: _PendingFetch | None = None
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    unsaved: str = ""
    endpoint: str = ""

    def recently_renewed(self, now: float) -> bool:
        """Return whether the token was renewed after a 401 less than 60 s ago."""
        return self.forced_at is not None and now - self.forced_at < _FORCED_SECONDS

    def learn(self, *secrets: str) -> None:
        """Add secrets to redact."""
        with self.lock:
            self.shown.extend(secret for secret in secrets if secret and secret not in self.shown)

    def known(self) -> tuple[str, ...]:
        """Return the secrets to redact."""
        with self.lock:
            return tuple(self.shown)


class TokenCache:
    """Tokens by the fingerprint of their settings.

    A permanent refusal is remembered for 30 s, and a Retry-After for its duration: a thousand items of a batch with a
    wrong secret cause one failed login, not a thousand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}

    def slot(self, key: str) -> Slot:
        """Return the slot of ``key``, creating it if needed."""
        with self._lock:
            if key not in self._slots and len(self._slots) >= _MAX_SLOTS:
                idle = next((old for old, slot in self._slots.items() if slot.pending is None), None)
                self._slots.pop(idle or "", None)
            return self._slots.setdefault(key, Slot())

    def forget(self) -> None:
        """Start empty: in a forked child, the parent's locks and fetches are meaningless."""
        self._lock, self._slots = threading.Lock(), {}

    async def obtain(
        self,
        slot: Slot,
        fetch: Callable[[], Awaitable[Token]],
        *,
        clock: Clock,
        patience: float,
        refused: int | None = None,
    ) -> tuple[str, int] | None:
        """Return an access token and its generation.

        :param fetch: the token request, including its retries.
        :param patience: seconds after which a fetch counts as stuck (its event loop stands still) and is replaced.
        :param refused: the generation that the far side refused; only a newer one is returned.
        :return: None if the refused generation was itself renewed after a 401 less than 60 s ago.
        """
        while True:
            now = clock.monotonic()
            with slot.lock:
                current = slot.token
                if current is not None and now < current.fresh_until and (refused is None or slot.generation > refused):
                    return current.access_token, slot.generation
                if refused == slot.generation and slot.recently_renewed(now):
                    return None
                if slot.refusal is not None:
                    _raise_recent_refusal(slot, now)
                pending, is_first = slot.pending, slot.pending is None
                if pending is None:
                    pending = slot.pending = _PendingFetch(current if refused is None else None)
                    slot.token = None
                arrival = asyncio.get_running_loop().create_future()
                pending.waiters.append((asyncio.get_running_loop(), arrival))
            if is_first:
                _start_fetch(slot, pending, fetch, clock, forced=refused is not None)
            try:
                await asyncio.wait_for(arrival, patience)
            except TimeoutError:
                with slot.lock:
                    if slot.pending is pending:
                        slot.pending = None
                continue
            if pending.error is not None:
                raise _copy(pending.error)
            if pending.token is not None and (refused is None or pending.generation > refused):
                return pending.token.access_token, pending.generation


def _start_fetch(
    slot: Slot, pending: _PendingFetch, fetch: Callable[[], Awaitable[Token]], clock: Clock, *, forced: bool
) -> None:
    async def run_fetch() -> Token:
        return await fetch()

    def finish(task: asyncio.Task[Token]) -> None:
        error, now = None if task.cancelled() else task.exception(), clock.monotonic()
        with slot.lock:
            if isinstance(error, TransientError) and pending.fallback is not None and now < pending.fallback.dead_at:
                again_at = min(pending.fallback.dead_at, now + (error.retry_after or _FALLBACK_SECONDS))
                slot.token = pending.token = replace(pending.fallback, fresh_until=again_at)
                pending.generation = slot.generation
            elif error is not None:
                pending.error = error
                _record_refusal(slot, error, now)
            elif not task.cancelled():
                slot.token = pending.token = task.result()
                slot.generation = next(_generations)
                slot.refusal = None
                slot.forced_at = now if forced else None
                pending.generation = slot.generation
            if slot.pending is pending:
                slot.pending = None
            waiters, pending.waiters = pending.waiters, []
        _notify(waiters)

    pending.task = asyncio.get_running_loop().create_task(run_fetch(), name="flowrunner-token")
    pending.task.add_done_callback(finish)


def _notify(waiters: Iterable[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]) -> None:
    for loop, arrival in waiters:
        try:
            loop.call_soon_threadsafe(_resolve, arrival)
        except RuntimeError:
            continue  # the loop and its waiter are gone


def _resolve(arrival: asyncio.Future[None]) -> None:
    if not arrival.done():
        arrival.set_result(None)


def _record_refusal(slot: Slot, error: BaseException, now: float) -> None:
    if isinstance(error, TransientError):
        slot.refusal = (error, now + error.retry_after) if error.retry_after else None
    elif isinstance(error, FlowRunnerError):
        slot.refusal = (error, now + _REFUSAL_SECONDS)


def _raise_recent_refusal(slot: Slot, now: float) -> None:
    error, until = slot.refusal or (None, 0.0)
    if error is None or now >= until:
        slot.refusal = None
        return
    repeated = _copy(error)
    if isinstance(repeated, TransientError):
        repeated.retry_after = until - now
    raise repeated


def _copy(error: BaseException) -> BaseException:
    """Return a separate instance per waiter: tracebacks grow, and threads must not share it."""
    return from_event(error.to_event()) if isinstance(error, FlowRunnerError) else error


PROCESS_TOKENS = TokenCache()
"""The cache that all connections of this process share."""

os.register_at_fork(after_in_child=PROCESS_TOKENS.forget)
