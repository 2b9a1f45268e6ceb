"""Invitations to meetings (RFC 5545 and 5546), as mail carries them (RFC 6047); written by icalendar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.core.extras import load
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.email.addresses import Mailbox, header_text, mailbox, mailboxes

__all__ = ["Invitation", "Meeting", "invitation"]

_LONGEST = 20_000


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """What the user writes.

    :param start: ISO 8601 with its time zone, or a date for a meeting that takes whole days.
    :param end: likewise; a date is the last day, which is part of it.
    :param summary: by default the subject of the mail.
    :param organizer: by default the sender of the mail.
    :param attendees: by default To and Cc of the mail.
    :param method: ``REQUEST`` invites, and with a higher ``sequence`` changes; ``CANCEL`` calls it off.
    :param uid: names the meeting over all its changes; by default it is made of the task, and CANCEL needs it.
    :param sequence: the number of the change; calendars ignore what is older than they have.
    """

    start: str
    end: str
    summary: str = ""
    location: str = ""
    description: str = ""
    organizer: str = ""
    attendees: list[str] | str = ""
    method: Literal["REQUEST", "CANCEL"] = "REQUEST"
    uid: str = ""
    sequence: int = 0


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """A meeting, checked. What differs from attempt to attempt is not in it.

    :param uid: empty for one that is made of the mail's Message-ID.
    """

    method: str
    uid: str
    sequence: int
    start: date
    end: date
    summary: str
    location: str
    description: str
    organizer: Mailbox
    attendees: tuple[Mailbox, ...]

    @property
    def identity(self) -> list[Any]:
        """All of it, as JSON."""
        people = [(box.name, box.address) for box in (self.organizer, *self.attendees)]
        times = [self.start.isoformat(), self.end.isoformat()]
        return [self.method, self.uid, self.sequence, *times, self.summary, self.location, self.description, people]

    def uid_in(self, message_id: str) -> str:
        """Its UID in the mail with this Message-ID."""
        return self.uid or message_id.strip("<>")

    def text(self, message_id: str, stamp: datetime) -> str:
        """The iCalendar object.

        :param message_id: of the mail, the same in every attempt.
        :param stamp: the date of the mail, the same in every attempt.
        """
        ical = load("icalendar", extra="calendar", needed_for="an invitation to a meeting")
        event = ical.Event()
        event.add("uid", self.uid_in(message_id))
        event.add("dtstamp", stamp.astimezone(UTC))
        event.add("sequence", self.sequence)
        event.add("dtstart", self.start)
        event.add("dtend", self.end)
        event.add("summary", self.summary)
        for name in ("location", "description"):
            if value := getattr(self, name):
                event.add(name, value)
        event.add("status", "CANCELLED" if self.method == "CANCEL" else "CONFIRMED")
        event.add("organizer", _person(ical, self.organizer))
        for box in self.attendees:
            wanted = {"role": "REQ-PARTICIPANT", "partstat": "NEEDS-ACTION", "rsvp": "TRUE"}
            event.add("attendee", _person(ical, box, **({} if self.method == "CANCEL" else wanted)))
        calendar = ical.Calendar()
        calendar.add("prodid", "-//FlowRunner//EN")
        calendar.add("version", "2.0")
        calendar.add("method", self.method)
        calendar.add_component(event)
        return str(calendar.to_ical().decode())


def invitation(given: Mapping[str, Any], *, subject: str, sender: Mailbox, people: tuple[Mailbox, ...]) -> Invitation:
    """What the user wrote, completed by the mail and checked.

    :param people: To and Cc of the mail.
    :raises ConfigError: naming ``invitation`` and the key to mend.
    """
    if not isinstance(given, Mapping):
        raise _wrong("must be a mapping", "write {'start': '2026-05-04T10:00:00+02:00', 'end': ...}")
    load("icalendar", extra="calendar", needed_for="an invitation to a meeting")
    meeting = from_mapping(Meeting, given, where="invitation")
    start, end = _moment(meeting.start, "start"), _moment(meeting.end, "end")
    if isinstance(start, datetime) is not isinstance(end, datetime):
        raise _wrong("has one date and one time", "write start and end in the same way")
    if not isinstance(end, datetime):
        end += timedelta(days=1)  # RFC 5545, 3.6.1: the end is not part of it
    if end <= start:
        raise _wrong("ends before it starts", "correct start and end")
    if meeting.method == "CANCEL" and not meeting.uid:
        raise _wrong("cancels a meeting without its uid", "give the uid that the invitation had, and a higher sequence")
    if meeting.sequence < 0:
        raise _wrong("has a negative sequence", "count from 0")
    if len(meeting.description) > _LONGEST:
        raise _wrong(f"has a description of more than {_LONGEST:,} characters", "write less, or a link")
    attendees = mailboxes(meeting.attendees, "invitation") or people
    if not attendees:
        raise _wrong("invites nobody", "give attendees, or to")
    return Invitation(
        method=meeting.method,
        uid=header_text(meeting.uid, "invitation"),
        sequence=meeting.sequence,
        start=start,
        end=end,
        summary=header_text(meeting.summary or subject, "invitation"),
        location=header_text(meeting.location, "invitation"),
        description=meeting.description,
        organizer=mailbox(meeting.organizer, "invitation") if meeting.organizer else sender,
        attendees=attendees,
    )


def _moment(text: str, name: str) -> date:
    """A day, or a point in time in UTC: no calendar needs to know our time zone then."""
    try:
        if len(text) == len("2026-01-31"):
            return date.fromisoformat(text)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise _wrong(f"has a {name} that is not ISO 8601: {text[:50]!r}", "write 2026-05-04T10:00:00+02:00") from error
    if moment.tzinfo is None:
        raise _wrong(f"has a {name} without a time zone", "append +00:00 for UTC")
    return moment.astimezone(UTC)


def _person(ical: Any, box: Mailbox, **parameters: str) -> Any:
    person = ical.vCalAddress(f"mailto:{box.address}")
    if name := box.name.replace('"', "'"):  # RFC 5545 has no way to write it in a parameter
        person.params["cn"] = name
    for key, value in parameters.items():
        person.params[key] = value
    return person


def _wrong(what: str, remedy: str) -> ConfigError:
    return ConfigError(f"invitation {what}", field="invitation", remedy=remedy)
