"""One file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.http.choices import IfExists
from flowrunner_provider.http.operators.arguments import Stores, mapping, one_of, positive, strings
from flowrunner_provider.http.results import Download
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["HttpDownloadOperator"]

_CHECKSUM = re.compile(r"(?:([\w-]+):)?([0-9a-fA-F]{32,128})")
_LENGTHS = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


class HttpDownloadOperator(FlowRunnerOperator):
    """The file, on any store, holds exactly the bytes of the server's, of its announced length and checksum.

    Killed or retried, it goes on where the bytes were durable if the server still has the same version (ETag or
    Last-Modified) and knows ranges, and else starts again; no reader ever sees a part. Memory is constant. On a
    store that is not this machine, a checksum reads back what was there before a retry.

    :param endpoint: appended to the connection's host; an absolute URL of another server gets none of the
        connection's credentials.
    :param save_to: a file, or a folder (it exists, or ends in ``/``) for the name that the server gives; on any
        store: ``/data/in/``, ``sftp://partner@/in/x.csv``.
    :param http_conn_id: an ``http`` connection.
    :param query: added to the query.
    :param headers: go before the connection's own.
    :param checksum: the expected one, in hex, e.g. ``sha256:9f86...``; without a name its length tells the kind.
    :param max_bytes: the largest file to accept; any by default.
    :param if_exists: what to do when the file is there: ``overwrite``, ``skip`` or ``fail``.
    :param only_if_changed: ask for the file only if the server has another version than the one that is there;
        else the result says ``changed: false``. The version (ETag, Last-Modified) is kept beside the file, as
        ``.<name>.version.json``; a file that somebody else has written since is fetched.
    """

    action: ClassVar[str] = "http.download"
    template_fields: Sequence[str] = ("http_conn_id", "endpoint", "save_to", "query", "headers", "checksum")

    def __init__(
        self,
        *,
        endpoint: str,
        save_to: str,
        http_conn_id: str = "http_default",
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        checksum: str | None = None,
        max_bytes: int | None = None,
        if_exists: IfExists = "overwrite",
        only_if_changed: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id, self.endpoint, self.save_to = http_conn_id, endpoint, save_to
        self.query, self.headers, self.checksum = query, headers, checksum
        self.max_bytes, self.if_exists, self.only_if_changed = max_bytes, if_exists, only_if_changed

    async def perform(self, run: Run) -> Download:
        from flowrunner_provider.http.download import DownloadSpec, download
        from flowrunner_provider.http.hook import FlowRunnerHttpHook

        algorithm, checksum = _checksum(self.checksum)
        one_of("if_exists", self.if_exists, IfExists)
        if self.only_if_changed and self.if_exists != "overwrite":
            raise ConfigError(
                "only_if_changed replaces the file when it has changed",
                field="only_if_changed",
                remedy="leave if_exists at 'overwrite'",
            )
        hook = FlowRunnerHttpHook(self.http_conn_id)
        async with Stores() as stores, hook.transport(run) as http:
            target = await stores.target(self.save_to, "save_to")
            folder = await target.is_folder()
            if folder and self.only_if_changed:
                raise ConfigError("only_if_changed needs the file's name", field="save_to", remedy="name the file")
            spec = DownloadSpec(
                endpoint=self.endpoint,
                save_to=target,
                folder=folder,
                params=mapping(self.query, "query"),
                headers=strings(self.headers, "headers"),
                algorithm=algorithm,
                checksum=checksum,
                max_bytes=positive(self.max_bytes, "max_bytes"),
                if_exists=self.if_exists,
                only_if_changed=self.only_if_changed,
            )
            return await download(http, spec, run)


def _checksum(text: str | None) -> tuple[str, str]:
    if not text:
        return "", ""
    match = _CHECKSUM.fullmatch(text.strip())
    algorithm = (match[1] or _LENGTHS.get(len(match[2]), "")).lower() if match else ""
    if match is None or algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise ConfigError("the checksum cannot be read", field="checksum", remedy="write 'sha256:' and hex digits")
    if hashlib.new(algorithm, usedforsecurity=False).digest_size * 2 != len(match[2]):
        raise ConfigError(f"the checksum is no {algorithm}", field="checksum", remedy="check its length")
    return algorithm, match[2].lower()
