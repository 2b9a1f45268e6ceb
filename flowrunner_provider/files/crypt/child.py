"""The child process that encrypts, decrypts, signs and verifies, from standard input to standard output.

OpenPGP uses pysequoia, age uses pyrage, AES-GCM uses cryptography. pysequoia works on whole files and blocks all other
threads meanwhile. In a process of its own, two pipes turn that into a stream, no plaintext is stored on the worker's
disk, and the keys disappear with the process. The file is run by its path and needs neither this package nor Airflow.

pysequoia cannot read a message that is signed inside compressed data inside encrypted data, which is GnuPG's default.
For such a message the request names a ``home``, and the system's GnuPG decrypts it.

Standard input starts with a request (8 digits of length, then JSON), followed by the data. The last line of standard
error is the answer: ``{"signers": [...]}``, or ``{"error": ..., "kind": "key" | "data" | "signature"}``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from typing import Any

__all__ = ["main"]

_IN, _OUT = "/dev/fd/0", "/dev/fd/1"


class _BadKey(Exception):
    """Raised for a key that cannot be used."""


def main() -> int:
    """Carry out the request."""
    request = json.loads(_read_exactly(int(_read_exactly(8))))
    try:
        work = {"age": _age, "aes_gcm": _aes_gcm}.get(request["scheme"]) or (_gnupg if request["home"] else _pgp)
        answer = work(request)
    except _BadKey as error:
        answer = {"error": str(error), "kind": "key"}
    except (RuntimeError, ValueError, OSError) as error:  # the libraries raise no more specific classes
        text = str(error).partition("\n")[0]
        answer = {"error": text, "kind": "signature" if "ignature" in text else "data"}
    sys.stderr.write("\n" + json.dumps(answer) + "\n")
    return 0


def _read_exactly(count: int) -> bytes:
    """Read exactly ``count`` bytes, because the library reads the rest."""
    data = b""
    while len(data) < count and (more := os.read(0, count - len(data))):
        data += more
    return data


# -- OpenPGP


def _pgp(request: dict[str, Any]) -> dict[str, Any]:
    import pysequoia

    operation, armor = request["operation"], request["armor"]
    public = request["public_keys"]
    certificates = _usable("the public keys", lambda: pysequoia.Cert.split_bytes(public.encode())) if public else []
    secret, password = request["secret_key"], request["password"] or None
    key = _usable("the secret key", lambda: pysequoia.Tsk.from_bytes(secret.encode())) if secret else None
    store = (lambda ids: certificates) if request["signed"] else None
    if operation == "encrypt":
        for certificate in certificates:
            _require_valid(certificate, datetime.fromisoformat(request["now"]))
        signer = _usable("the secret key", lambda: key.signer(password)) if request["signed"] and key else None
        pysequoia.encrypt_file(_IN, _OUT, recipients=certificates, signer=signer, armor=armor)
        return {"signers": []}
    if operation == "sign":
        signer = _usable("the secret key", lambda: key.signer(password) if key else None)
        pysequoia.sign_file(signer, _IN, _OUT, mode=pysequoia.SignatureMode.DETACHED, armor=armor)
        return {"signers": []}
    if operation == "decrypt":
        decryptor = _usable("the secret key", lambda: key.decryptor(password) if key else None)
        done = pysequoia.decrypt_file(_IN, _OUT, decryptor=decryptor, store=store)
    elif request["signature"]:
        signature = pysequoia.Sig.from_bytes(bytes.fromhex(request["signature"]))
        done = pysequoia.verify(file=_IN, store=store, signature=signature)
    else:
        done = pysequoia.decrypt_file(_IN, _OUT, store=store, passwords=["-"])  # the argument is required but not used
    return {"signers": sorted({str(signature.certificate) for signature in done.valid_sigs})}


def _usable(what: str, use: Any) -> Any:
    try:
        return use()
    except (RuntimeError, ValueError, OSError) as error:
        raise _BadKey(f"{what}: {str(error).partition(chr(10))[0]}") from error


def _require_valid(certificate: Any, now: datetime) -> None:
    """Refuse certificates without a valid encryption key; pysequoia silently uses expired keys, or none at all."""
    name = f"the public key {certificate.fingerprint}"
    if certificate.is_revoked:
        raise _BadKey(f"{name} is revoked")
    if certificate.expiration is not None and certificate.expiration <= now:
        raise _BadKey(f"{name} has expired")
    if not any(_is_valid(*found, now) for found in _encryption_keys(bytes(certificate))):
        raise _BadKey(f"{name} has no valid encryption key")


def _encryption_keys(certificate: bytes) -> list[tuple[datetime, timedelta | None, bool]]:
    """Return creation time, validity period and revocation of each encryption key."""
    from pysequoia.packet import PacketPile, SignatureType, Tag

    keys: list[dict[str, Any]] = []
    for packet in PacketPile.from_bytes(certificate):
        if packet.tag in (Tag.PublicKey, Tag.PublicSubkey):
            keys.append({"made": packet.key_created, "signed": None, "flags": None, "period": None, "revoked": False})
        elif packet.tag == Tag.Signature and keys:
            key = keys[-1]
            if packet.signature_type == SignatureType.SubkeyRevocation:
                key["revoked"] = True
            elif packet.key_flags is not None and (key["signed"] is None or packet.signature_created >= key["signed"]):
                key.update(signed=packet.signature_created, flags=packet.key_flags, period=packet.key_validity_period)
    return [
        (key["made"], key["period"], key["revoked"])
        for key in keys
        if key["flags"] is not None and (key["flags"].transport_encryption or key["flags"].storage_encryption)
    ]


def _is_valid(made: datetime, period: timedelta | None, revoked: bool, now: datetime) -> bool:
    return not revoked and (period is None or made + period > now)


# -- GnuPG


def _gnupg(request: dict[str, Any]) -> dict[str, Any]:
    """Decrypt with the system's ``gpg``, using only the keys of the request."""
    import pysequoia

    home = request["home"]
    quiet = ["gpg", "--homedir", home, "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback"]
    gpg = [*quiet, "--trust-model", "always", "--no-auto-key-retrieve", "--no-auto-key-locate", "--disable-dirmngr"]
    try:
        for name in ("secret_key", "public_keys"):
            keys = request[name].encode()
            if subprocess.run([*gpg, "--import"], input=keys, capture_output=True, check=False).returncode:
                raise _BadKey(f"GnuPG rejects the {name}")
        status_lines = _run_gpg([*gpg, "--output", "-", "--decrypt"], request["password"])
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], capture_output=True, check=False)
        shutil.rmtree(home, ignore_errors=True)
    partners = {
        certificate.fingerprint.upper() for certificate in pysequoia.Cert.split_bytes(request["public_keys"].encode())
    }
    return _judge(status_lines, partners)


def _run_gpg(command: list[str], password: str) -> list[list[str]]:
    """Run gpg on our own input and output; return its status lines (see doc/DETAILS of GnuPG)."""
    secret_from, secret_to = os.pipe()
    status_from, status_to = os.pipe()
    os.write(secret_to, password.encode() + b"\n")
    os.close(secret_to)
    options = ["--passphrase-fd", str(secret_from), "--status-fd", str(status_to)]
    process = subprocess.Popen(
        [*command[:1], *options, *command[1:]], stdin=0, stdout=1, stderr=subprocess.DEVNULL,
        pass_fds=(secret_from, status_to),
    )  # fmt: skip
    os.close(secret_from)
    os.close(status_to)
    with os.fdopen(status_from, encoding="utf-8", errors="replace") as status:
        status_lines = [line.split()[1:] for line in status if line.startswith("[GNUPG:] ")]
    process.wait()
    return [words for words in status_lines if words]


def _judge(status_lines: list[list[str]], partners: set[str]) -> dict[str, Any]:
    """Return the signers, or an error unless the message is authentic and signed with a valid key of a partner."""
    keywords = {words[0] for words in status_lines}
    if "BAD_PASSPHRASE" in keywords or "MISSING_PASSPHRASE" in keywords:
        return {"error": "the secret key: wrong password", "kind": "key"}
    if "DECRYPTION_OKAY" not in keywords or keywords & {"DECRYPTION_FAILED", "BADMDC"}:
        return {"error": "GnuPG could not decrypt the message", "kind": "data"}
    signers, good = set(), False
    for words in status_lines:
        if words[0] in ("GOODSIG", "BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG"):
            good = words[0] == "GOODSIG"
        elif words[0] == "VALIDSIG" and good and words[-1] in partners:
            signers.add(words[-1].lower())
    if not signers or "BADSIG" in keywords:
        return {"error": "Signature verification failed: no valid signature by a known key", "kind": "signature"}
    return {"signers": sorted(signers)}


# -- age


def _age(request: dict[str, Any]) -> dict[str, Any]:
    import pyrage

    with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as dest:
        if request["operation"] == "encrypt":
            recipients = [_recipient(pyrage, text) for text in request["recipients"]]
            _age_errors(pyrage, lambda: pyrage.encrypt_io(source, dest, recipients, armored=request["armor"]))
        else:
            identity = _identity(pyrage, request["secret_key"].strip())
            _age_errors(pyrage, lambda: pyrage.decrypt_io(source, dest, [identity]))
    return {"signers": []}


def _age_errors(pyrage: Any, work: Any) -> None:
    try:
        work()
    except (pyrage.EncryptError, pyrage.DecryptError) as error:
        raise ValueError(str(error)) from error


def _recipient(pyrage: Any, text: str) -> Any:
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    try:
        return kind.Recipient.from_str(text.strip())
    except (pyrage.RecipientError, ValueError) as error:
        raise _BadKey(f"a recipient that starts with {text[:8]!r}: {error}") from error


def _identity(pyrage: Any, text: str) -> Any:
    try:
        if text.startswith("-----BEGIN"):
            return pyrage.ssh.Identity.from_buffer(f"{text}\n".encode())
        return pyrage.x25519.Identity.from_str(text)
    except (pyrage.IdentityError, ValueError) as error:
        raise _BadKey("the secret key is not an age or OpenSSH key, or it has a passphrase") from error


# -- AES-GCM

_NONCE, _TAG, _CHUNK = 12, 16, 256 * 1024


def _aes_gcm(request: dict[str, Any]) -> dict[str, Any]:
    """Process nonce, ciphertext and tag (NIST SP 800-38D), in the order that most libraries use."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES256
    from cryptography.hazmat.primitives.ciphers.modes import GCM

    algorithm = AES256(bytes.fromhex(request["secret_key"]))
    with open(0, "rb", closefd=False) as source, open(1, "wb", closefd=False) as dest:
        if request["operation"] == "encrypt":
            nonce = os.urandom(_NONCE)
            encryptor = Cipher(algorithm, GCM(nonce)).encryptor()
            dest.write(nonce)
            while chunk := source.read(_CHUNK):
                dest.write(encryptor.update(chunk))
            dest.write(encryptor.finalize() + encryptor.tag)
            return {"signers": []}
        nonce, held = source.read(_NONCE), b""
        if len(nonce) < _NONCE:
            raise ValueError("the file is too short")
        decryptor = Cipher(algorithm, GCM(nonce)).decryptor()
        while chunk := source.read(_CHUNK):
            held += chunk
            dest.write(decryptor.update(held[:-_TAG]))
            held = held[-_TAG:]
        if len(held) < _TAG:
            raise ValueError("the file is too short")
        try:
            dest.write(decryptor.finalize_with_tag(held))
        except InvalidTag as error:
            raise ValueError("the tag does not match") from error
    return {"signers": []}


if __name__ == "__main__":
    sys.exit(main())
