"""An attempt wakes when another one has taken over: copies into and out of S3, in parts and ranges; ciphers."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from tests.files import s3
from tests.files import test_crypt as crypt
from tests.files import test_faults as faults
from tests.files.far import FAR_SIDES
from tests.files.stage import KILLS, Stage
from tests.files.test_zombies import GONE, Asking, some
from tests.support.kill import overlaps, zombies

pytestmark = [pytest.mark.faults, pytest.mark.backend, pytest.mark.timeout(1800)]

BIG = os.urandom(2 * s3.PART + 1_000_000)
gpg = crypt.gpg
WAYS = [("local", "s3"), ("s3", "local")]


@pytest.fixture
def big(monkeypatch):
    """The larger file has three parts, or ranges."""
    monkeypatch.setitem(FAR_SIDES, "s3", s3.side)
    monkeypatch.setitem(faults.FILES, "sub/c.csv", BIG)


@pytest.mark.parametrize("move", [False, True] if KILLS > 3 else [True])
@pytest.mark.parametrize(("source", "dest"), WAYS)
def test_a_copy_in_parts(request, tmp_path, big, source, dest, move):
    make = faults.scenes(request, tmp_path, source, dest, move=move)
    at = some("before_complete", "before_range", "before_rename")
    zombies(make, Asking(faults.run_copy), faults.everything_arrived, at=at, defeats=GONE)


def test_a_cipher(tmp_path, monkeypatch):
    extra = {"flowrunner": {"aes_key": bytes(range(32)).hex()}}
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps({"conn_type": "generic", "extra": extra}))

    def whole(scene: tuple[Stage, Stage]) -> None:
        assert scene[1].disk.names() == ["out/a.aes", "out/b.aes"]
        assert len(scene[1].disk.get("out/a.aes")) == len(crypt.SHORT) + 28
        result: dict[str, Any] = json.loads((scene[0].state / "result").read_text())
        assert (result["files"], result["skipped"]) == (2, 0)

    options = {"operation": "encrypt", "scheme": "aes_gcm", "if_exists": "fail"}
    make = crypt.scenes(tmp_path, None, "local", options)
    zombies(make, Asking(crypt.run_crypt), whole, at=some("before_begin", "before_commit"), defeats=GONE)


def test_a_pgp_cipher(tmp_path, gpg, monkeypatch):
    options = {"pgp_secret_key": gpg.secret("partner"), "pgp_public_keys": gpg.public("partner")}
    extra = {"flowrunner": options}
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps({"conn_type": "generic", "extra": extra}))

    def complete(scene: tuple[Stage, Stage]) -> None:
        assert scene[1].disk.names() == ["out/a.pgp", "out/b.pgp"]
        assert gpg("--decrypt", data=scene[1].disk.get("out/a.pgp")) == crypt.SHORT
        assert gpg("--decrypt", data=scene[1].disk.get("out/b.pgp")) == b"b"
        result: dict[str, Any] = json.loads((scene[0].state / "result").read_text())
        assert (result["files"], result["skipped"]) == (2, 0)

    make = crypt.scenes(tmp_path, None, "local", {"operation": "encrypt"})
    zombies(make, Asking(crypt.run_crypt), complete, at=some("before_begin", "before_commit"), defeats=GONE)


def test_attempts_that_overlap_have_gnupg_homes_of_their_own(tmp_path, gpg, monkeypatch):
    options = {"pgp_secret_key": gpg.secret("partner"), "pgp_public_keys": gpg.public("partner")}
    monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps({"conn_type": "generic", "extra": {"flowrunner": options}}))
    names = ("-r", "partner@example.com", "-u", "partner@example.com")
    compressed = gpg("--compress-algo", "zip", *names, "--sign", "--encrypt", data=b"plain")

    def make() -> tuple[Stage, Stage]:
        scene: tuple[Stage, Stage] = scenes()
        for name in scene[0].disk.names():
            (scene[0].disk.path / name).unlink()
        scene[0].disk.put("in/a.pgp", compressed)
        return scene

    def decrypted(scene: tuple[Stage, Stage]) -> None:
        assert scene[1].disk.names() == ["out/a"]
        assert scene[1].disk.get("out/a") == b"plain"
        assert crypt.homes() == []

    def nothing_partial(scene: tuple[Stage, Stage]) -> None:
        assert "out/a" not in scene[1].disk.names() or scene[1].disk.get("out/a") == b"plain"

    scenes = crypt.scenes(tmp_path, None, "local", {"operation": "decrypt"})
    overlaps(
        make, Asking(crypt.run_crypt), decrypted, midway=nothing_partial, at=some("before_commit"),
        defeats=(*GONE, "SecurityError"), limit=None if KILLS > 3 else 2, seed=KILLS,
    )  # fmt: skip
