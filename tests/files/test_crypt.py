"""files.crypt with GnuPG and age as independent judges, on this machine and on a real SSH server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AlreadyExists,
    BadSignature,
    ConfigError,
    IntegrityError,
    MissingCredential,
    MissingExtra,
    NotFound,
    SecurityError,
)
from flowrunner_provider.files.crypt import engine
from flowrunner_provider.files.crypt.home import gnupg_home
from flowrunner_provider.files.operators import FileCryptoOperator
from tests.files.stage import KILLS, Stage, stage
from tests.support.context import execute, make_context
from tests.support.kill import double_kill, sweep
from tests.support.servers import require

DATA = os.urandom(700_000)


class Gpg:
    """GnuPG with a home of its own; ``us`` has a passphrase, ``partner`` has none, ``old`` has expired."""

    def __init__(self, home: Path) -> None:
        self.home = home
        home.mkdir(mode=0o700)
        self.keys = {"us": "geheim-4711", "partner": "", "stranger": ""}
        for name, passphrase in self.keys.items():
            self.make(name, passphrase, "never")
        self.make("old", "", "seconds=1")

    def make(self, name: str, passphrase: str, expire: str) -> None:
        made = ("--passphrase", passphrase, "--quick-generate-key", f"{name}@example.com", "future-default", "default")
        self(*made, expire)

    def __call__(self, *arguments: str, data: bytes = b"") -> bytes:
        program = require("gpg", apt="gnupg")
        command = [program, "--homedir", str(self.home), "--batch", "--yes", "--pinentry-mode", "loopback"]
        command += ["--trust-model", "always", "--quiet", "--compress-algo", "none", *arguments]
        return subprocess.run(command, input=data, check=True, capture_output=True).stdout

    def secret(self, name: str) -> str:
        password = ("--passphrase", self.keys.get(name, ""))
        return self("--armor", *password, "--export-secret-keys", f"{name}@example.com").decode()

    def public(self, *names: str) -> str:
        return "\n".join(self("--armor", "--export", f"{name}@example.com").decode() for name in names)

    def stop(self) -> None:
        subprocess.run(["gpgconf", "--homedir", str(self.home), "--kill", "all"], check=False)


@pytest.fixture(scope="module")
def gpg(tmp_path_factory):
    home = tmp_path_factory.mktemp("g")
    judge = Gpg(home / "h")
    yield judge
    judge.stop()


@pytest.fixture
def connect(monkeypatch):
    def connect(name: str = "keys", password: str = "", **options: Any) -> None:
        value = {"conn_type": "generic", "password": password, "extra": {"flowrunner": options}}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(value))

    return connect


@pytest.fixture
def keys(gpg, connect):
    """We talk to the partner."""
    connect(password="geheim-4711", pgp_secret_key=gpg.secret("us"), pgp_public_keys=gpg.public("partner"))


@pytest.fixture(params=["local", "sftp"])
def there(request, tmp_path) -> Stage:
    return stage(request.param, tmp_path, request.getfixturevalue("sshd") if request.param == "sftp" else None)


@pytest.fixture
def here(tmp_path) -> Stage:
    return stage("local", tmp_path, None)


def crypt(there: Stage, operation: str, name: str = "in", **options: Any) -> Any:
    given = {"source": there.uri(name), "dest": there.uri("out"), "keys_conn_id": "keys", **options}
    return there.run(FileCryptoOperator(task_id="crypt", operation=operation, **given))


@pytest.mark.parametrize("armor", [False, True])
def test_gnupg_reads_what_we_encrypt_and_sign(there, gpg, keys, tmp_path, armor):
    there.disk.put("in", DATA)
    result = crypt(there, "encrypt", armor=armor)
    made = there.disk.get("out")
    assert made.startswith(b"-----BEGIN PGP MESSAGE") is armor
    (tmp_path / "made").write_bytes(made)
    status = gpg("--status-fd", "1", "--decrypt", "--output", str(tmp_path / "plain"), str(tmp_path / "made"))
    assert (tmp_path / "plain").read_bytes() == DATA
    assert b"GOODSIG" in status
    assert b"us@example.com" in status
    assert (result["files"], result["bytes"]) == (1, len(made))
    assert there.disk.names() == ["in", "out"]


def test_we_read_what_gnupg_encrypts_and_signs(there, gpg, keys):
    there.disk.put("in", gpg("-r", "us@example.com", "-u", "partner@example.com", "--sign", "--encrypt", data=DATA))
    result = crypt(there, "decrypt")
    assert there.disk.get("out") == DATA
    fingerprint = gpg("--with-colons", "--list-keys", "partner@example.com").decode().split("fpr:::::::::")[1][:40]
    assert [signer.upper() for signer in result["signers"]] == [fingerprint]


def test_a_detached_signature_both_ways(there, gpg, connect, keys, tmp_path):
    there.disk.put("in", DATA)
    crypt(there, "sign", dest=there.uri("in.sig"))
    (tmp_path / "f").write_bytes(DATA)
    (tmp_path / "f.sig").write_bytes(there.disk.get("in.sig"))
    gpg("--verify", str(tmp_path / "f.sig"), str(tmp_path / "f"))
    for armor in ((), ("--armor",)):
        there.disk.put("in.sig", gpg(*armor, "-u", "partner@example.com", "--detach-sign", data=DATA))
        result = crypt(there, "verify", dest=None)
        assert (result["files"], result["bytes"], len(result["signers"])) == (1, len(DATA), 1)
    there.disk.put("in", DATA[:-1] + b"x")
    with pytest.raises(BadSignature):
        crypt(there, "verify", dest=None)
    there.disk.put("in", DATA)
    there.disk.put("in.sig", gpg("-u", "stranger@example.com", "--detach-sign", data=DATA))
    with pytest.raises(BadSignature):
        crypt(there, "verify", dest=None)
    os.unlink(there.disk.path / "in.sig")
    with pytest.raises(NotFound):
        crypt(there, "verify", dest=None)


def test_a_file_that_holds_its_signature(here, gpg, keys):
    here.disk.put("in", gpg("-u", "partner@example.com", "--sign", data=DATA))
    assert len(crypt(here, "verify", signature="")["signers"]) == 1
    assert here.disk.get("out") == DATA
    here.disk.put("in", gpg("-u", "stranger@example.com", "--sign", data=DATA))
    with pytest.raises(BadSignature):
        crypt(here, "verify", signature="", dest=here.uri("bad"))
    assert here.disk.names() == ["in", "out"]


def test_the_signers_of_all_files_are_in_the_result(here, gpg, connect, monkeypatch):
    """Also of files beyond those that the result lists one by one."""
    connect(password="geheim-4711", pgp_secret_key=gpg.secret("us"), pgp_public_keys=gpg.public("partner", "stranger"))
    for name, signer in (("a", "partner"), ("b", "stranger")):
        sent = ("-r", "us@example.com", "-u", f"{signer}@example.com", "--sign", "--encrypt")
        here.disk.put(f"from/{name}.pgp", gpg(*sent, data=DATA))
    monkeypatch.setattr(engine, "Publisher", partial(engine.Publisher, keep=1))
    result = crypt(here, "decrypt", "from/*.pgp", dest=here.uri("to/"))
    assert (result["files"], len(result["entries"]), len(result["signers"])) == (2, 1, 2)


def refusals(gpg: Gpg) -> dict[str, tuple[bytes, type[Exception]]]:
    us, partner = ("-r", "us@example.com"), ("-u", "partner@example.com")
    good = gpg(*us, *partner, "--sign", "--encrypt", data=DATA)
    middle, end = bytearray(good), bytearray(good)
    middle[len(good) // 2] ^= 1
    end[-3] ^= 1
    return {
        "for another key": (gpg("-r", "stranger@example.com", *partner, "-s", "-e", data=DATA), SecurityError),
        "changed in the middle": (bytes(middle), SecurityError),
        "changed at the end": (bytes(end), SecurityError),
        "cut off": (good[:-100], SecurityError),
        "cut off early": (good[:50], SecurityError),
        "empty": (b"", SecurityError),
        "no OpenPGP": (b"hello", SecurityError),
        "not signed": (gpg(*us, "--encrypt", data=DATA), BadSignature),
        "signed by a stranger": (gpg(*us, "-u", "stranger@example.com", "-s", "-e", data=DATA), BadSignature),
    }


def test_what_is_refused_is_not_published(here, gpg, keys):
    for case, (data, error) in refusals(gpg).items():
        here.disk.put("in", data)
        with pytest.raises(error) as caught:
            crypt(here, "decrypt")
        assert caught.value.remedy, case
        assert "backtrace" not in str(caught.value)
        assert here.disk.names() == ["in"], case


SENT = ("--compress-algo", "zip", "--sign", "--encrypt", "-r", "us@example.com")


def homes() -> list[str]:
    """The homes that GnuPG was given and that are there still."""
    return [name for folder in ("/dev/shm", "/tmp") for name in os.listdir(folder) if name.startswith("flowrunner-gpg")]


def test_what_gnupg_sends_by_default(there, gpg, keys):
    """Encrypted, compressed and signed, beyond what pysequoia holds back, too."""
    data = DATA + bytes(40_000_000)
    there.disk.put("in", gpg(*SENT, "-u", "partner@example.com", data=data))
    result = crypt(there, "decrypt")
    assert there.disk.get("out") == data
    fingerprint = gpg("--with-colons", "--list-keys", "partner@example.com").decode().split("fpr:::::::::")[1][:40]
    assert [signer.upper() for signer in result["signers"]] == [fingerprint]
    assert there.disk.names() == ["in", "out"]
    assert homes() == []


def test_an_attempt_that_wakes_late_leaves_the_gnupg_home_of_its_successor():
    zombie, successor = gnupg_home("token"), gnupg_home("token")
    zombie.__enter__()
    home = Path(successor.__enter__())
    zombie.__exit__(None, None, None)
    assert home.is_dir()
    assert home.stat().st_mode & 0o777 == 0o700
    successor.__exit__(None, None, None)
    assert homes() == []


def test_a_gnupg_home_of_a_killed_attempt_is_removed():
    killed = gnupg_home("token")
    left = Path(killed.__enter__())
    with gnupg_home("token") as home:
        assert not left.exists()
        assert home != str(left)


@pytest.mark.parametrize("case", ["a stranger", "ourselves", "another partner", "changed", "cut off", "wrong password"])
def test_what_gnupg_refuses_is_not_published(here, gpg, connect, keys, case):
    signer = {"a stranger": "stranger", "ourselves": "us"}.get(case, "partner")
    secret = ("--passphrase", "geheim-4711") if signer == "us" else ()
    sent = bytearray(gpg(*secret, *SENT, "-u", f"{signer}@example.com", data=DATA))
    if case == "changed":
        sent[len(sent) // 2] ^= 1
    if case == "cut off":
        del sent[-40:]
    if case in ("another partner", "wrong password"):
        password = "wrong-4711" if case == "wrong password" else "geheim-4711"
        connect(password=password, pgp_secret_key=gpg.secret("us"), pgp_public_keys=gpg.public("stranger"))
    here.disk.put("in", bytes(sent))
    with pytest.raises(SecurityError) as caught:
        crypt(here, "decrypt")
    assert caught.value.remedy
    assert "4711" not in str(caught.value)
    if case in ("a stranger", "ourselves", "another partner"):
        assert isinstance(caught.value, BadSignature)
    assert here.disk.names() == ["in"]
    assert homes() == []


def test_without_gnupg_a_signature_within_compressed_data_is_told(here, gpg, keys, monkeypatch):
    here.disk.put("in", gpg(*SENT, "-u", "partner@example.com", data=DATA))
    monkeypatch.setattr("flowrunner_provider.files.crypt.engine.shutil.which", lambda name: None)
    with pytest.raises(SecurityError, match="compress"):
        crypt(here, "decrypt")
    assert here.disk.names() == ["in"]
    crypt(here, "decrypt", signed=False)
    assert here.disk.get("out") == DATA


def test_a_signature_need_not_be_there_if_so_said(here, gpg, keys):
    here.disk.put("in", gpg("-r", "us@example.com", "--encrypt", data=DATA))
    assert crypt(here, "decrypt", signed=False)["signers"] == []
    assert here.disk.get("out") == DATA


@pytest.mark.parametrize("case", ["expired", "no key for encryption", "wrong passphrase", "no passphrase", "no key"])
def test_keys_that_cannot_be_used(here, gpg, connect, case):
    public, secret, password = gpg.public("partner"), gpg.secret("us"), "geheim-4711"
    if case == "expired":
        time.sleep(max(0.0, 1.5 - time.monotonic() % 1))  # its second has passed
        public = gpg.public("partner", "old")
    elif case == "no key for encryption":
        gpg("--passphrase", "", "--quick-generate-key", "signer@example.com", "ed25519", "sign", "never")
        public = gpg.public("signer")
    elif case == "no key":
        public = "-----BEGIN PGP"
    else:
        password = {"wrong passphrase": "wrong-4711", "no passphrase": ""}[case]
    connect(password=password, pgp_secret_key=secret, pgp_public_keys=public)
    here.disk.put("in", DATA)
    with pytest.raises(ConfigError if case == "no key" else SecurityError) as caught:
        crypt(here, "encrypt")
    assert caught.value.remedy
    assert "4711" not in str(caught.value)
    assert here.disk.names() == ["in"]


def test_age_both_ways(there, connect, tmp_path):
    keygen, age = require("age-keygen", apt="age"), require("age", apt="age")
    secret = subprocess.run([keygen], check=True, capture_output=True, text=True).stdout.split("\n")[2]
    public = subprocess.run([keygen, "-y"], input=secret, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "ssh"], check=True)
    ssh_public, ssh_secret = (tmp_path / "ssh.pub").read_text(), (tmp_path / "ssh").read_text()
    connect(age_secret_key=secret, age_recipients=[public, ssh_public])
    there.disk.put("in", DATA)
    for armor in (False, True):
        crypt(there, "encrypt", scheme="age", armor=armor)
        (tmp_path / "key").write_text(secret)
        for key in ("key", "ssh"):
            command = [age, "-d", "-i", tmp_path / key]
            plain = subprocess.run(command, input=there.disk.get("out"), check=True, capture_output=True)
            assert plain.stdout == DATA
    made = subprocess.run([age, "-r", public, "-r", ssh_public.strip()], input=DATA, check=True, capture_output=True)
    for key in (secret, ssh_secret):
        connect(age_secret_key=key)
        there.disk.put("in", made.stdout)
        crypt(there, "decrypt", scheme="age", dest=there.uri("plain"))
        assert there.disk.get("plain") == DATA
        os.unlink(there.disk.path / "plain")
    for bad in (made.stdout[:-1], made.stdout[:70_000], b"", b"x" * 500, made.stdout[:300_000] + b"x" * 9):
        there.disk.put("in", bad)
        with pytest.raises(SecurityError):
            crypt(there, "decrypt", scheme="age", dest=there.uri("plain"))
        assert "plain" not in there.disk.names()
    connect(age_secret_key="AGE-SECRET-KEY-1NONE", age_recipients=["age1none"])
    for operation in ("encrypt", "decrypt"):
        with pytest.raises(SecurityError):
            crypt(there, operation, scheme="age", dest=there.uri("plain"))


def test_many_files_and_what_they_are_called(there, gpg, keys):
    for name in ("a.csv", "b.csv", "c.txt"):
        there.disk.put(f"from/{name}", name.encode())
    result = crypt(there, "encrypt", "from/*.csv", dest=there.uri("to/"))
    assert [Path(entry["path"]).name for entry in result["entries"]] == ["a.csv.pgp", "b.csv.pgp"]
    with pytest.raises(AlreadyExists):
        crypt(there, "encrypt", "from/*", dest=there.uri("to/"), if_exists="fail")
    assert "to/c.txt.pgp" not in there.disk.names()
    assert crypt(there, "encrypt", "from/*", dest=there.uri("to/"), if_exists="skip")["skipped"] == 2


def test_a_file_that_grows_is_an_error(here, gpg, keys, monkeypatch):
    from flowrunner_provider.files.stores.local import LocalStore

    here.disk.put("in", DATA)
    whole = LocalStore.read

    async def growing(self, path, offset=0, length=None):
        async for chunk in whole(self, path, offset, length):
            yield chunk
        here.disk.put("in", DATA + b"more")

    monkeypatch.setattr(LocalStore, "read", growing)
    with pytest.raises(IntegrityError, match="changed while"):
        crypt(here, "encrypt")
    assert here.disk.names() == ["in"]


def test_no_key_is_kept_or_shown(here, gpg, keys, caplog):
    here.disk.put("in", DATA)
    crypt(here, "encrypt")
    lines = [line for line in gpg.secret("us").splitlines() if len(line) == 64][:3]
    texts = [path.read_text() for path in here.state.rglob("*.json")] + [caplog.text]
    assert not [text for text in texts for secret in (*lines, "geheim-4711") if secret in text]


@pytest.mark.parametrize(
    ("operation", "options", "error", "field"),
    [
        ("encrypt", {"source": "/nowhere/a"}, NotFound, None),
        ("encrypt", {"source": []}, ConfigError, "source"),
        ("mangle", {}, ConfigError, "operation"),
        ("encrypt", {"scheme": "rot13"}, ConfigError, "scheme"),
        ("encrypt", {"scheme": "age", "signed": True}, ConfigError, "scheme"),
        ("sign", {"scheme": "age"}, ConfigError, "scheme"),
        ("encrypt", {"dest": None}, ConfigError, "dest"),
        ("encrypt", {"dest": ""}, ConfigError, "dest"),
        ("verify", {}, ConfigError, "dest"),
        ("encrypt", {"if_exists": "rename"}, ConfigError, "if_exists"),
        ("encrypt", {"keys_conn_id": "nobody"}, ConfigError, "conn_id"),
        ("encrypt", {"keys_conn_id": "web"}, ConfigError, "conn_type"),
        ("encrypt", {"keys_conn_id": "bare"}, MissingCredential, "pgp_secret_key"),
        ("encrypt", {"keys_conn_id": "bare", "signed": False}, MissingCredential, "pgp_public_keys"),
        ("decrypt", {"keys_conn_id": "bare", "scheme": "age"}, MissingCredential, "age_secret_key"),
        ("encrypt", {"keys_conn_id": "typo"}, ConfigError, "pgp_key"),
    ],
)
def test_bad_input_is_refused_before_any_effect(here, connect, keys, monkeypatch, operation, options, error, field):
    connect("bare")
    connect("typo", pgp_key="x")
    monkeypatch.setenv("AIRFLOW_CONN_WEB", json.dumps({"conn_type": "http"}))
    here.disk.put("in", DATA)
    with pytest.raises(error) as caught:
        crypt(here, operation, **options)
    assert caught.value.remedy
    assert field in (None, getattr(caught.value, "field", None))
    assert here.disk.names() == ["in"]


@pytest.mark.parametrize(("scheme", "module"), [("pgp", "pysequoia"), ("age", "pyrage")])
def test_a_missing_package_is_told(here, keys, monkeypatch, scheme, module):
    here.disk.put("in", DATA)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match="crypt"):
        crypt(here, "encrypt", scheme=scheme)


# -- killed

SHORT = DATA if KILLS > 3 else DATA[:1000]


def scenes(tmp_path, server, way: str, options: dict[str, Any]):
    numbers = iter(range(10_000))

    def make() -> tuple[Stage, Stage]:
        folder = tmp_path / str(next(numbers))
        source, dest = stage("local", folder / "from", None), stage(way, folder / "to", server)
        source.disk.put("in/a", SHORT)
        source.disk.put("in/b", b"b")
        (source.state / "options").write_text(json.dumps(options))
        return source, dest

    return make


def run_crypt(scene: tuple[Stage, Stage]) -> Any:
    source, dest = scene
    options = json.loads((source.state / "options").read_text())
    operator = FileCryptoOperator(
        task_id="c", source=source.uri("in/*"), dest=dest.uri("out/"), keys_conn_id="keys", **options
    )
    result = execute(operator, make_context(operator, state=source.state / "same"))
    (source.state / "result").write_text(json.dumps(result))


@pytest.mark.faults
@pytest.mark.parametrize("way", ["local", "sftp"])
def test_killed_anywhere_and_run_again(tmp_path, sshd, gpg, connect, way):
    secret = gpg.secret("partner")
    connect(pgp_secret_key=secret, pgp_public_keys=gpg.public("partner"))

    def whole(scene: tuple[Stage, Stage]) -> None:
        assert scene[1].disk.names() == ["out/a.pgp", "out/b.pgp"]
        assert gpg("--decrypt", data=scene[1].disk.get("out/a.pgp")) == SHORT
        assert gpg("--decrypt", data=scene[1].disk.get("out/b.pgp")) == b"b"
        result = json.loads((scene[0].state / "result").read_text())
        assert (result["files"], result["skipped"]) == (2, 0)

    options = {"operation": "encrypt", "if_exists": "fail" if way == "local" else "overwrite"}
    chosen = (lambda point: True) if KILLS > 3 or way == "local" else (lambda point: "commit" in point)
    assert sweep(scenes(tmp_path, sshd, way, options), run_crypt, whole, at=chosen).kills >= 4
    if way == "local":
        double_kill(scenes(tmp_path / "twice", sshd, way, options), run_crypt, whole, limit=KILLS)


def test_memory_stays_constant(here, gpg, keys):
    import resource

    size = 1024**3 if KILLS > 3 else 100 * 1024**2
    with open(here.disk.path / "in", "wb") as file:
        file.truncate(size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crypt(here, "encrypt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert (here.disk.path / "out").stat().st_size > 0
