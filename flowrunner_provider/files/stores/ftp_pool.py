"""A pool of FTP sessions for an event loop; each blocking call runs in a thread."""

from __future__ import annotations

import asyncio
import ftplib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal, TypeVar

from flowrunner_provider.core.errors import AccessDenied, FlowRunnerError, TransientError, Unavailable
from flowrunner_provider.files.stores.ftp_control import Control
from flowrunner_provider.files.stores.ftp_errors import code_of, ftp_errors
from flowrunner_provider.files.stores.ftp_target import FtpTarget

__all__ = ["Lease", "Pool"]

T = TypeVar("T")

Kind = Literal["read", "write", "command"]
_ORDER: tuple[Kind, ...] = ("read", "write", "command")
"""The holder of a session may wait for the kinds that follow, never for earlier ones, which rules out deadlocks."""


class Lease:
    """Exclusive use of one session."""

    def __init__(self, control: Control, kind: Kind) -> None:
        self.control, self.kind = control, kind
        self.broken = False

    async def call(self, what: str, work: Callable[..., T], *arguments: object) -> T:
        """Run blocking work on the session in a thread and translate its errors; cancelling cuts the session off.

        :param what: the operation and its path, for messages.
        """
        with ftp_errors(what):
            task = asyncio.create_task(asyncio.to_thread(work, *arguments))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                self.broken = True
                self.control.cut_off()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
                if task.done() and not task.cancelled():
                    task.exception()
                raise
            except (ftplib.error_perm, ftplib.error_temp) as error:
                self.broken = self.broken or code_of(error) == 421
                raise
            except FlowRunnerError:  # raised between two commands
                raise
            except BaseException:
                self.broken = True
                raise


class Pool:
    """Opens sessions on demand and reuses them.

    Reads, writes and commands have separate limits, so that a copy within the server cannot wait for itself. If the
    server allows fewer sessions, callers wait for one that will be released.
    """

    def __init__(self, target: FtpTarget, where: str) -> None:
        self._target, self._where = target, where
        self._context = target.context()
        self._limits = {kind: asyncio.Semaphore(target.connections) for kind in _ORDER}
        self._idle: list[Control] = []
        self._leased: set[Lease] = set()
        self._changed = asyncio.Event()
        self._opening = 0
        self._logged_in_before = False

    async def acquire(self, kind: Kind) -> Lease:
        """Wait for a session; pass it to :meth:`release` afterwards."""
        await self._limits[kind].acquire()
        try:
            lease = Lease(await self._session(kind), kind)
        except BaseException:
            self._limits[kind].release()
            raise
        self._leased.add(lease)
        return lease

    async def _session(self, kind: Kind) -> Control:
        while True:
            while self._idle:
                control = self._idle.pop()
                if not control.stale():
                    return control
                control.close()
            self._opening += 1
            try:
                control = await self._open()
            except (AccessDenied, TransientError) as error:
                if not (self._idle or self._opening > 1 or self._will_be_released(kind)):
                    raise self._too_many(error) from error
            else:
                self._logged_in_before = True
                return control
            finally:
                self._opening -= 1
                self._changed.set()
            if not self._idle:
                self._changed.clear()
                await self._changed.wait()

    def _will_be_released(self, kind: Kind) -> bool:
        """Return whether a session is leased whose holder does not wait for one of this kind."""
        return any(lease.kind in _ORDER[_ORDER.index(kind) :] for lease in self._leased)

    def _too_many(self, error: FlowRunnerError) -> FlowRunnerError:
        """Return ``Unavailable`` for a refused login that was accepted before: the server limits sessions."""
        if isinstance(error, AccessDenied) and self._logged_in_before:
            return Unavailable(error.message, remedy="lower `connections` under 'flowrunner' in the extra")
        return error

    async def _open(self) -> Control:
        with ftp_errors(f"connecting to {self._where} ({self._target.where})", logging_in=True):
            task = asyncio.create_task(asyncio.to_thread(Control(self._target, self._context).open))
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                task.add_done_callback(_close_late)
                raise

    async def release(self, lease: Lease) -> None:
        """Return a session to the pool."""
        if lease not in self._leased:
            return
        self._leased.discard(lease)
        if lease.broken or lease.control.transferring:
            lease.control.close()
        else:
            self._idle.append(lease.control)
        self._limits[lease.kind].release()
        self._changed.set()

    @asynccontextmanager
    async def lease(self, kind: Kind) -> AsyncIterator[Lease]:
        """Lease a session for a block."""
        lease = await self.acquire(kind)
        try:
            yield lease
        finally:
            await self.release(lease)

    async def close(self) -> None:
        """Close all sessions."""
        for lease in self._leased:
            lease.control.cut_off()
            lease.control.close()
        self._leased.clear()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(asyncio.to_thread(control.bye) for control in idle))


def _close_late(task: asyncio.Task[Control]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
