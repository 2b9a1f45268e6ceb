"""Pagination engine: all pages of an API into one file, each record exactly once.

Pages are written as JSON Lines, which a retry can continue. For Parquet and remote stores they are staged in a private
folder on this machine first, and copied at the end.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import Checkpoint, fingerprint
from flowrunner_provider.core.errors import ConfigError, Fenced, FlowRunnerError, IntegrityError, PermanentError
from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.run import Run
from flowrunner_provider.data.convert import convert
from flowrunner_provider.data.dataset import Dataset, Format
from flowrunner_provider.data.writers import RowWriter, open_writer
from flowrunner_provider.files.guard import FencingGuard
from flowrunner_provider.files.items import Item
from flowrunner_provider.files.transfer import transfer
from flowrunner_provider.files.transfer_job import Transfer
from flowrunner_provider.http.client import part_token
from flowrunner_provider.http.paging import PagePlan, Pager, Position
from flowrunner_provider.http.targets import Target, clean_staging, local_target, staging
from flowrunner_provider.transport.http import HttpTransport, Response

__all__ = ["CHECKPOINT_SECONDS", "paginate"]

CHECKPOINT_SECONDS = 3.0
"""Minimum time between two checkpoints; each costs an fsync and a call to the state store."""


@dataclass
class _Progress:
    """Progress of the work: the content of a checkpoint, beside the writer's own state.

    ``mark`` detects loops of any length in constant memory (Brent): it is the position at the last power of two, and a
    repeated position must equal it at some point.
    """

    position: Position = None
    pages: int = 0
    total: int | None = None
    mark: Position = None
    power: int = 1
    steps: int = 0
    digest: str = ""
    ended: bool = False


async def paginate(
    http: HttpTransport,
    plan: PagePlan,
    target: Target | Path,
    run: Run,
    *,
    format: Format = "jsonl",  # noqa: A002
    pager: Pager | None = None,
) -> Dataset:
    """Write the records of all pages to ``target`` and return a reference to it.

    A retry continues at the page after the last checkpoint; on another worker, without staged pages, at the first.

    :param format: ``jsonl`` or ``parquet``.
    :param pager: requests the pages; by default according to ``plan``.
    :raises IntegrityError: if the cursor repeats, the count differs from the announced one, or there are more than
        ``max_pages`` pages.
    :raises ConfigError: if a path does not fit the pages.
    """
    target = local_target(target) if isinstance(target, Path) else target
    pager = pager or Pager(plan)
    identity = fingerprint(asdict(plan), target.shown, http.settings.base_url)
    checkpoint = run.checkpoint("http.paginate", identity)
    if target.here and format == "jsonl":
        return await _extract(http, pager, Path(target.path), run, checkpoint)
    done = run.checkpoint("http.paginate.hand_over", identity)
    folder = staging(part_token(run))
    if done.state is None or not await _is_handed_over(target, done.state["bytes"]):
        try:
            staged = await _extract(http, pager, folder / "pages.jsonl", run, checkpoint)
            dataset = await _hand_over(staged, target, format, folder, run)
        except (PermanentError, ConfigError):
            try:
                run.lease.check()
            except Fenced:
                with suppress(OSError):  # the newer attempt may use it, or have removed it
                    folder.rmdir()
                raise
            clean_staging(folder)
            raise
        done.save(asdict(dataset), force=True)
    clean_staging(folder)
    failpoint("http.paginate.after_staging")
    return Dataset(**done.state)


async def _is_handed_over(target: Target, size: int) -> bool:
    found = await target.entry()
    return found is not None and found.size == size


async def _hand_over(
    staged: Dataset,
    target: Target,
    format: Format,  # noqa: A002
    folder: Path,
    run: Run,
) -> Dataset:
    """Convert the staged pages to the final format and copy them to the final name."""
    dataset = staged
    if format == "parquet":
        path = Path(target.path) if target.here else folder / "pages.parquet"
        dataset = convert(staged, path, "parquet", run)
    if target.here:
        return dataset
    source = local_target(dataset.path)
    parent = target.path.rpartition("/")[0]
    if parent:
        await target.store.mkdir(parent, parents=True)
    progress = run.progress("hand over", unit="bytes", total=dataset.bytes)
    job = Transfer(
        source=source.store, path=source.path, item=Item.of(0, source.name, await source.store.stat(source.path)),
        dest=target.store, target=target.path, token=part_token(run), verify="size", replace=True,
        preserve_times=False, durable=True, resume=None, advance=progress.advance, due=lambda: False,
        remember=_no_checkpoint, guard=FencingGuard(run),
    )  # fmt: skip
    await transfer(job)
    progress.finish()
    return replace(dataset, path=target.shown)


def _no_checkpoint(offset: int, digest: str) -> None:
    """An interrupted copy starts over: the pages are staged locally."""


async def _extract(http: HttpTransport, pager: Pager, path: Path, run: Run, checkpoint: Checkpoint) -> Dataset:
    """Write all pages to a local JSON Lines file."""
    saved: dict[str, Any] = checkpoint.state or {}
    if "dataset" in saved and _has_size(path, saved["dataset"]["bytes"]):
        return Dataset(**saved["dataset"])
    with open_writer(path, "jsonl", None, token=part_token(run), state=saved.get("writer")) as writer:
        place = _Progress(**saved["place"]) if writer.resumed else _Progress()
        try:
            await _fetch_pages(http, pager, writer, place, checkpoint, run)
            _check_total(place, writer.rows)
            run.lease.check()
        except Fenced:
            writer.withdraw()
            raise
        except IntegrityError:
            writer.discard()
            raise
        failpoint("http.paginate.before_commit")
        dataset = writer.commit()
        failpoint("http.paginate.after_commit")
    checkpoint.save({"dataset": asdict(dataset)}, force=True)
    return dataset


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


async def _fetch_pages(
    http: HttpTransport, pager: Pager, writer: RowWriter, place: _Progress, checkpoint: Checkpoint, run: Run
) -> None:
    progress = run.progress("fetch", unit="rows", total=place.total, start=writer.rows)
    saved_at = run.clock.monotonic()
    try:
        while not place.ended:
            rows = writer.rows
            await _fetch_page(http, pager, writer, place)
            failpoint("http.paginate.after_page")
            progress.total = place.total
            progress.advance(writer.rows - rows)
            if run.clock.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                _save_checkpoint(checkpoint, writer, place)
                saved_at = run.clock.monotonic()
    except IntegrityError:
        raise
    except FlowRunnerError:
        _save_checkpoint(checkpoint, writer, place)  # progress only counts complete pages
        raise
    progress.finish()


def _save_checkpoint(checkpoint: Checkpoint, writer: RowWriter, place: _Progress) -> None:
    checkpoint.save({"writer": writer.checkpoint(), "place": asdict(place)}, force=True)
    failpoint("http.paginate.after_checkpoint")


async def _fetch_page(http: HttpTransport, pager: Pager, writer: RowWriter, place: _Progress) -> None:
    """Fetch the next page, check it, write it, and advance; all of it or nothing."""
    plan, number = pager.plan, place.pages + 1
    if plan.max_pages is not None and place.pages >= plan.max_pages:
        raise IntegrityError(
            f"there are more than the {plan.max_pages} pages of `max_pages`",
            remedy="raise `max_pages`, or set `stop_when`",
        )
    answer = await pager.fetch(http, place.position)
    body = answer.json()
    records = pager.records(body, number)
    total = pager.total(body)
    following = pager.following(http, place.position, answer, body, len(records))
    last = following is None or pager.stops(body) or (_is_numbered(plan) and total == writer.rows + len(records))
    if not last:
        _check_advances(plan, place, answer, following, len(records))
    failpoint("http.paginate.before_write")
    writer.write_records(records)
    place.position, place.pages, place.ended = following, number, last
    place.total = place.total if total is None else total
    if _is_numbered(plan):
        place.digest = _digest(answer)
        return
    place.steps += 1
    if place.steps == place.power:
        place.mark, place.power, place.steps = following, place.power * 2, 0


def _is_numbered(plan: PagePlan) -> bool:
    return plan.strategy in ("page", "offset")


def _check_advances(plan: PagePlan, place: _Progress, answer: Response, following: Position, count: int) -> None:
    """Raise if the pages repeat."""
    if _is_numbered(plan):
        if count > 1 and _digest(answer) == place.digest:
            raise IntegrityError(
                f"pages {place.pages} and {place.pages + 1} are the same, byte for byte",
                remedy=f"check that the API supports the parameter {plan.page_param!r} or {plan.offset_param!r}",
            )
    elif following in (place.position, place.mark):
        raise IntegrityError(
            f"the cursor after page {place.pages + 1} came up before: the pages go round in a circle",
            remedy="check `cursor_path` and `cursor_param`; the API may not support the parameter",
        )


def _digest(answer: Response) -> str:
    return hashlib.sha256(answer.content).hexdigest()[:16]


def _check_total(place: _Progress, rows: int) -> None:
    if place.total is not None and place.total != rows:
        raise IntegrityError(
            f"{rows:,} records received, but the API announced {place.total:,}",
            remedy="retry; if they differ again, the data changes while it is read, or a page lacks records",
        )
