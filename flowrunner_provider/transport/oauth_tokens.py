"""The tokens of this process: each is fetched once, however many ask for it at the same time.

Tasks, threads and event loops share one :class:`TokenCache`. Who finds no fresh token starts a *flight*, one
task that fetches it, and everybody waits for that flight, in whichever loop. The flight is nobody's own: a
request that is cancelled does not cancel it, so that a rotated refresh token that is on its way arrives.

A server that is away for a moment is not noticed: the token that should have been replaced serves until its end.

A *generation* numbers the tokens. Who was answered 401 says which generation was refused: a newer
one is handed out as it is, and only the first asker causes a renewal.
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

_REFUSAL_KEPT = 30.0
_FORCED_KEPT = 60.0
_SPARE_KEPT = 10.0
_MOST_SLOTS = 256

_generations = itertools.count(1)  # of the process, so that a slot made anew never repeats a number


class _Flight:
    """One fetch that is under way, and who waits for it: futures, each with its loop.

    :param spare: the token that should be replaced, to fall back on while it lasts.
    """

    def __init__(self, spare: Token | None) -> None:
        self.spare = spare
        self.waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self.task: asyncio.Task[Token] | None = None  # the loop itself holds tasks weakly only
        self.generation = 0
        self.token: Token | None = None
        self.error: BaseException | None = None


@dataclass(eq=False)
class Slot:
    """What is known about one client; ``lock`` guards it and is never held over an await.

    :param shown: the latest secrets, for redaction: a server may quote the token before this one.
    :param unsaved: a rotated refresh token that the store did not take.
    :param endpoint: what discovery found.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    token: Token | None = None
    generation: int = 0
    forced_at: float | None = None
    refusal: tuple[FlowRunnerError, float] | None = None
    flight: _Flight | None = None
    shown: deque[str] = field(default_factory=lambda: deque(maxlen=8))
    unsaved: str = ""
    endpoint: str = ""

    def renewed_lately(self, now: float) -> bool:
        """Whether the token is the result of a renewal after a 401, less than 60 s ago."""
        return self.forced_at is not None and now - self.forced_at < _FORCED_KEPT

    def learn(self, *secrets: str) -> None:
        """Remember what must not show."""
        with self.lock:
            self.shown.extend(secret for secret in secrets if secret and secret not in self.shown)

    def known(self) -> tuple[str, ...]:
        """What must not show."""
        with self.lock:
            return tuple(self.shown)


class TokenCache:
    """Tokens by the fingerprint of their settings.

    A refusal for good is remembered for 30 s, and a Retry-After for as long as it says: a thousand items of a
    batch with a wrong secret are one failed login, not a thousand.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}

    def slot(self, key: str) -> Slot:
        """The slot of ``key``, made when it is not there."""
        with self._lock:
            if key not in self._slots and len(self._slots) >= _MOST_SLOTS:
                idle = next((old for old, slot in self._slots.items() if slot.flight is None), None)
                self._slots.pop(idle or "", None)
            return self._slots.setdefault(key, Slot())

    def forget(self) -> None:
        """Begin anew: in a forked child, the locks and flights of the parent are nobody's."""
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

        :param fetch: the token request, tried as often as is sensible.
        :param patience: seconds after which a flight counts as stuck (its loop stands still) and is replaced.
        :param refused: the generation that the far side did not accept; only a newer one will do.
        :return: None when the generation refused is itself the result of a renewal less than 60 s ago.
        """
        while True:
            now = clock.monotonic()
            with slot.lock:
                held = slot.token
                if held is not None and now < held.fresh_until and (refused is None or slot.generation > refused):
                    return held.access_token, slot.generation
                if refused == slot.generation and slot.renewed_lately(now):
                    return None
                if slot.refusal is not None:
                    _raise_while_it_holds(slot, now)
                flight, starts = slot.flight, slot.flight is None
                if flight is None:
                    flight = slot.flight = _Flight(held if refused is None else None)
                    slot.token = None
                landed = asyncio.get_running_loop().create_future()
                flight.waiters.append((asyncio.get_running_loop(), landed))
            if starts:
                _start(slot, flight, fetch, clock, forced=refused is not None)
            try:
                await asyncio.wait_for(landed, patience)
            except TimeoutError:
                with slot.lock:
                    if slot.flight is flight:
                        slot.flight = None
                continue
            if flight.error is not None:
                raise _copy(flight.error)
            if flight.token is not None and (refused is None or flight.generation > refused):
                return flight.token.access_token, flight.generation


def _start(slot: Slot, flight: _Flight, fetch: Callable[[], Awaitable[Token]], clock: Clock, *, forced: bool) -> None:
    async def fly() -> Token:
        return await fetch()

    def land(task: asyncio.Task[Token]) -> None:
        error, now = None if task.cancelled() else task.exception(), clock.monotonic()
        with slot.lock:
            if isinstance(error, TransientError) and flight.spare is not None and now < flight.spare.dead_at:
                again_at = min(flight.spare.dead_at, now + (error.retry_after or _SPARE_KEPT))
                slot.token = flight.token = replace(flight.spare, fresh_until=again_at)
                flight.generation = slot.generation
            elif error is not None:
                flight.error = error
                _remember(slot, error, now)
            elif not task.cancelled():
                slot.token = flight.token = task.result()
                slot.generation = next(_generations)
                slot.refusal = None
                slot.forced_at = now if forced else None
                flight.generation = slot.generation
            if slot.flight is flight:
                slot.flight = None
            waiters, flight.waiters = flight.waiters, []
        _wake(waiters)

    flight.task = asyncio.get_running_loop().create_task(fly(), name="flowrunner-token")
    flight.task.add_done_callback(land)


def _wake(waiters: Iterable[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]]) -> None:
    for loop, landed in waiters:
        try:
            loop.call_soon_threadsafe(_land, landed)
        except RuntimeError:
            continue  # that loop has been closed, and its waiter with it


def _land(landed: asyncio.Future[None]) -> None:
    if not landed.done():
        landed.set_result(None)


def _remember(slot: Slot, error: BaseException, now: float) -> None:
    if isinstance(error, TransientError):
        slot.refusal = (error, now + error.retry_after) if error.retry_after else None
    elif isinstance(error, FlowRunnerError):
        slot.refusal = (error, now + _REFUSAL_KEPT)


def _raise_while_it_holds(slot: Slot, now: float) -> None:
    error, until = slot.refusal or (None, 0.0)
    if error is None or now >= until:
        slot.refusal = None
        return
    again = _copy(error)
    if isinstance(again, TransientError):
        again.retry_after = until - now
    raise again


def _copy(error: BaseException) -> BaseException:
    """An instance of its own for each who is told: tracebacks grow, and threads share nothing."""
    return from_event(error.to_event()) if isinstance(error, FlowRunnerError) else error


PROCESS_TOKENS = TokenCache()
"""The cache that all connections of this process share."""

os.register_at_fork(after_in_child=PROCESS_TOKENS.forget)
