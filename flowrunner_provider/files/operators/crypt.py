"""Encrypting, decrypting, signing and verifying files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived import CryptResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileCryptoOperator"]


class FileCryptoOperator(FlowRunnerOperator):
    """Every file that ``source`` named is encrypted, decrypted, signed or verified, and each result is whole.

    Killed or retried, it goes on behind the files that are done and makes none twice. Nothing is published before
    the last byte was authenticated: a wrong key, a changed or cut file, a missing or foreign signature, an expired
    or revoked key is a SecurityError (BadSignature), and no result is there. Bytes are streamed through a process
    of its own that holds the keys; no plaintext lies on a disk of the worker. Decrypting takes that process about
    170 MB. OpenPGP is pysequoia's, age is pyrage's, AES-256-GCM is cryptography's (12 bytes of nonce, the text, 16
    bytes of tag; at most 64 GiB). A message that is encrypted, compressed and signed all in one
    (GnuPG's default for both) is read by the worker's own ``gpg`` where that is installed, which reads the source
    once more and keeps the keys for that moment in a private folder in memory; without ``gpg`` it is refused. A key
    that has expired opens nothing any more.

    :param operation: ``encrypt`` to all public keys of the connection, ``decrypt`` with its secret key, ``sign``
        (a signature beside the file), or ``verify`` with its public keys.
    :param source: a file, or a glob such as ``sftp://partner@/out/*.pgp``; or a list.
    :param keys_conn_id: a ``generic`` connection with keys below ``flowrunner`` of its extra: ``pgp_secret_key`` and
        ``pgp_public_keys`` (armored), or ``age_secret_key`` and ``age_recipients``, or ``aes_key`` (32 bytes in
        hexadecimal digits or base64). Its password opens the secret key of PGP.
    :param dest: a folder if it ends with ``/`` or several files may come, else the new file. In a folder a result
        is called as its source with ``.pgp``, ``.asc``, ``.age``, ``.aes`` or ``.sig`` put behind or taken away.
        None where a signature beside the file is verified.
    :param scheme: ``pgp``, ``age``, or ``aes_gcm`` for partners with whom one shares a key.
    :param signed: encrypt: sign with the secret key, too; decrypt: demand a valid signature by one of the public
        keys. By default yes for PGP; the others know none.
    :param signature: for ``verify``: where the signature of a file is, ``{path}`` stands for the file's path in its
        store; empty for files that hold their signature themselves, whose content then goes to ``dest``.
    :param armor: results in letters and digits.
    :param if_exists: when a target is there: replace it, leave it alone, or fail before anything is written.
    :param max_files: more matches than this are an error before anything is written.
    """

    action: ClassVar[str] = "files.crypt"
    template_fields: Sequence[str] = ("source", "dest", "keys_conn_id", "signature")

    def __init__(
        self,
        *,
        operation: Literal["encrypt", "decrypt", "sign", "verify"],
        source: str | list[str],
        keys_conn_id: str,
        dest: str | None = None,
        scheme: Literal["pgp", "age", "aes_gcm"] = "pgp",
        signed: bool | None = None,
        signature: str = "{path}.sig",
        armor: bool = False,
        if_exists: Literal["overwrite", "skip", "fail"] = "overwrite",
        max_files: int = 10_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.operation = operation
        self.source = source
        self.keys_conn_id = keys_conn_id
        self.dest = dest
        self.scheme = scheme
        self.signed = signed
        self.signature = signature
        self.armor = armor
        self.if_exists = if_exists
        self.max_files = max_files

    async def perform(self, run: Run) -> CryptResult:
        """Read the keys, open the stores, and do it."""
        from flowrunner_provider.files.crypt.engine import CryptOptions, crypt
        from flowrunner_provider.files.hook import places
        from flowrunner_provider.files.hooks.keys import keys_for
        from flowrunner_provider.files.uri import no_pattern, several

        signed = self.scheme == "pgp" if self.signed is None else self.signed
        uris = [self.source] if isinstance(self.source, str) else list(self.source)
        options = CryptOptions(
            operation=self.operation,
            scheme=self.scheme,
            armor=self.armor,
            signed=signed,
            signature=self.signature,
            if_exists=self.if_exists,
            max_files=self.max_files,
        )
        if (self.dest is None) is not options.detached:
            what = "verifying a signature beside its file makes none" if self.dest else "there is none"
            raise ConfigError(f"dest: {what}", field="dest", remedy="see the documentation of dest and signature")
        sources = several(uris, "source")
        dests = [no_pattern(self.dest, "dest")] if self.dest else []
        options = replace(options, keys=keys_for(self.keys_conn_id, self.scheme, self.operation, signed))
        async with places(run, source=sources, dest=dests) as found:
            return await crypt(
                found["source"],
                found["dest"][0] if dests else None,
                run,
                options,
                identity_of_work=[self.operation, self.scheme, *uris, self.dest, self.if_exists, signed, self.armor],
            )
