"""A few sessions with one FTP server, used from an event loop: each blocking call runs in a thread."""

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
"""Who holds one may wait for those after it, never the other way round: so nobody waits in a circle."""


class Lease:
    """A session for one user at a time."""

    def __init__(self, control: Control, kind: Kind) -> None:
        self.control, self.kind = control, kind
        self.broken = False

    async def call(self, what: str, work: Callable[..., T], *arguments: object) -> T:
        """Do blocking work on the session, in a thread; errors typed. Cancelled, the session is cut off.

        :param what: what is done, on what, for messages.
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
            except FlowRunnerError:  # ours, between two commands
                raise
            except BaseException:
                self.broken = True
                raise


class Pool:
    """Opens sessions as they are needed, and keeps them for the next one.

    Reads, writes and commands have places of their own, so that a copy within the server cannot wait for itself.
    A server that allows fewer sessions is lived with, as long as one of them will come back.
    """

    def __init__(self, target: FtpTarget, where: str) -> None:
        self._target, self._where = target, where
        self._context = target.context()
        self._places = {kind: asyncio.Semaphore(target.connections) for kind in _ORDER}
        self._idle: list[Control] = []
        self._out: set[Lease] = set()
        self._change = asyncio.Event()
        self._opening = 0
        self._known_good = False

    async def acquire(self, kind: Kind) -> Lease:
        """A session, when there is a place; :meth:`release` it."""
        await self._places[kind].acquire()
        try:
            lease = Lease(await self._session(kind), kind)
        except BaseException:
            self._places[kind].release()
            raise
        self._out.add(lease)
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
                if not (self._idle or self._opening > 1 or self._comes_back(kind)):
                    raise self._no_more(error) from error
            else:
                self._known_good = True
                return control
            finally:
                self._opening -= 1
                self._change.set()
            if not self._idle:
                self._change.clear()
                await self._change.wait()

    def _comes_back(self, kind: Kind) -> bool:
        """Whether a session is out whose user does not wait for one of this kind."""
        return any(lease.kind in _ORDER[_ORDER.index(kind) :] for lease in self._out)

    def _no_more(self, error: FlowRunnerError) -> FlowRunnerError:
        """The same login was accepted before: it is one session too many."""
        if isinstance(error, AccessDenied) and self._known_good:
            return Unavailable(error.message, remedy="lower `connections` in the extra's 'flowrunner'")
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
        """Give a session back."""
        if lease not in self._out:
            return
        self._out.discard(lease)
        if lease.broken or lease.control.transferring:
            lease.control.close()
        else:
            self._idle.append(lease.control)
        self._places[lease.kind].release()
        self._change.set()

    @asynccontextmanager
    async def lease(self, kind: Kind) -> AsyncIterator[Lease]:
        """A session for a block."""
        lease = await self.acquire(kind)
        try:
            yield lease
        finally:
            await self.release(lease)

    async def close(self) -> None:
        """End all sessions."""
        for lease in self._out:
            lease.control.cut_off()
            lease.control.close()
        self._out.clear()
        idle, self._idle = self._idle, []
        await asyncio.gather(*(asyncio.to_thread(control.bye) for control in idle))


def _close_late(task: asyncio.Task[Control]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()
