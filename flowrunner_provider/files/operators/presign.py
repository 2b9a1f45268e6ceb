"""Signed addresses of files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.derived import PresignResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FilePresignOperator"]


class FilePresignOperator(FlowRunnerOperator):
    """There is a URL for every file of ``path`` by which anybody who has it may read, or write, that file until it
    expires.

    Killed or retried, it signs anew; nothing is changed in the store, and an earlier URL stays valid until its end.
    **The URL is a key**: it is masked in logs and in our errors, but it is the result, so whoever may read the XCom
    may use it. Keep ``expires`` short. Nothing is looked at: a URL to read what is not there answers 404. With
    temporary credentials (a role, a machine's identity) it ends with these at the latest, on S3 often after one hour.

    :param path: a file in ``s3://``, ``gs://`` or ``wasb://``, or a list, e.g. ``s3://lake@raw/report.pdf``.
    :param method: ``GET`` to read; ``PUT`` to write (to Azure with the header ``x-ms-blob-type: BlockBlob``).
    :param expires: how long it is good for, at most 7 days.
    """

    action: ClassVar[str] = "files.presign"
    template_fields: Sequence[str] = ("path", "expires")
    keeps_result: ClassVar[bool] = False

    def __init__(
        self,
        *,
        path: str | list[str],
        method: Literal["GET", "PUT"] = "GET",
        expires: str | float | timedelta = "15m",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.method = method
        self.expires = expires

    async def perform(self, run: Run) -> PresignResult:
        """Read the connections and sign."""
        from flowrunner_provider.files.hook import open_store
        from flowrunner_provider.files.presign import check, presign
        from flowrunner_provider.files.uri import one_file, several
        from flowrunner_provider.runtime.masking import mask

        uris = [self.path] if isinstance(self.path, str) else list(self.path)
        several(uris, "path")
        locations = [one_file(uri, "path") for uri in uris]
        expires = parse_duration(self.expires, "expires")
        check(self.method, expires)
        stores = {location.root: open_store(location) for location in locations}
        files = [(stores[location.root], location.path, uri) for location, uri in zip(locations, uris, strict=True)]
        signed = await presign(files, self.method, expires, run.clock.now())
        mask(text for one in signed for text in (one.url, one.url.partition("?")[2]))
        return PresignResult(url=signed[0].url, expires_at=signed[0].expires_at, files=signed)
