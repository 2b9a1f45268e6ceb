"""Invitations, read back by the rules of RFC 5545 and not by the library that wrote them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, MissingExtra
from tests.email.support import Scene, connect, send
from tests.support.kill import attempt, kill_at
from tests.support.smtp_sink import SmtpSink

MEETING = {
    "start": "2026-05-04T10:00:00+02:00", "end": "2026-05-04T11:30:00+02:00", "summary": "Überblick, Teil 1; Fragen",
    "location": "Raum \\ 7", "description": "Zeile 1\nZeile 2, mit Komma; und " + "lang " * 40,
}  # fmt: skip


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> Scene:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", smtp_sink.directory)


def event(mail: Any) -> dict[str, list[tuple[str, str]]]:
    """The properties of the event: name -> (parameters, value), unfolded and unescaped by RFC 5545, 3.1 and 3.3.11."""
    (part,) = [part for part in mail.message.walk() if part.get_content_type() == "text/calendar"]
    raw = part.get_payload(decode=True)
    assert raw.count(b"\n") == raw.count(b"\r\n")
    assert all(len(line) <= 75 for line in raw.split(b"\r\n"))
    lines = raw.decode().replace("\r\n ", "").strip().split("\r\n")
    assert (lines[0], lines[-1]) == ("BEGIN:VCALENDAR", "END:VCALENDAR")
    assert f"METHOD:{part.get_param('method')}" in lines
    found: dict[str, list[tuple[str, str]]] = {}
    for line in lines[lines.index("BEGIN:VEVENT") + 1 : lines.index("END:VEVENT")]:
        head, _, value = (
            line.partition(":") if not line.startswith(("ATTENDEE", "ORGANIZER")) else line.rpartition(":mailto")
        )
        name, _, parameters = head.partition(";")
        found.setdefault(name, []).append((parameters, value))
    return found


def plain(text: str) -> str:
    for escaped, meant in (("\\n", "\n"), ("\\,", ","), ("\\;", ";"), ("\\\\", "\\")):
        text = text.replace(escaped, meant)
    return text


def test_an_invitation(scene: Scene, smtp_sink: SmtpSink) -> None:
    people = ['"Doe, John" <j@example.com>', "Zoë <z@example.com>"]
    result = send(scene, to=people, cc="c@example.com", bcc="secret@example.com", invitation=MEETING)
    (mail,) = smtp_sink.mails()
    found = event(mail)
    assert result["invitation_uid"] == found["UID"][0][1] == result["message_id"].strip("<>")
    assert found["SEQUENCE"] == [("", "0")]
    assert found["DTSTART"] == [("", "20260504T080000Z")]
    assert found["DTEND"] == [("", "20260504T093000Z")]
    assert [plain(found[name][0][1]) for name in ("SUMMARY", "LOCATION", "DESCRIPTION")] == [
        MEETING["summary"], MEETING["location"], MEETING["description"],
    ]  # fmt: skip
    assert found["STATUS"] == [("", "CONFIRMED")]
    assert found["ORGANIZER"] == [("CN=Robot", ":robot@example.com")]
    attendees = found["ATTENDEE"]
    assert [value.lstrip(":") for _, value in attendees] == ["j@example.com", "z@example.com", "c@example.com"]
    assert 'CN="Doe, John"' in attendees[0][0]
    assert all("RSVP=TRUE" in parameters and "NEEDS-ACTION" in parameters for parameters, _ in attendees)
    kinds = [part.get_content_type() for part in mail.message.walk()]
    assert kinds == ["multipart/alternative", "text/plain", "text/html", "text/calendar"]


def test_beside_pictures_and_attachments(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    path = str(tmp_path / "a.png")
    send(scene, invitation=MEETING, attachments=[path], inline_images={"a": path}, html='<img src="cid:a">')
    (mail,) = smtp_sink.mails()
    assert [part.get_content_type() for part in mail.message.walk()] == [
        "multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png",
        "text/calendar", "image/png",
    ]  # fmt: skip
    assert event(mail)["UID"]


@pytest.mark.parametrize(
    "point", ["email.send.before_connect", "email.send.after_data", "effect.email.send.after_intent"]
)
def test_a_retry_invites_to_the_same_meeting(scene: Scene, smtp_sink: SmtpSink, point: str) -> None:
    resent = Scene(
        scene.directory, scene.mailbox, {"on_unknown": "resend", "invitation": MEETING, "subject": "{{ ds }}"}
    )
    assert attempt(send, resent, rules=[kill_at(point)]).killed
    outcome = attempt(send, resent, try_number=2)
    assert outcome.ok, outcome.error
    assert {event(mail)["UID"][0][1] for mail in smtp_sink.mails()} == {outcome.result["invitation_uid"]}
    assert {event(mail)["SEQUENCE"][0][1] for mail in smtp_sink.mails()} == {"0"}
    assert len({mail.data for mail in smtp_sink.mails()}) == 1


def test_a_meeting_is_moved_and_called_off(scene: Scene, smtp_sink: SmtpSink) -> None:
    for number, more in enumerate(({}, {"start": "2026-05-04T11:00:00+02:00"}, {"method": "CANCEL"})):
        step = Scene(scene.directory / str(number), scene.mailbox)
        step.directory.mkdir()
        send(step, invitation={**MEETING, "uid": "weekly@example.com", "sequence": number, **more})
    found = [event(mail) for mail in smtp_sink.mails()]
    assert [each["UID"][0][1] for each in found] == ["weekly@example.com"] * 3
    assert [each["SEQUENCE"][0][1] for each in found] == ["0", "1", "2"]
    assert [each["STATUS"][0][1] for each in found] == ["CONFIRMED", "CONFIRMED", "CANCELLED"]
    assert found[1]["DTSTART"] == [("", "20260504T090000Z")]


def test_whole_days(scene: Scene, smtp_sink: SmtpSink) -> None:
    send(scene, invitation={"start": "2026-05-04", "end": "2026-05-05"})
    found = event(smtp_sink.mails()[0])
    assert found["DTSTART"] == [("VALUE=DATE", "20260504")]
    assert found["DTEND"] == [("VALUE=DATE", "20260506")]
    assert found["SUMMARY"] == [("", "Orders")]


@pytest.mark.parametrize(
    "changes",
    [
        {"start": "tomorrow"}, {"start": "2026-05-04T10:00:00"}, {"start": "2026-05-04"}, {"end": MEETING["start"]},
        {"end": "2025-01-01T00:00:00Z"}, {"method": "CANCEL"}, {"method": "PUBLISH"}, {"sequence": -1},
        {"sequence": "1"}, {"summary": "a\r\nATTENDEE:mailto:evil@example.com"}, {"uid": "a\nb"}, {"room": "7"},
        {"attendees": "nobody"}, {"organizer": "a@example.com, b@example.com"}, {"location": "a\u2028b"},
        {"description": "x" * 20_001},
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_sent(
    scene: Scene, smtp_sink: SmtpSink, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError) as caught:
        send(scene, invitation={**MEETING, **changes})
    assert caught.value.remedy
    assert smtp_sink.sessions == 0


def test_nothing_in_a_text_becomes_another_property(scene: Scene, smtp_sink: SmtpSink) -> None:
    evil = "x\r\nEND:VEVENT\nATTENDEE:mailto:evil@example.com\r\nX-EVIL:1"
    send(scene, invitation={**MEETING, "description": evil, "attendees": ['"a:b;c\\"d" <e@example.com>']})
    found = event(smtp_sink.mails()[0])
    assert len(found["ATTENDEE"]) == 1
    assert "X-EVIL" not in found


def test_a_missing_package_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "icalendar", None)
    with pytest.raises(MissingExtra, match=r"\[calendar\]"):
        send(scene, invitation=MEETING)
