"""Operator that downloads one file."""

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
_ALGORITHM_BY_LENGTH = {32: "md5", 40: "sha1", 64: "sha256", 128: "sha512"}


class HttpDownloadOperator(FlowRunnerOperator):
    """On success, the file, on any store, holds exactly the server's bytes, with the announced length and checksum.

    A killed or retried task resumes at the last durable byte if the server supports ranges and still has the same
    version (ETag or Last-Modified), and otherwise starts over; readers never see a partial file. Memory is constant. On
    a remote store, verifying a checksum after a resume reads back the bytes of earlier attempts.

    :param endpoint: appended to the connection's host. An absolute URL of another server is requested without the
        connection's credentials.
    :param save_to: a file, or a folder (an existing one, or a path ending in ``/``) in which the file gets the name
        that the server sends. On any store: ``/data/in/``, ``sftp://partner@/in/x.csv``.
    :param http_conn_id: id of an ``http`` connection.
    :param query: query parameters; a list repeats the parameter.
    :param headers: request headers; they override the connection's headers.
    :param checksum: the expected checksum in hex, e.g. ``sha256:9f86...``. Without an algorithm, the length selects
        md5, sha1, sha256 or sha512.
    :param max_bytes: largest accepted file; unlimited by default.
    :param if_exists: what to do when the file already exists: ``overwrite``, ``skip`` or ``fail``.
    :param only_if_changed: download only if the server has another version than the file at ``save_to``; otherwise the
        result has ``changed: false``. The version (ETag, Last-Modified) is stored beside the file as
        ``.<name>.version.json``. A file that was modified since is downloaded again.
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

        algorithm, checksum = _parse_checksum(self.checksum)
        one_of("if_exists", self.if_exists, IfExists)
        if self.only_if_changed and self.if_exists != "overwrite":
            raise ConfigError(
                "only_if_changed requires if_exists='overwrite'",
                field="only_if_changed",
                remedy="leave if_exists at 'overwrite'",
            )
        hook = FlowRunnerHttpHook(self.http_conn_id)
        async with Stores() as stores, hook.transport(run) as http:
            target = await stores.target(self.save_to, "save_to")
            folder = await target.is_folder()
            if folder and self.only_if_changed:
                raise ConfigError("only_if_changed needs a file name", field="save_to", remedy="add the file name")
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


def _parse_checksum(text: str | None) -> tuple[str, str]:
    if not text:
        return "", ""
    match = _CHECKSUM.fullmatch(text.strip())
    algorithm = (match[1] or _ALGORITHM_BY_LENGTH.get(len(match[2]), "")).lower() if match else ""
    if match is None or algorithm not in hashlib.algorithms_guaranteed or algorithm.startswith("shake"):
        raise ConfigError("the checksum is malformed", field="checksum", remedy="write 'sha256:' and hex digits")
    if hashlib.new(algorithm, usedforsecurity=False).digest_size * 2 != len(match[2]):
        raise ConfigError(
            f"the checksum does not have the length of {algorithm}", field="checksum", remedy="correct it"
        )
    return algorithm, match[2].lower()
