"""The operator that creates presigned URLs."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.run import Run
from flowrunner_provider.core.spec import parse_duration
from flowrunner_provider.files.derived_results import PresignResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FilePresignOperator"]


class FilePresignOperator(FlowRunnerOperator):
    """On success, there is a presigned URL for every file of ``path``; anyone who has the URL can read, or write, that
    file until the URL expires.

    A killed or retried task signs again; the store is not changed, and earlier URLs stay valid until they expire.

    **Treat the URL as a credential.** It is masked in logs and error messages, but it is the task's result: whoever
    can read the XCom can use it. Keep ``expires`` short. The files are not checked: a URL to read a missing file
    answers 404. URLs that are signed with temporary credentials (a role or a managed identity) expire no later than
    the credentials do, on S3 often after one hour.

    :param path: a file in ``s3://``, ``gs://`` or ``wasb://``, e.g. ``s3://lake@raw/report.pdf``, or a list of files.
    :param method: ``GET`` to read, or ``PUT`` to write. Azure requires the header ``x-ms-blob-type: BlockBlob`` for
        ``PUT``.
    :param expires: how long the URLs are valid, e.g. ``"15m"``; at most 7 days.
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
        mask(text for file in signed for text in (file.url, file.url.partition("?")[2]))
        return PresignResult(url=signed[0].url, expires_at=signed[0].expires_at, files=signed)
