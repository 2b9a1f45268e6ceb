"""The process that encrypts, decrypts, signs and verifies: bytes in at its standard input, bytes out at its output.

OpenPGP by pysequoia, age by pyrage; nothing of the two formats is written here. It is a process of its own because
pysequoia works on whole files and lets no other thread run meanwhile: two pipes make a stream of that, no plaintext
ever lies on a disk of the worker, and the keys are gone with the process. It is run by its path and needs neither
this package nor Airflow.

At the input first comes a request (8 digits of length, then JSON), then the data. The last line of the standard
error is the answer: ``{"signers": [...]}``, or ``{"error": ..., "kind": "key" | "data" | "signature"}``.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

__all__ = ["main"]

_IN, _OUT = "/dev/fd/0", "/dev/fd/1"


class _BadKey(Exception):
    """A key cannot be used."""


def main() -> int:
    """Do what the request says."""
    request = json.loads(_exactly(int(_exactly(8))))
    try:
        answer = _age(request) if request["scheme"] == "age" else _pgp(request)
    except _BadKey as error:
        answer = {"error": str(error), "kind": "key"}
    except (RuntimeError, ValueError, OSError) as error:  # both libraries have hardly more to say
        text = str(error).partition("\n")[0]
        answer = {"error": text, "kind": "signature" if "ignature" in text else "data"}
    sys.stderr.write("\n" + json.dumps(answer) + "\n")
    return 0


def _exactly(count: int) -> bytes:
    """So many bytes and not one more: what follows is for the library."""
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
            _check_alive(pysequoia, certificate)
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
        done = pysequoia.decrypt_file(_IN, _OUT, store=store, passwords=["-"])  # it insists on one and uses none
    return {"signers": sorted({str(one.certificate) for one in done.valid_sigs})}


def _usable(what: str, use: Any) -> Any:
    try:
        return use()
    except (RuntimeError, ValueError, OSError) as error:
        raise _BadKey(f"{what}: {str(error).partition(chr(10))[0]}") from error


def _check_alive(pysequoia: Any, certificate: Any) -> None:
    """pysequoia encrypts to expired keys without a word, and to none at all where a certificate has none for it."""
    now = datetime.now(UTC)
    name = f"the public key {certificate.fingerprint}"
    if certificate.is_revoked:
        raise _BadKey(f"{name} is revoked")
    if certificate.expiration is not None and certificate.expiration <= now:
        raise _BadKey(f"{name} has expired")
    if not any(_alive(*found, now) for found in _encryption_keys(bytes(certificate))):
        raise _BadKey(f"{name} has no key for encryption that is still valid")


def _encryption_keys(certificate: bytes) -> list[tuple[datetime, timedelta | None, bool]]:
    """Of each key for encryption: when it was made, for how long, and whether it was revoked."""
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


def _alive(made: datetime, period: timedelta | None, revoked: bool, now: datetime) -> bool:
    return not revoked and (period is None or made + period > now)


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
        raise _BadKey("the secret key is none of age or OpenSSH, or has a passphrase") from error


if __name__ == "__main__":
    sys.exit(main())
