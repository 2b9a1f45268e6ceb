"""The engine of ``files.crypt``: it streams files of any store through the child process that holds the keys."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flowrunner_provider.core.checkpoint import fingerprint
from flowrunner_provider.core.errors import BadSignature, ConfigError, Json, NotFound, SecurityError, Unavailable
from flowrunner_provider.core.failpoints import ENVIRONMENT
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.content import read_whole
from flowrunner_provider.files.crypt import child as crypt_child
from flowrunner_provider.files.crypt.home import gnupg_home
from flowrunner_provider.files.derived_results import CryptResult, DerivedFile
from flowrunner_provider.files.items import Item, Source, find
from flowrunner_provider.files.publish import IfExists, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.store import Store

__all__ = ["CryptOptions", "crypt"]

ACTION = "files.crypt"
SUFFIXES = (".pgp", ".gpg", ".asc", ".age", ".aes")
_UNSIGNED = {"age": ".age", "aes_gcm": ".aes"}
"""The schemes without signatures, and their file name suffixes."""
_CHUNK = 256 * 1024
_MAX_SIGNATURE = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class CryptOptions:
    """The options of ``files.crypt``; see its parameters.

    :param keys: the keys for the child process: ``secret_key``, ``password``, ``public_keys``, ``recipients``.
    """

    operation: str
    scheme: str
    armor: bool = False
    signed: bool = True
    signature: str = ""
    if_exists: IfExists = "overwrite"
    max_files: int = 10_000
    keys: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        one_of("operation", self.operation, ("encrypt", "decrypt", "sign", "verify"))
        one_of("scheme", self.scheme, ("pgp", *_UNSIGNED))
        one_of("if_exists", self.if_exists, ("overwrite", "skip", "fail"))
        if self.scheme in _UNSIGNED and (self.signed or self.operation in ("sign", "verify")):
            raise ConfigError(f"{self.scheme} has no signatures", field="scheme", remedy="use pgp, or set signed=False")
        if self.scheme == "aes_gcm" and self.armor:
            raise ConfigError("aes_gcm has no armored form", field="armor", remedy="remove armor")

    @property
    def detached(self) -> bool:
        """Whether a detached signature is verified, which writes no file."""
        return self.operation == "verify" and bool(self.signature)

    def named(self, name: str) -> str:
        """Return the name of the result in a target folder."""
        if self.operation in ("decrypt", "verify"):
            suffix = next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), "")
            return name[: -len(suffix)] if len(suffix) < len(name) and suffix else f"{name}.out"
        if self.operation == "sign":
            return name + (".asc" if self.armor else ".sig")
        return name + (_UNSIGNED.get(self.scheme) or (".asc" if self.armor else ".pgp"))


async def crypt(
    sources: Sequence[tuple[Store, str]],
    dest: tuple[Store, str] | None,
    run: Run,
    options: CryptOptions,
    *,
    identity_of_work: Json = None,
) -> CryptResult:
    """Process every file that ``sources`` match, one after another.

    :param dest: an open store and the path of the target file, or of a folder if it ends with ``/`` or ``sources`` can
        match several files; None to verify detached signatures.
    :param identity_of_work: JSON that identifies the work; a retry resumes only if it is equal.
    """
    job = _CryptJob([Source(*source) for source in sources], run, options)
    if dest is None or options.detached:
        return await job.verify()
    return await job.publish_all(dest, identity_of_work)


class _CryptJob:
    def __init__(self, sources: list[Source], run: Run, options: CryptOptions) -> None:
        self._sources, self._run, self._options = sources, run, options
        self._signers: set[str] = set()

    async def _find(self, *, missing_ok: bool) -> list[Item]:
        items = await find(
            self._sources, self._run, recursive=False, max_files=self._options.max_files, missing_ok=missing_ok
        )
        if not items and not missing_ok:
            wanted = ", ".join(source.path for source in self._sources)
            raise NotFound(f"nothing matches {wanted}", remedy="correct the path")
        return items

    async def publish_all(self, dest: tuple[Store, str], identity_of_work: Json) -> CryptResult:
        """Publish the result of each file."""
        store, path = dest
        options = self._options
        publisher = Publisher(self._run, store, ACTION, identity_of_work, options.if_exists, announce=True)
        items = await self._find(missing_ok=publisher.resumed)
        several = path.endswith("/") or len(self._sources) > 1 or not self._sources[0].is_file
        folder = path.rstrip("/") or "/"
        targets = {item.key: store.join(folder, options.named(item.relative)) if several else path for item in items}
        if len(set(targets.values())) != len(items):
            raise ConfigError("two files would get the same name", field="source", remedy="process them in two tasks")
        own = {(id(s.store), s.path_of(i.relative)) for i in items for s in [self._sources[i.source]]}
        if any((id(store), target) in own for target in targets.values()):
            raise ConfigError("a file would replace its own source", field="dest", remedy="choose another folder")
        await publisher.refuse_existing(targets.values())
        progress = self._run.progress(options.operation, unit="files", total=len(items))
        for item in items:
            if publisher.last is None or list(item.key) > list(publisher.last):
                await self._publish(publisher, targets[item.key], item)
            progress.advance()
        progress.finish()
        for published in publisher.published:
            self._signers.update(map(str, published.detail if isinstance(published.detail, list) else []))
        return CryptResult(
            operation=options.operation, files=publisher.files, bytes=publisher.bytes, skipped=publisher.skipped,
            signers=sorted(self._signers),
            entries=[DerivedFile(path=file.path, size=file.size) for file in publisher.published if not file.skipped],
        )  # fmt: skip

    async def _publish(self, publisher: Publisher, target: str, item: Item) -> None:
        """Publish the result of a file; if only GnuPG can read it, start again with GnuPG."""
        key: list[Json] = [*item.key]
        try:
            await publisher.publish(target, self._producer(item), key=key)
        except _NeedsGnupg:
            if shutil.which("gpg") is None:
                raise
            with gnupg_home(fingerprint(*self._run.scope)[:16]) as home:
                await publisher.publish(target, self._producer(item, home), key=key)

    def _producer(self, item: Item, home: str = "") -> Callable[[Sink], Awaitable[Json]]:
        async def produce(sink: Sink) -> Json:
            signers = await self._stream(item, sink.write, home=home)
            self._signers.update(signers)
            return list(signers)

        return produce

    async def verify(self) -> CryptResult:
        """Verify each file against its detached signature; nothing is written."""
        items = await self._find(missing_ok=False)
        size = 0

        async def discard(data: bytes) -> None:
            """Ignore the output: verifying has none."""

        for item in items:
            source = self._sources[item.source]
            path = source.path_of(item.relative)
            beside = self._options.signature.replace("{path}", path)
            detached = await read_whole(source.store, beside, _MAX_SIGNATURE)
            self._signers.update(await self._stream(item, discard, signature=detached))
            size += item.size or 0
        return CryptResult(
            operation="verify", files=len(items), bytes=size, skipped=0, signers=sorted(self._signers),
            entries=[
                DerivedFile(path=self._sources[item.source].path_of(item.relative), size=item.size or 0)
                for item in items[:20]
            ],
        )  # fmt: skip

    async def _stream(
        self, item: Item, write: Callable[[bytes], Awaitable[None]], *, signature: bytes = b"", home: str = ""
    ) -> list[str]:
        """Stream a file through the child process; return the fingerprints of its signers."""
        options, source = self._options, self._sources[item.source]
        path = source.path_of(item.relative)
        request = {
            "operation": options.operation, "scheme": options.scheme, "armor": options.armor,
            "signed": options.signed, "signature": signature.hex(), "home": home,
            "now": self._run.clock.now().isoformat(), **options.keys,
        }  # fmt: skip
        answer = await _run_child(request, pinned(source.store, path, item.identity), write)
        if "error" in answer:
            raise _error_of(answer, options.operation, path)
        signers = [str(signer) for signer in answer["signers"]]
        if not signers and (options.operation == "verify" or (options.operation == "decrypt" and options.signed)):
            raise BadSignature(f"{path} is not signed", remedy="ask the sender to sign it")
        return signers


class _NeedsGnupg(SecurityError):
    """Raised for a message that pysequoia cannot read but GnuPG can."""


def _error_of(answer: dict[str, Any], operation: str, path: str) -> SecurityError:
    text = f"{path}: {answer['error'][:300]}"
    if answer["kind"] == "key":
        return SecurityError(text, remedy="set a valid key and its password in the connection")
    if answer["kind"] == "signature" or operation == "verify":
        return BadSignature(
            text, remedy="check that pgp_public_keys contains the sender's current key; otherwise ask the sender"
        )
    if "message structure" in answer["error"]:
        return _NeedsGnupg(
            f"{path}: its signature is inside compressed data, which pysequoia cannot read",
            remedy="install GnuPG on the workers, or ask the sender to use gpg --compress-algo none",
        )
    remedy = "check that it is meant for this key; if so, it was changed or truncated in transit: fetch it again"
    return SecurityError(f"{path} cannot be {operation}ed: {answer['error'][:300]}", remedy=remedy)


async def _run_child(
    request: dict[str, Any], source: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]
) -> dict[str, Any]:
    """Run the child process and return its answer; its output must not be trusted before that."""
    head = json.dumps(request).encode()
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    theirs_in, ours_in = os.pipe()  # pipes, because the library opens them by name, which sockets do not support
    ours_out, theirs_out = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(Path(crypt_child.__file__)),
            stdin=theirs_in, stdout=theirs_out, stderr=asyncio.subprocess.PIPE, env=environment,
        )  # fmt: skip
    except BaseException:
        os.close(ours_in)
        os.close(ours_out)
        raise
    finally:
        os.close(theirs_in)
        os.close(theirs_out)
    reading_errors = asyncio.create_task(_read_tail(process.stderr))
    feeding = asyncio.create_task(_feed(ours_in, b"%08d" % len(head) + head, source))
    try:
        while chunk := await asyncio.to_thread(_read, ours_out):
            await write(chunk)
        await feeding
        answer = (await reading_errors).rstrip().rpartition(b"\n")[2]
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # this also ends blocked reads and writes
        await process.wait()
        await asyncio.gather(feeding, reading_errors, return_exceptions=True)
        os.close(ours_out)
    try:
        parsed: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise Unavailable(
            f"the child process that holds the keys exited with code {process.returncode}",
            remedy="check the memory limit of the worker",
        ) from None
    return parsed


async def _feed(pipe: int, head: bytes, source: AsyncIterator[bytes]) -> None:
    """Send everything, or until the process stops reading; then its answer contains the error."""
    try:
        await asyncio.to_thread(_write, pipe, head)
        async for chunk in source:
            await asyncio.to_thread(_write, pipe, chunk)
    except BrokenPipeError:
        """The answer says why."""
    finally:
        os.close(pipe)


def _read(pipe: int) -> bytes:
    """Read a full chunk; a shorter one only at the end. Pipes return data in arbitrary pieces."""
    held = bytearray()
    while len(held) < _CHUNK and (more := os.read(pipe, _CHUNK - len(held))):
        held += more
    return bytes(held)


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


async def _read_tail(stream: asyncio.StreamReader | None) -> bytes:
    """Read a stream and return its last bytes."""
    held = b""
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        held = (held + chunk)[-_CHUNK:]
    return held
