"""email.wait and email.received on a real Dovecot: both only look."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any

import pytest

from flowrunner_provider.core.errors import AccessDenied, ConfigError, ConnectionLost, FlowRunnerError, NotFound
from flowrunner_provider.email.mailbox import arrivals as mailbox_arrivals
from flowrunner_provider.email.sensors import MailMessageSensor
from flowrunner_provider.email.triggers import MailMessageTrigger
from flowrunner_provider.runtime.sensor import FlowRunnerSensor
from tests.contracts.sensor_contract import SensorContract
from tests.email.mailboxes import mail
from tests.support.context import make_context
from tests.support.dovecot import Dovecot, Mailbox
from tests.support.servers import free_port

pytestmark = pytest.mark.backend


@pytest.fixture
def box(dovecot: Dovecot) -> Mailbox:
    box = dovecot.mailbox()
    box.connection()
    return box


def sensor(**options: Any) -> MailMessageSensor:
    return MailMessageSensor(task_id="wait", **{"imap_conn_id": "mailbox", "deferrable": False, **options})


def look(waiting: MailMessageSensor) -> list[int] | None:
    """The UIDs that one poke sees; None for not yet."""
    answer: Any = waiting.poke(make_context(waiting))
    return [message["uid"] for message in answer.xcom_value["messages"]] if answer else None


class TestContract(SensorContract):
    @pytest.fixture(autouse=True)
    def scene(self, box: Mailbox) -> None:
        self.box = box

    def sensor(self, **kwargs: Any) -> FlowRunnerSensor:
        return sensor(**{"search": {"from": "billing"}, "min_messages": 2, **kwargs})

    def nothing_yet(self) -> None:
        self.box.put(mail("one"), mail("x", sender="else@example.com"))

    def appear(self) -> None:
        self.box.put(mail("two"))

    def break_it(self) -> type[FlowRunnerError]:
        self.box.connection(password="wrong")
        return AccessDenied


def test_what_is_told(box: Mailbox) -> None:
    assert look(sensor()) is None
    box.put(mail("one", ("a.pdf", b"1")), mail("two", ("B.TXT", b"1")), mail("three"))
    assert look(sensor()) == [1, 2, 3]
    assert look(sensor(attachment_pattern="*.txt")) == [2]
    assert look(sensor(search={"has_attachment": True})) == [1, 2]
    assert look(sensor(search={"has_attachment": False})) == [3]
    assert look(sensor(search={"has_attachment": True}, min_messages=3)) is None


def test_it_marks_nothing(box: Mailbox) -> None:
    """GAPS: a sensor on UNSEEN ate the message that the next task wanted."""
    box.put(mail("one", ("a.pdf", b"1")))
    waiting = sensor(search={"unseen": True}, attachment_pattern="*.pdf")
    assert look(waiting) == look(waiting) == [1]
    assert box.uids(criteria="UNSEEN") == [1]


def test_many_matches_are_counted_and_few_are_shown(box: Mailbox) -> None:
    box.put(*(mail(f"m{n}") for n in range(60)))
    for options in ({}, {"search": {"has_attachment": False}}):
        answer: Any = (waiting := sensor(**options)).poke(make_context(waiting))
        assert (answer.xcom_value["count"], len(answer.xcom_value["messages"])) == (60, 50)


def test_an_error_is_never_not_yet(box: Mailbox) -> None:
    with pytest.raises(NotFound):
        look(sensor(folder="nowhere"))
    box.connection(port=free_port())
    waiting = sensor(patience=1)
    assert look(waiting) is None
    with pytest.raises(ConnectionLost):
        look(waiting)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"min_messages": 0}, "min_messages"),
        ({"attachment_pattern": ""}, "attachment_pattern"),
        ({"folder": "a\nb"}, "folder"),
        ({"search": {"since": "2026-01-01T00:00:00"}}, "search"),
        ({"imap_conn_id": "nobody"}, "conn_id"),
    ],
)
def test_bad_input(box: Mailbox, options: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        look(sensor(**options))
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)


# -- email.received


class Inbox:
    """A watcher that is asked for one look at a time, as its base does it, with a cursor that went through JSON."""

    def __init__(self, **options: Any) -> None:
        self.watcher = MailMessageTrigger(**{"imap_conn_id": "mailbox", **options})
        self.cursor: Any = None

    def look(self) -> list[str]:
        seen = asyncio.run(self.watcher.poll(self.cursor))
        self.cursor = json.loads(json.dumps(seen.cursor))
        self.events: list[Any] = json.loads(json.dumps(list(seen.events)))
        assert len(json.dumps([seen.cursor, list(seen.events)])) < 48_000
        return [event["message"]["message_id"] for event in self.events]


def test_each_message_is_told_once(box: Mailbox) -> None:
    box.put(mail("old"))
    inbox = Inbox()
    assert inbox.look() == inbox.look() == []
    box.put(mail("one", ("a.pdf", b"1")), mail("two"))
    assert inbox.look() == ["<one@test>", "<two@test>"]
    first = inbox.events[0]
    assert first["id"] == f"{first['uidvalidity']}-2"
    assert first["message"]["attachments"] == ["a.pdf"]
    assert inbox.look() == []
    box.remove(3)
    box.put(mail("three"))
    assert inbox.look() == ["<three@test>"]
    assert box.uids(criteria="SEEN") == []


def test_an_empty_folder_and_what_is_there(box: Mailbox) -> None:
    inbox, all_of_it = Inbox(), Inbox(start="existing")
    assert inbox.look() == all_of_it.look() == []
    box.put(mail("one"))
    assert inbox.look() == all_of_it.look() == ["<one@test>"]
    assert Inbox(start="existing").look() == ["<one@test>"]


def test_a_search_and_a_pattern(box: Mailbox) -> None:
    inbox = Inbox(search={"from": "billing"}, attachment_pattern="*.PDF")
    inbox.look()
    box.put(mail("one", ("a.pdf", b"1")), mail("two", ("a.txt", b"1")), mail("x", ("a.pdf", b""), sender="e@x.com"))
    assert inbox.look() == ["<one@test>"]
    assert inbox.look() == []


def test_many_come_in_several_looks(box: Mailbox) -> None:
    inbox = Inbox()
    inbox.look()
    box.put(*(mail(f"m{n}", *((f"{'n' * 190}{m}.pdf", b"") for m in range(3)), subject="s" * 300) for n in range(45)))
    told = [inbox.look() for _ in range(4)]
    assert [len(look) for look in told] == [20, 20, 5, 0]
    assert [one for look in told for one in look] == [f"<m{n}@test>" for n in range(45)]


def test_new_uids_lose_and_repeat_nothing(box: Mailbox, caplog: pytest.LogCaptureFixture) -> None:
    """GUARANTEES 24: another UIDVALIDITY between two looks."""
    box.put(mail("ancient"), date="01-Jan-2020 00:00:00 +0000")
    inbox = Inbox()
    inbox.look()
    box.put(mail("one"), mail("two"))
    assert inbox.look() == ["<one@test>", "<two@test>"]
    box.put(mail("three"))
    box.renumber()
    with caplog.at_level(logging.WARNING):
        assert inbox.look() == ["<three@test>"]
    box.put(mail("four"))
    assert inbox.look() == ["<four@test>"]
    assert inbox.look() == []


def test_a_look_that_fails_tells_nothing_and_loses_nothing(box: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox()
    inbox.look()
    box.put(mail("one"))
    describe = mailbox_arrivals.describe

    async def broken(*arguments: Any) -> Any:
        raise ConnectionLost("in the middle")

    monkeypatch.setattr(mailbox_arrivals, "describe", broken)
    with pytest.raises(ConnectionLost):
        inbox.look()
    monkeypatch.setattr(mailbox_arrivals, "describe", describe)
    assert inbox.look() == ["<one@test>"]


def test_it_goes_on_in_another_triggerer(box: Mailbox, tmp_path: Any) -> None:
    """The whole watcher, its record in a file: what came while nobody watched is told, and nothing else."""
    os.environ["AIRFLOW__FLOWRUNNER__STATE_PATH"] = str(tmp_path)

    def watch(count: int) -> list[str]:
        path, arguments = MailMessageTrigger(imap_conn_id="mailbox", start="existing").serialize()
        assert path.endswith("email.triggers.MailMessageTrigger")
        watcher = MailMessageTrigger(**json.loads(json.dumps(arguments)))
        watcher.settle = 0.01  # type: ignore[misc]
        watcher.poll_interval = 0.05
        told: list[str] = []

        async def collect() -> None:
            async for event in watcher.run():
                told.append(event.payload["message"]["message_id"])
                if len(told) == count:
                    asyncio.get_running_loop().call_later(0.3, task.cancel)

        async def main() -> None:
            nonlocal task
            task = asyncio.create_task(collect())
            await asyncio.wait([task], timeout=20)

        task: Any = None
        asyncio.run(main())
        return told

    box.put(mail("one"), mail("two"))
    assert watch(2) == ["<one@test>", "<two@test>"]
    box.put(mail("three"))
    assert watch(1) == ["<three@test>"]
