"""Attachments from this disk and from stores, as they are found, typed, refused, and as they arrive."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, NotFound, PathEscape, Unavailable
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.attachment_stores import gather
from flowrunner_provider.email.attachments import content_type, read_all
from flowrunner_provider.files.stores.local import LocalStore
from tests.email.support import BatchScene, Scene, connect, people, send, send_batch
from tests.files import s3
from tests.files.far import FAR_SIDES, Side
from tests.support.kill import Outcome, zombies
from tests.support.smtp_sink import SmtpSink

KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "3"))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture(params=["sftp", "s3"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    side = (s3.side if request.param == "s3" else FAR_SIDES["sftp"])(request, tmp_path / "far")
    for name, value in side.environment.items():
        monkeypatch.setenv(name, value)
    return side


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> Scene:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", smtp_sink.directory)


def found(patterns: Any, inline: Any = None, limit: int = 1000) -> Any:
    return asyncio.run(gather(patterns, {} if inline is None else inline, limit, Run.alone()))


@pytest.mark.backend
def test_files_of_a_store_arrive(scene: Scene, smtp_sink: SmtpSink, far: Side, tmp_path: Path) -> None:
    far.put("out/b.csv", b"b;2\n")
    far.put("out/a.csv", b"a;1\n")
    far.put("out/skipped.txt", b"no")
    far.put("logo.png", PNG)
    (tmp_path / "here.pdf").write_bytes(b"%PDF-")
    send(
        scene, attachments=[far.uri("out/*.csv"), str(tmp_path / "here.pdf"), far.uri("out/a.csv")],
        inline_images={"logo": far.uri("logo.png")}, html='<p><img src="cid:logo"></p>',
    )  # fmt: skip
    (mail,) = smtp_sink.mails()
    parts = [(part.get_filename(), part.get_content_type(), part.get_payload(decode=True)) for part in
             mail.message.iter_attachments()]  # fmt: skip
    assert parts == [
        ("a.csv", "text/csv", b"a;1\n"), ("b.csv", "text/csv", b"b;2\n"), ("here.pdf", "application/pdf", b"%PDF-"),
    ]  # fmt: skip
    (picture,) = [part for part in mail.message.walk() if part["Content-ID"]]
    assert (picture["Content-ID"], picture.get_content_type()) == ("<logo>", "image/png")
    assert picture.get_payload(decode=True) == PNG


@pytest.mark.backend
def test_what_is_refused_on_a_store(scene: Scene, smtp_sink: SmtpSink, far: Side) -> None:
    far.put("out/a.csv", b"a;1\n")
    far.put("out/evil%2f..%2fname", b"x")
    for pattern, kind in (
        ("out/*.pdf", NotFound), ("nowhere/a.csv", NotFound), ("out/evil*", PathEscape), ("out/../a.csv", ConfigError),
    ):  # fmt: skip
        with pytest.raises(kind):
            send(scene, attachments=[far.uri(pattern)])
    assert not smtp_sink.mails()
    assert not scene.state.items().keys() & {"flowrunner.effect.email.send"}


@pytest.mark.backend
def test_a_file_that_is_too_large_is_not_read(
    scene: Scene, far: Side, monkeypatch: pytest.MonkeyPatch, smtp_sink: SmtpSink
) -> None:
    from flowrunner_provider.files.stores.s3 import S3Store
    from flowrunner_provider.files.stores.sftp import SftpStore

    far.put("big.bin", bytes(900_000))
    for store in (SftpStore, S3Store):
        monkeypatch.setattr(store, "read", None)
    with pytest.raises(ConfigError, match="max_total_size is 1,000,000") as caught:
        send(scene, attachments=[far.uri("big.bin")], max_total_size=1_000_000)
    assert caught.value.field == "max_total_size"
    assert not smtp_sink.mails()


def test_a_batch_has_them_too(tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)
    (tmp_path / "terms.pdf").write_bytes(b"%PDF-")
    (tmp_path / "scene").mkdir()
    send_batch(BatchScene(tmp_path / "scene", smtp_sink.directory, people(2)), attachments=[f"file://{tmp_path}/*.pdf"])
    names = [[part.get_filename() for part in mail.message.iter_attachments()] for mail in smtp_sink.mails()]
    assert names == [["terms.pdf"]] * 2


def test_a_file_that_grows_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(b"a")
    times = []

    async def read(self: LocalStore, path: str, offset: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        times.append(path)
        yield b"a" * (3 - len(times))

    monkeypatch.setattr(LocalStore, "read", read)
    assert found([f"file://{tmp_path}/a.csv"])[0][0].data == b"a"
    times.clear()
    monkeypatch.setattr(LocalStore, "read", lambda self, path: _long())
    with pytest.raises(Unavailable, match="changed while it was read"):
        found([f"file://{tmp_path}/a.csv"])


async def _long() -> AsyncIterator[bytes]:
    yield b"much longer"


def test_an_address_that_is_none(tmp_path: Path) -> None:
    for path, kind in (
        ("s4://lake@/a.csv", ConfigError), ("sftp:///a.csv", ConfigError), ("sftp://nowhere@/a.csv", ConfigError),
        (f"file://{tmp_path}", ConfigError),
    ):  # fmt: skip
        with pytest.raises(kind) as caught:
            found([path])
        assert caught.value.remedy


def test_attachments_are_found_and_typed(tmp_path: Path) -> None:
    for name in ("b.csv", "a.csv", "c.xlsx", "d.csv.gz", "e.eml", "f"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "report[1].csv").write_bytes(b"x")
    (tmp_path / "folder.csv").mkdir()
    paths = [f"{tmp_path}/?.csv", f"{tmp_path}/report[1].csv", f"{tmp_path}/a.csv"]
    files, _ = found(paths)
    assert files == read_all(paths, 1000)
    assert [part.name for part in files] == ["a.csv", "b.csv", "report[1].csv"]
    others, inline = found([f"{tmp_path}/[c-f]*"], {"x": f"{tmp_path}/f"})
    assert [part.content_type.split("/")[1] for part in others] == [
        "vnd.openxmlformats-officedocument.spreadsheetml.sheet", "gzip", "octet-stream", "octet-stream",
    ]  # fmt: skip
    assert inline["x"].data == b"f"


def test_what_is_known_has_a_type() -> None:
    """[RAN] Everything was ``application/octet-stream``."""
    spreadsheets = (
        "a.csv",
        "a.tsv",
        "a.xls",
        "a.xlsx",
        "a.ods",
        "a.parquet",
        "a.avro",
        "a.json",
        "a.jsonl",
        "a.geojson",
    )
    texts = ("a.pdf", "a.PDF", "a.doc", "a.docx", "a.odt", "a.rtf", "a.pptx", "a.txt", "a.log", "a.md", "a.html",
             "a.xml", "a.yaml", "a.yml", "a.sql", "a.ics", "a.vcf", "a.epub")  # fmt: skip
    pictures = ("a.png", "a.jpg", "a.jpeg", "a.gif", "a.svg", "a.webp", "a.tif", "a.heic", "a.mp4", "a.mp3")
    packed = ("a.zip", "a.tar", "a.7z", "a.csv.gz", "a.tar.bz2", "a.tar.xz", "a.jsonl.zst", "a.pgp")
    names = (*spreadsheets, *texts, *pictures, *packed)
    assert [name for name in names if content_type(name) == "application/octet-stream"] == []
    assert content_type("a") == content_type("a.unheard-of") == "application/octet-stream"
    assert content_type("a.eml") == "application/octet-stream", "RFC 2046: a message may not be encoded"


@pytest.mark.parametrize("pattern", ["missing.csv", "*.nothing", "folder*"])
def test_a_pattern_without_a_file_is_not_found(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "folder").mkdir()
    for prefix in ("", "file://"):
        with pytest.raises(NotFound, match=r"no file matches|does not exist"):
            found([f"{prefix}{tmp_path}/{pattern}"])


def test_attachments_that_are_refused(tmp_path: Path) -> None:
    (tmp_path / "evil%2f..%2fname").write_bytes(b"")
    (tmp_path / "new\nline").write_bytes(b"")
    for name in ("evil%2f..%2fname", "new\nline"):
        for prefix in ("", "file://"):
            with pytest.raises(PathEscape):
                found([f"{prefix}{tmp_path}/{name}"])
    (tmp_path / "big").write_bytes(bytes(1000))
    for prefix in ("", "file://"):
        with pytest.raises(ConfigError, match="max_total_size is 1,200"):
            found([f"{prefix}{tmp_path}/big"], limit=1200)
    for patterns, inline in [
        ("a.csv", {}), ([5], {}), ([""], {}), ([], []), ([], {"x": f"{tmp_path}/*"}), ([], {"x": f"file://{tmp_path}/*"}),
    ]:  # fmt: skip
        with pytest.raises(ConfigError):
            found(patterns, inline)


@pytest.mark.faults
@pytest.mark.backend
@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
def test_an_attempt_that_wakes_sends_none_beside_the_newer_one(
    tmp_path: Path, smtp_sink: SmtpSink, far: Side, many: bool
) -> None:
    """Wherever it stood while it found, read and sent them; what is sent has all of them."""
    connect(smtp_sink)
    far.put("out/a.csv", b"a;1\n")
    far.put("out/b.csv", b"b;2\n" * 1000)
    files, numbers = [far.uri("out/*.csv")], itertools.count()

    def make() -> Scene | BatchScene:
        folder = tmp_path / f"scene-{next(numbers)}"
        folder.mkdir()
        if many:
            return BatchScene(folder, smtp_sink.directory, people(2), {"attachments": files})
        return Scene(folder, smtp_sink.directory, {"attachments": files})

    def once(scene: Scene | BatchScene) -> None:
        mails = [path.read_bytes() for path in scene.mails()] if isinstance(scene, Scene) else [
            bytes(mail.message) for mail in scene.mails()]  # fmt: skip
        assert len(mails) <= (2 if many else 1)
        assert all(b"a.csv" in mail and b"b.csv" in mail for mail in mails)
        assert mails or "flowrunner" not in scene.state.items(), "finished without a mail"

    def over(outcome: Outcome) -> bool:
        return outcome.ok or outcome.error_type == "OutcomeUnknown"

    def at(point: str) -> bool:
        """By default at the first few; FLOWRUNNER_KILLS=21: everywhere."""
        return KILLS > 20 or point.endswith(("after_build", "after_intent", "after_announce", "before_confirm"))

    zombies(make, send_batch if many else send, once, done=over, at=at, patience=2.0)
