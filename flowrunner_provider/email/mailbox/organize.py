"""Putting a mailbox in order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import NotFound
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.mailbox.acts import Act, Worker, prepare
from flowrunner_provider.email.mailbox.plan import Sieve, planned
from flowrunner_provider.email.mailbox.results import MailOrganizeResult
from flowrunner_provider.email.mailbox.session import Connect, Mailbox

__all__ = ["ARCHIVE", "OrganizeJob", "organize"]

ARCHIVE = "\\Archive"
"""As an act's target: the folder with this special use (RFC 6154), else one called Archive."""


@dataclass(frozen=True, kw_only=True)
class OrganizeJob:
    """What to do to which messages; the parameters of ``email.organize`` say what each means.

    :param uidvalidity: under which the UIDs of the sieve were told; 0 if nobody knows.
    :param identity: what must be the same for a retry to go on (JSON).
    """

    folder: str
    sieve: Sieve
    act: Act
    identity: Any
    uidvalidity: int = 0
    missing_ok: bool = False


async def organize(connect: Connect, run: Run, job: OrganizeJob) -> MailOrganizeResult:
    """Do it to each message once."""
    checkpoint = run.checkpoint("plan", fingerprint(job.identity))
    async with Mailbox(connect, job.folder, run, readonly=False) as box:
        act = job.act if job.act.target != ARCHIVE else replace(job.act, target=await _archive(box))
        await prepare(box, act)
        failpoint("email.organize.before_plan")
        plan = await planned(box, run, checkpoint, job.sieve, uidvalidity=job.uidvalidity)
        failpoint("email.organize.after_plan")
        if not plan.uids and not job.missing_ok:
            raise NotFound(
                f"no message in {job.folder!r} matches", remedy="correct search or uids, or set missing_ok=True"
            )
        progress = run.checkpoint("act", fingerprint(job.identity))
        pairs = list(zip(plan.uids, plan.identities, strict=True))
        worker = Worker(box, act, run, pairs, lambda state: _keep(progress, state))
        await worker.work(progress.state)
        expunged = await worker.expunges()
    return MailOrganizeResult(
        messages=len(plan.uids),
        missing=0 if job.sieve.uids is None else len(set(job.sieve.uids)) - len(plan.uids),
        target_folder=act.target,
        more=plan.more,
        expunged=expunged,
    )


def _keep(progress: Any, state: Any) -> None:
    progress.save(state, force=True)


async def _archive(box: Mailbox) -> str:
    return await box.do(lambda session: session.special(ARCHIVE)) or "Archive"
