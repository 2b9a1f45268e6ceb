"""The dry run of a copy: files are listed and selected as for the copy, and nothing is written."""

from __future__ import annotations

from flowrunner_provider.files.copy_plan import SHOWN, CopyPlan
from flowrunner_provider.files.copy_targets import CopyTargets
from flowrunner_provider.files.results import CopiedFile, CopyResult
from flowrunner_provider.files.session import SKIPPED, split_into_batches

__all__ = ["preview"]

_CHARACTERS = 6_000


async def preview(plan: CopyPlan, targets: CopyTargets, label: str) -> CopyResult:
    """Return the result that the copy would have.

    :param plan: a plan that was made and checked.
    :param label: the destination as the result names it.
    """
    files = size = used = 0
    entries: list[CopiedFile] = []
    for items in split_into_batches(plan.ahead(None, set())):
        for item, choice in zip(items, await targets.choose(items), strict=True):
            if choice == SKIPPED:
                plan.left.add("exists", targets.source_of(item))
                continue
            files, size = files + 1, size + (item.size or 0)
            if len(entries) < SHOWN and used < _CHARACTERS:
                entries.append(CopiedFile(path=targets.path_of(item, choice), size=item.size or 0))
                used += len(entries[-1].path)
    return CopyResult(
        files=files, bytes=size, skipped=plan.left.counts.get("exists", 0), dest=label, entries=entries,
        known=plan.known, dry_run=True, left=plan.left.first, reasons=plan.left.counts,
    )  # fmt: skip
