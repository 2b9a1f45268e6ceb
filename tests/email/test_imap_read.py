"""email.read on a real Dovecot: what it returns, what it saves, what it leaves in the mailbox."""

from __future__ import annotations

import hashlib
import json
import os
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import AlreadyExists, ConfigError, NotFound, PermanentError
from flowrunner_provider.email.mailbox import files as mailbox_files
from flowrunner_provider.email.mailbox import read as mailbox_read
from flowrunner_provider.email.mailbox.imap import ImapSession
from tests.email.mailboxes import Scene, mail, read, reading, run
from tests.support.dovecot import Dovecot, Mailbox

pytestmark = pytest.mark.backend


@pytest.fixture
def box(dovecot: Dovecot) -> Mailbox:
    box = dovecot.mailbox()
    box.connection()
    return box


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_it_returns(box: Mailbox, tmp_path: Path) -> None:
    data = os.urandom(1_500_000)
    message = mail("one", ("invoice.pdf", data), subject="Rechnung für März ✓", sender="Zoë <z@example.com>")
    message["List-Id"] = "=?utf-8?q?Gr=C3=BC=C3=9Fe?= <l.example.com>"
    box.put(message, date="06-Jan-2026 12:00:00 +0100")
    result = run(reading(save_attachments_to=str(tmp_path / "in"), body="both", headers=["List-Id", "X-None"]))
    assert {key: result[key] for key in ("messages", "attachments", "bytes", "gone", "more")} == {
        "messages": 1, "attachments": 1, "bytes": len(data), "gone": 0, "more": False,
    }  # fmt: skip
    (row,) = result["rows"]
    assert row["subject"] == "Rechnung für März ✓"
    assert row["from"] == [{"name": "Zoë", "address": "z@example.com"}]
    assert (row["message_id"], row["date"]) == ("<one@test>", "2026-01-05T10:00:00+01:00")
    assert row["received"] == "2026-01-06T11:00:00+00:00"
    assert row["headers"] == {"List-Id": ["Grüße <l.example.com>"], "X-None": []}
    assert (row["text"], row["text_cut"], row["html"]) == ("Text of one\n", False, "")
    (saved,) = row["attachments"]
    assert (saved["name"], saved["size"], saved["sha256"]) == (
        "invoice.pdf", len(data), hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    assert Path(saved["path"]).read_bytes() == data
    assert Path(saved["path"]).name.startswith("invoice-")
    assert list(files(tmp_path / "in")) == [Path(saved["path"]).name]


def test_reading_marks_nothing(box: Mailbox, tmp_path: Path) -> None:
    """GAPS: ``FETCH RFC822`` marked a message as read before anybody had it."""
    box.put(mail("one", ("a.pdf", b"x")))
    run(reading(save_attachments_to=str(tmp_path), body="both"))
    assert box.uids(criteria="UNSEEN") == [1]


@pytest.mark.parametrize("after", ["mark_seen", "move", "delete"])
def test_afterwards(box: Mailbox, after: str) -> None:
    box.put(mail("one"), mail("two"), mail("other", sender="else@example.com"))
    more = {"target_folder": "Bücher/Gelesen", "create_target": True} if after == "move" else {}
    result = run(reading(search={"from": "billing"}, after=after, **more))
    assert (result["messages"], result["expunged"]) == (2, True)
    if after == "mark_seen":
        assert (box.uids(criteria="SEEN"), box.uids(criteria="UNSEEN")) == ([1, 2], [3])
    else:
        assert box.message_ids() == ["<other@test>"]
    moved = box.message_ids('"B&APw-cher/Gelesen"')
    assert moved == (["<one@test>", "<two@test>"] if after == "move" else [])


def test_names_never_clash_and_never_lead_elsewhere(box: Mailbox, tmp_path: Path) -> None:
    names = [
        "a.pdf", "a.pdf", "A.PDF", "../../etc/passwd", "/etc/cron.d/x", "..", ".", "C:\\x.exe", "a/b.pdf", "-rf",
        "%2e%2e%2fx.pdf", "nul\u2028.pdf", "ä" * 200 + ".pdf", "a\u0301.pdf", "á.pdf", "＼x.pdf", " .pdf", "x" * 300,
    ]  # fmt: skip
    box.put(mail("one", *((name, name.encode()) for name in names)), mail("two", ("a.pdf", b"other")))
    for layout in ("flat", "folders"):
        target = tmp_path / layout
        result = run(reading(save_attachments_to=str(target), layout=layout))
        saved = [item for row in result["rows"] for item in row["attachments"]]
        assert len({item["path"].casefold() for item in saved}) == len(names) + 1 == result["attachments"]
        assert all(Path(item["path"]).resolve().is_relative_to(target) for item in saved)
        assert sorted(files(target).values()) == sorted([*(name.encode() for name in names), b"other"])
    assert not list(tmp_path.rglob("*.part"))


def test_a_pattern_chooses(box: Mailbox, tmp_path: Path) -> None:
    box.put(mail("one", ("a.PDF", b"1"), ("b.txt", b"2")))
    result = run(reading(save_attachments_to=str(tmp_path), attachment_pattern="*.pdf"))
    assert list(files(tmp_path).values()) == [b"1"]
    assert result["attachments"] == 1


def test_the_same_mail_again(box: Mailbox, tmp_path: Path) -> None:
    box.put(mail("one", ("a.pdf", b"1")))
    target = str(tmp_path)
    (path,) = [Path(run(reading(save_attachments_to=target))["rows"][0]["attachments"][0]["path"])]
    run(reading(save_attachments_to=target))
    assert files(tmp_path) == {path.name: b"1"}
    with pytest.raises(AlreadyExists):
        run(reading(save_attachments_to=target, if_exists="fail"))
    path.write_bytes(b"edited")
    run(reading(save_attachments_to=target, if_exists="skip"))
    assert files(tmp_path) == {path.name: b"edited"}


def test_attachments_into_another_store(box: Mailbox, sshd: Any) -> None:
    from tests.files.far import connection_of

    os.environ["AIRFLOW_CONN_PARTNER"] = connection_of(sshd)
    root, data = sshd.root(), os.urandom(300_000)
    box.put(mail("one", ("a.pdf", data)))
    result = run(reading(save_attachments_to=f"sftp://partner@{root}/in"))
    (saved,) = result["rows"][0]["attachments"]
    assert saved["path"].startswith(f"sftp://partner@{root}/in/a-")
    assert list(files(Path(root)).values()) == [data]


def test_a_big_attachment_comes_in_pieces(box: Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    peek = ImapSession.peek

    async def counted(self: ImapSession, uid: int, section: str, start: int, length: int) -> bytes | None:
        asked.append(start)
        return await peek(self, uid, section, start, length)

    monkeypatch.setattr(ImapSession, "peek", counted)
    monkeypatch.setattr(mailbox_files, "CHUNK", 10_001)
    data = os.urandom(50_000)
    box.put(mail("one", ("a.bin", data)))
    run(reading(save_attachments_to=str(tmp_path)))
    assert asked == list(range(0, 70_000, 10_001))
    assert list(files(tmp_path).values()) == [data]


def test_into_a_dataset(box: Mailbox, tmp_path: Path) -> None:
    box.put(*(mail(f"m{n}") for n in range(70)))
    path = tmp_path / "mails.jsonl"
    result = run(reading(save_to=str(path), body="text", after="mark_seen"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["text"] for row in rows] == [f"Text of m{n}\n" for n in range(70)]
    assert (result["messages"], result["rows"], result["dataset"]["rows"]) == (70, [], 70)
    assert len(box.uids(criteria="SEEN")) == 70


def test_too_much_for_a_result_is_told_before_anything_is_done(box: Mailbox, tmp_path: Path) -> None:
    box.put(*(mail(f"m{n}", ("a.pdf", b"x"), subject="s" * 400) for n in range(60)))
    with pytest.raises(ConfigError, match="save_to"):
        run(reading(save_attachments_to=str(tmp_path / "in"), after="delete"))
    assert not (tmp_path / "in").exists()
    assert len(box.uids()) == 60


def test_a_limit_takes_the_oldest_and_says_that_there_are_more(box: Mailbox) -> None:
    box.put(*(mail(f"m{n}") for n in range(5)))
    result = run(reading(limit=2))
    assert ([row["uid"] for row in result["rows"]], result["more"]) == ([1, 2], True)
    assert run(reading(limit=5))["more"] is False


def test_large_messages(box: Mailbox) -> None:
    box.put(mail("big", ("a.pdf", b"x" * 50_000)), mail("small"))
    with pytest.raises(PermanentError, match="max_size"):
        run(reading(max_size=20_000, after="delete"))
    assert len(box.uids()) == 2
    result = run(reading(max_size=20_000, on_too_large="skip", after="delete"))
    assert (result["messages"], result["too_large"], box.message_ids()) == (1, 1, ["<big@test>"])


def test_nothing_matches(box: Mailbox) -> None:
    with pytest.raises(NotFound, match="missing_ok"):
        run(reading(search={"subject": "nowhere"}))
    assert run(reading(search={"subject": "nowhere"}, missing_ok=True))["messages"] == 0


def test_by_uid(box: Mailbox) -> None:
    box.put(*(mail(f"m{n}") for n in range(4)))
    assert [row["uid"] for row in run(reading(uids=[2, 4, 99]))["rows"]] == [2, 4]
    assert [row["uid"] for row in run(reading(uids="2:3"))["rows"]] == [2, 3]
    with pytest.raises(NotFound, match="UIDVALIDITY"):
        run(reading(uids=[2], uidvalidity=7))


@pytest.mark.parametrize("hole", ["before", "between"])
def test_a_message_that_vanishes_is_counted(
    box: Mailbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hole: str
) -> None:
    """GUARANTEES 24: deleted while it is read."""
    box.put(mail("one", ("a.pdf", b"1"), ("b.pdf", b"2")), mail("two", ("c.pdf", b"3")))
    peek, seen = ImapSession.peek, []

    async def vanishing(self: ImapSession, uid: int, section: str, start: int, length: int) -> bytes | None:
        seen.append(section)
        if uid == 1 and len(seen) == (1 if hole == "before" else 2):
            box.remove(1)
            await self.noop()
        return await peek(self, uid, section, start, length)

    monkeypatch.setattr(ImapSession, "peek", vanishing)
    result = run(reading(save_attachments_to=str(tmp_path), after="mark_seen"))
    assert (result["messages"], result["gone"], result["attachments"]) == (1, 1, 1)
    assert list(files(tmp_path).values()) == [b"3"]


def test_new_uids_between_two_attempts(dovecot: Dovecot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """GUARANTEES 24: another UIDVALIDITY; every message once, and the right ones are marked."""
    box = dovecot.mailbox()
    nameless = mail("x3")
    del nameless["Message-ID"]
    wanted = [mail(f"m{n}", (f"{n}.pdf", b"%d" % n)) for n in range(3)]
    box.put(*wanted, nameless, mail("other", sender="else@example.com"))
    scene = Scene(
        tmp_path,
        box,
        {"search": {"from": "billing", "unseen": True}, "after": "mark_seen", "save_attachments_to": f"{tmp_path}/in"},
    )
    monkeypatch.setattr(mailbox_read, "SAVE_EVERY", 0.0)
    message, seen = mailbox_read._Read._message, []

    async def breaking(self: Any, *arguments: Any) -> None:
        seen.append(arguments)
        if len(seen) == 3:
            raise PermanentError("killed here")
        await message(self, *arguments)

    monkeypatch.setattr(mailbox_read._Read, "_message", breaking)
    with pytest.raises(PermanentError):
        read(scene)
    monkeypatch.setattr(mailbox_read._Read, "_message", message)
    box.renumber()
    result = read(scene)
    assert [row["message_id"] for row in result["rows"]] == ["<m0@test>", "<m1@test>", "<m2@test>", ""]
    assert sorted(files(tmp_path / "in").values()) == [b"0", b"1", b"2"]
    assert box.message_ids(criteria="UNSEEN") == ["<other@test>"]
    assert min(box.uids()) > 400


def test_folders_with_odd_names(box: Mailbox) -> None:
    for folder, wire in (
        ("Entwürfe & mehr", '"Entw&APw-rfe &- mehr"'),
        ('a "quoted" \\ name', '"a \\"quoted\\" \\\\ name"'),
    ):
        box.put(mail("one"), folder=wire)
        assert run(reading(folder=folder))["messages"] == 1
    with pytest.raises(NotFound):
        run(reading(folder="nowhere"))


def test_damaged_mail_is_no_error(box: Mailbox, tmp_path: Path) -> None:
    """GAPS: one byte that was not UTF-8 ended the run with UnicodeDecodeError."""
    bad = [
        b"From: \xff\xfe <a@b>\nSubject: caf\xe9 \xff\n\n\xff\xfe not utf-8\n",
        b"Subject: =?x-nobody?q?=ff=fe?= =?utf-8?b?!!!?=\nContent-Type: text/plain; charset=x-nobody\n\n\xc3\xa9\n",
        b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n!!!not base64===\n",
        b"From: (((\nDate: never\nMessage-ID:\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhalf",
        b'Content-Type: application/pdf; name="=?utf-8?q?=C3=A4=ff.pdf?="\nContent-Transfer-Encoding: base64\n\nAAA',
        b"\n",
        b"no header at all",
    ]
    box.put(*bad)
    result = run(reading(body="both", save_attachments_to=str(tmp_path)))
    assert (result["messages"], result["unreadable"]) == (len(bad), 0)
    texts = [row["text"] for row in result["rows"]]
    assert texts[0].endswith("not utf-8\n")
    assert "é" in texts[1]
    assert result["rows"][0]["subject"] == "café ÿ"
    assert list(files(tmp_path).values()) == [b"\0\0"]


def test_an_attached_message_is_a_file(box: Mailbox, tmp_path: Path) -> None:
    outer = mail("outer")
    outer.add_attachment(mail("inner", ("deep.pdf", b"deep")))
    box.put(outer)
    result = run(reading(save_attachments_to=str(tmp_path)))
    (saved,) = result["rows"][0]["attachments"]
    assert saved["content_type"] == "message/rfc822"
    assert saved["path"].endswith(".eml")
    assert b"<inner@test>" in Path(saved["path"]).read_bytes()


def test_pictures_of_the_text_are_no_attachments(box: Mailbox, tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"] = "x"
    message.set_content("<img src='cid:logo'>", subtype="html")
    message.add_related(b"png", "image", "png", cid="<logo>", filename="logo.png", disposition="inline")
    message.add_attachment(b"pdf", maintype="application", subtype="pdf", filename="a.pdf")
    box.put(message)
    result = run(reading(save_attachments_to=str(tmp_path), body="text"))
    assert [item["name"] for item in result["rows"][0]["attachments"]] == ["a.pdf"]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"folder": ""}, "folder"),
        ({"folder": "a\r\nb"}, "folder"),
        ({"search": {"subject": "a\r\nA1 LOGOUT"}}, "search"),
        ({"search": {"subject": ""}}, "search"),
        ({"search": {"sbject": "a"}}, "sbject"),
        ({"search": {"since": "yesterday"}}, "search"),
        ({"search": "ALL"}, "search"),
        ({"search": {}, "uids": [1]}, "uids"),
        ({"uids": "1:x"}, "uids"),
        ({"uids": []}, "uids"),
        ({"uids": [0]}, "uids"),
        ({"uidvalidity": 5}, "uidvalidity"),
        ({"limit": 0}, "limit"),
        ({"limit": 100_000}, "limit"),
        ({"headers": ["a b"]}, "headers"),
        ({"body": "all"}, "body"),
        ({"max_body": 0}, "max_body"),
        ({"save_to": "/tmp/a.csv"}, "save_to"),
        ({"save_to": "s3://c@b/a.jsonl"}, "save_to"),
        ({"save_attachments_to": "relative"}, "save_attachments_to"),
        ({"attachment_pattern": "*"}, "attachment_pattern"),
        ({"if_exists": "rename"}, "if_exists"),
        ({"layout": "x"}, "layout"),
        ({"after": "burn"}, "after"),
        ({"after": "move"}, "target_folder"),
        ({"target_folder": "x"}, "target_folder"),
        ({"after": "move", "target_folder": "INBOX"}, "target_folder"),
        ({"max_size": -1}, "max_size"),
        ({"on_too_large": "cut"}, "on_too_large"),
        ({"imap_conn_id": "nobody"}, "conn_id"),
    ],
    ids=str,
)
def test_bad_input(box: Mailbox, arguments: dict[str, Any], field: str) -> None:
    box.put(mail("one"))
    with pytest.raises(ConfigError) as caught:
        run(reading(**arguments))
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert box.uids(criteria="UNSEEN") == [1]


def test_a_target_that_is_not_there_is_told_before_anything_is_done(box: Mailbox, tmp_path: Path) -> None:
    box.put(mail("one", ("a.pdf", b"1")))
    with pytest.raises(NotFound, match="create_target"):
        run(reading(after="move", target_folder="nowhere", save_attachments_to=str(tmp_path / "in")))
    assert not (tmp_path / "in").exists()
