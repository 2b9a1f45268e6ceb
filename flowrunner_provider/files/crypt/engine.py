"""The engine that encrypts, decrypts, signs and verifies files of any store, as streams."""

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
from flowrunner_provider.files.derived import CryptResult, DerivedFile
from flowrunner_provider.files.plan import Item, Source, find
from flowrunner_provider.files.publish import IfExists, Publisher, Sink, one_of, pinned
from flowrunner_provider.files.store import Store

__all__ = ["CryptOptions", "crypt"]

ACTION = "files.crypt"
ENDINGS = (".pgp", ".gpg", ".asc", ".age", ".aes")
_UNSIGNED = {"age": ".age", "aes_gcm": ".aes"}
"""Schemes without signatures, and what their files are called."""
_CHUNK = 256 * 1024
_SIGNATURE = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class CryptOptions:
    """What to do; the parameters of ``files.crypt`` say what each means.

    :param keys: what the process needs: ``secret_key``, ``password``, ``public_keys``, ``recipients``.
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
            raise ConfigError(f"{self.scheme} knows no signatures", field="scheme", remedy="use pgp, or signed=False")
        if self.scheme == "aes_gcm" and self.armor:
            raise ConfigError("aes_gcm has no form in letters", field="armor", remedy="leave armor away")

    @property
    def detached(self) -> bool:
        """Nothing is made: only looked at."""
        return self.operation == "verify" and bool(self.signature)

    def named(self, name: str) -> str:
        """What the result of a file is called in a folder."""
        if self.operation in ("decrypt", "verify"):
            ending = next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")
            return name[: -len(ending)] if len(ending) < len(name) and ending else f"{name}.out"
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
    """Do it with every file that ``sources`` name, one after another.

    :param dest: an open store and a path: a folder if it ends with ``/`` or several files may come, else the file;
        None for a signature that stands beside its file: then there is no result to keep.
    """
    work = _Crypt([Source(*source) for source in sources], run, options)
    if dest is None or options.detached:
        return await work.verify()
    return await work.make(dest, identity_of_work)


class _Crypt:
    def __init__(self, sources: list[Source], run: Run, options: CryptOptions) -> None:
        self._sources, self._run, self._options = sources, run, options
        self._signers: set[str] = set()

    async def _found(self, *, missing_ok: bool) -> list[Item]:
        items = await find(
            self._sources, self._run, recursive=False, max_files=self._options.max_files, missing_ok=missing_ok
        )
        if not items and not missing_ok:
            wanted = ", ".join(source.path for source in self._sources)
            raise NotFound(f"nothing matches {wanted}", remedy="correct the path")
        return items

    async def make(self, dest: tuple[Store, str], identity_of_work: Json) -> CryptResult:
        """Publish a result for each file."""
        store, path = dest
        options = self._options
        publisher = Publisher(self._run, store, ACTION, identity_of_work, options.if_exists, announce=True)
        items = await self._found(missing_ok=publisher.resumed)
        several = path.endswith("/") or len(self._sources) > 1 or not self._sources[0].is_file
        folder = path.rstrip("/") or "/"
        targets = {item.key: store.join(folder, options.named(item.relative)) if several else path for item in items}
        if len(set(targets.values())) != len(items):
            raise ConfigError("two files would get one name", field="source", remedy="do them in two tasks")
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
        for one in publisher.published:
            self._signers.update(map(str, one.detail if isinstance(one.detail, list) else []))
        return CryptResult(
            operation=options.operation, files=publisher.files, bytes=publisher.bytes, skipped=publisher.skipped,
            signers=sorted(self._signers),
            entries=[DerivedFile(path=one.path, size=one.size) for one in publisher.published if not one.skipped],
        )  # fmt: skip

    async def _publish(self, publisher: Publisher, target: str, item: Item) -> None:
        """Publish the result of a file; one that only GnuPG can read is read again from its start."""
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
            return list(await self._through(item, sink.write, home=home))

        return produce

    async def verify(self) -> CryptResult:
        """Compare each file with the signature beside it; nothing is written."""
        items = await self._found(missing_ok=False)
        size = 0

        async def nothing(data: bytes) -> None:
            """There is no result."""

        for item in items:
            source = self._sources[item.source]
            path = source.path_of(item.relative)
            beside = self._options.signature.replace("{path}", path)
            held = await read_whole(source.store, beside, _SIGNATURE)
            self._signers.update(await self._through(item, nothing, signature=held))
            size += item.size or 0
        return CryptResult(
            operation="verify", files=len(items), bytes=size, skipped=0, signers=sorted(self._signers),
            entries=[
                DerivedFile(path=self._sources[item.source].path_of(item.relative), size=item.size or 0)
                for item in items[:20]
            ],
        )  # fmt: skip

    async def _through(
        self, item: Item, write: Callable[[bytes], Awaitable[None]], *, signature: bytes = b"", home: str = ""
    ) -> list[str]:
        """Send a file through the process; returns who has signed it."""
        options, source = self._options, self._sources[item.source]
        path = source.path_of(item.relative)
        request = {
            "operation": options.operation, "scheme": options.scheme, "armor": options.armor,
            "signed": options.signed, "signature": signature.hex(), "home": home,
            "now": self._run.clock.now().isoformat(), **options.keys,
        }  # fmt: skip
        answer = await _child(request, pinned(source.store, path, item.identity), write)
        if "error" in answer:
            raise _refused(answer, options.operation, path)
        signers = [str(one) for one in answer["signers"]]
        if not signers and (options.operation == "verify" or (options.operation == "decrypt" and options.signed)):
            raise BadSignature(f"{path} is not signed", remedy="ask its sender to sign it")
        return signers


class _NeedsGnupg(SecurityError):
    """What pysequoia cannot read and GnuPG can."""


def _refused(answer: dict[str, Any], operation: str, path: str) -> SecurityError:
    text = f"{path}: {answer['error'][:300]}"
    if answer["kind"] == "key":
        return SecurityError(text, remedy="put a valid key, and its password, into the connection")
    if answer["kind"] == "signature" or operation == "verify":
        return BadSignature(text, remedy="ask its sender; is their present key in pgp_public_keys?")
    if "message structure" in answer["error"]:
        return _NeedsGnupg(
            f"{path}: its signature lies within compressed data, where pysequoia does not look",
            remedy="install GnuPG on the workers; or ask its sender for gpg --compress-algo none",
        )
    remedy = "is it meant for this key? If so it was changed or cut off on its way: fetch it again"
    return SecurityError(f"{path} cannot be {operation}ed: {answer['error'][:300]}", remedy=remedy)


async def _child(
    request: dict[str, Any], source: AsyncIterator[bytes], write: Callable[[bytes], Awaitable[None]]
) -> dict[str, Any]:
    """Run the process of :mod:`crypt_child`; what it writes is not to be trusted before it has answered."""
    head = json.dumps(request).encode()
    environment = {name: value for name, value in os.environ.items() if name != ENVIRONMENT}
    theirs_in, ours_in = os.pipe()  # real pipes: the library opens them by name, which it cannot with sockets
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
    told = asyncio.create_task(_all(process.stderr))
    feeding = asyncio.create_task(_feed(ours_in, b"%08d" % len(head) + head, source))
    try:
        while chunk := await asyncio.to_thread(_read, ours_out):
            await write(chunk)
        await feeding
        answer = (await told).rstrip().rpartition(b"\n")[2]
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # which also ends a write or a read that waits for it
        await process.wait()
        await asyncio.gather(feeding, told, return_exceptions=True)
        os.close(ours_out)
    try:
        parsed: dict[str, Any] = json.loads(answer)
    except ValueError:
        raise Unavailable(
            f"the process that holds the keys ended with code {process.returncode}", remedy="has the worker memory?"
        ) from None
    return parsed


async def _feed(pipe: int, head: bytes, source: AsyncIterator[bytes]) -> None:
    """Send everything, or as much as the process wants: it may stop at an error and tell that itself."""
    try:
        await asyncio.to_thread(_write, pipe, head)
        async for chunk in source:
            await asyncio.to_thread(_write, pipe, chunk)
    except BrokenPipeError:
        """Its answer says why."""
    finally:
        os.close(pipe)


def _read(pipe: int) -> bytes:
    """A full chunk; fewer bytes only at the end. A pipe gives them in pieces as they happen to come."""
    held = bytearray()
    while len(held) < _CHUNK and (more := os.read(pipe, _CHUNK - len(held))):
        held += more
    return bytes(held)


def _write(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]


async def _all(stream: asyncio.StreamReader | None) -> bytes:
    """The end of what a stream brings."""
    held = b""
    while stream is not None and (chunk := await stream.read(_CHUNK)):
        held = (held + chunk)[-_CHUNK:]
    return held
