"""files.crypt with a shared AES key; the judges are NIST's vector and Node's own cipher."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, MissingCredential, SecurityError
from flowrunner_provider.files.operators import FileCryptoOperator
from tests.files.stage import KILLS, Stage, stage
from tests.files.test_crypt import run_crypt, scenes
from tests.support.kill import sweep
from tests.support.servers import require

KEY = bytes(range(100, 132))
DATA = os.urandom(700_001)
PIECE = 256 * 1024
NODE = """
const crypto = require("crypto"), fs = require("fs");
const [way, key] = process.argv.slice(1), data = fs.readFileSync(0), secret = Buffer.from(key, "hex");
if (way === "encrypt") {
  const nonce = crypto.randomBytes(12), cipher = crypto.createCipheriv("aes-256-gcm", secret, nonce);
  const text = Buffer.concat([cipher.update(data), cipher.final()]);
  fs.writeSync(1, Buffer.concat([nonce, text, cipher.getAuthTag()]));
} else {
  const cipher = crypto.createDecipheriv("aes-256-gcm", secret, data.subarray(0, 12));
  cipher.setAuthTag(data.subarray(-16));
  fs.writeSync(1, Buffer.concat([cipher.update(data.subarray(12, -16)), cipher.final()]));
}
"""


def node(way: str, data: bytes) -> bytes:
    command = [require("node", apt="nodejs"), "-e", NODE, way, KEY.hex()]
    return subprocess.run(command, input=data, check=True, capture_output=True).stdout


@pytest.fixture
def connect(monkeypatch):
    def connect(**options: Any) -> None:
        value = {"conn_type": "generic", "extra": {"flowrunner": options}}
        monkeypatch.setenv("AIRFLOW_CONN_KEYS", json.dumps(value))

    connect(aes_key=KEY.hex())
    return connect


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def crypt(there: Stage, operation: str, name: str = "in", **options: Any) -> Any:
    given = {"source": there.uri(name), "dest": there.uri("out"), "keys_conn_id": "keys", **options}
    return there.run(FileCryptoOperator(task_id="crypt", operation=operation, scheme="aes_gcm", **given))


def test_others_read_what_we_write_and_we_what_they_write(there, connect):
    there.disk.put("in", DATA)
    crypt(there, "encrypt")
    made = there.disk.get("out")
    assert node("decrypt", made) == DATA
    there.disk.put("in", node("encrypt", DATA))
    crypt(there, "decrypt")
    assert there.disk.get("out") == DATA
    there.disk.put("in", DATA)
    crypt(there, "encrypt", dest=there.uri("again"))
    assert there.disk.get("again")[:12] != made[:12], "no nonce is used twice"
    assert there.disk.names() == ["again", "in", "out"]


def test_the_published_vector(here, connect):
    """Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation"."""
    connect(aes_key="00" * 32)
    here.disk.put("in", bytes(12) + bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"))
    crypt(here, "decrypt")
    assert here.disk.get("out") == bytes(16)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, PIECE - 17, PIECE - 16, PIECE, PIECE + 1, 2 * PIECE + 15])
def test_sizes(here, connect, size):
    connect(aes_key=base64.b64encode(KEY).decode())
    here.disk.put("in", DATA[:size])
    crypt(here, "encrypt")
    assert len(here.disk.get("out")) == size + 28
    crypt(here, "decrypt", "out", dest=here.uri("plain"))
    assert here.disk.get("plain") == DATA[:size]


@pytest.mark.parametrize("case", ["nonce", "text", "tag", "cut", "longer", "tag-missing", "empty", "another-key"])
def test_what_is_not_as_it_was_sent_is_not_published(here, connect, case):
    here.disk.put("plain", DATA)
    crypt(here, "encrypt", "plain", dest=here.uri("in"))
    made = bytearray(here.disk.get("in"))
    places = {"nonce": 3, "text": 300_000, "tag": -1}
    if case in places:
        made[places[case]] ^= 1
    elif case == "another-key":
        connect(aes_key=bytes(32).hex())
    changed = {"cut": made[:-1], "longer": made + b"x", "tag-missing": made[:-16], "empty": b""}.get(case, made)
    here.disk.put("in", bytes(changed))
    with pytest.raises(SecurityError, match="cannot be decrypted") as caught:
        crypt(here, "decrypt")
    assert caught.value.remedy
    assert here.disk.names() == ["in", "plain"]


@pytest.mark.parametrize(
    ("options", "given", "error", "field"),
    [
        ({}, {}, MissingCredential, "aes_key"),
        ({"aes_key": "00" * 31}, {}, ConfigError, "aes_key"),
        ({"aes_key": "canary"}, {}, ConfigError, "aes_key"),
        ({"aes_key": "00" * 32}, {"signed": True}, ConfigError, "scheme"),
        ({"aes_key": "00" * 32}, {"armor": True}, ConfigError, "armor"),
        ({"aes_key": "00" * 32}, {"operation": "sign"}, ConfigError, "scheme"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, connect, options, given, error, field):
    connect(**options)
    here.disk.put("in", DATA)
    with pytest.raises(error) as caught:
        crypt(here, **{"operation": "encrypt", **given})
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert "canary" not in str(caught.value)
    assert here.disk.names() == ["in"]


def test_the_key_is_nowhere(here, connect, caplog):
    here.disk.put("in", DATA)
    crypt(here, "encrypt")
    texts = [path.read_text() for path in here.state.rglob("*.json")] + [caplog.text]
    assert not [text for text in texts if KEY.hex() in text]


def test_what_files_are_called(here, connect):
    here.disk.put("from/a.csv", b"a")
    assert [
        Path(entry["path"]).name for entry in crypt(here, "encrypt", "from/*", dest=here.uri("to/"))["entries"]
    ] == ["a.csv.aes"]
    crypt(here, "decrypt", "to/*", dest=here.uri("back/"))
    assert here.disk.get("back/a.csv") == b"a"


@pytest.mark.faults
def test_killed_anywhere_and_run_again(tmp_path, connect):
    def whole(scene: tuple[Stage, Stage]) -> None:
        assert scene[1].disk.names() == ["out/a.aes", "out/b.aes"]
        assert node("decrypt", scene[1].disk.get("out/b.aes")) == b"b"

    options = {"operation": "encrypt", "scheme": "aes_gcm", "if_exists": "fail"}
    chosen = (lambda point: True) if KILLS > 3 else (lambda point: "commit" in point)
    assert sweep(scenes(tmp_path, None, "local", options), run_crypt, whole, at=chosen).kills >= 2
