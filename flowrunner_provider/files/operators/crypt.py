"""The operator that encrypts, decrypts, signs and verifies files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.run import Run
from flowrunner_provider.files.derived_results import CryptResult
from flowrunner_provider.runtime.operator import FlowRunnerOperator

__all__ = ["FileCryptoOperator"]


class FileCryptoOperator(FlowRunnerOperator):
    """On success, every file that ``source`` matched is encrypted, decrypted, signed or verified, and each result is
    complete under its final name.

    A killed or retried task continues after the last finished file and produces no result twice. A result is
    published only after its last byte was authenticated: a wrong key, a modified or truncated file, a missing or
    foreign signature, or an expired or revoked key raises a SecurityError and leaves no result.

    Files are streamed through a child process that holds the keys, so no plaintext is stored on the worker's disk.
    OpenPGP uses pysequoia, age uses pyrage, AES-256-GCM uses cryptography (12-byte nonce, ciphertext, 16-byte tag; at
    most 64 GiB). Decrypting PGP takes about 170 MB of memory. pysequoia cannot read messages that are encrypted,
    compressed and signed at once, which is GnuPG's default. The worker's ``gpg`` reads those if it is installed: it
    reads the source a second time and keeps the keys in a private directory in memory meanwhile. Without ``gpg`` such
    a message is refused.

    :param operation: ``encrypt`` to all public keys of the connection, ``decrypt`` with its secret key, ``sign`` to
        write a detached signature, or ``verify`` with its public keys.
    :param source: a file, a glob such as ``sftp://partner@/out/*.pgp``, or a list of them.
    :param keys_conn_id: a ``generic`` connection whose extra holds keys under ``flowrunner``: ``pgp_secret_key`` and
        ``pgp_public_keys`` (armored), ``age_secret_key`` and ``age_recipients``, or ``aes_key`` (32 bytes, hexadecimal
        or base64). The connection's password unlocks the PGP secret key.
    :param dest: the target file, or a folder if it ends with ``/`` or ``source`` can match several files. In a folder,
        ``.pgp``, ``.asc``, ``.age``, ``.aes`` or ``.sig`` is added to or removed from the name of the source. Leave it
        None to verify detached signatures.
    :param scheme: ``pgp``, ``age``, or ``aes_gcm`` for partners who share a symmetric key.
    :param signed: with ``encrypt``, also sign with the secret key; with ``decrypt``, require a valid signature by one
        of the public keys. Default: True for ``pgp``; the other schemes have no signatures.
    :param signature: for ``verify``: the path of the detached signature, where ``{path}`` is the path of the file.
        Empty if the files contain their signature; then their content is written to ``dest``.
    :param armor: write ASCII-armored output.
    :param if_exists: if a target exists, ``overwrite`` it, ``skip`` it, or ``fail`` before anything is written.
    :param max_files: fail before anything is written if more files match.
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
        from flowrunner_provider.files.crypt.engine import CryptOptions, crypt
        from flowrunner_provider.files.hook import open_locations
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
        if self.dest and options.detached:
            raise ConfigError(
                "dest is set, but verifying a detached signature writes no file",
                field="dest",
                remedy="remove dest, or set signature to '' if the files contain their signature",
            )
        if not self.dest and not options.detached:
            raise ConfigError(
                f"dest is missing, and {self.operation} writes files", field="dest", remedy="name a file or a folder"
            )
        sources = several(uris, "source")
        dests = [no_pattern(self.dest, "dest")] if self.dest else []
        options = replace(options, keys=keys_for(self.keys_conn_id, self.scheme, self.operation, signed))
        async with open_locations(run, source=sources, dest=dests) as found:
            return await crypt(
                found["source"],
                found["dest"][0] if dests else None,
                run,
                options,
                identity_of_work=[self.operation, self.scheme, *uris, self.dest, self.if_exists, signed, self.armor],
            )
