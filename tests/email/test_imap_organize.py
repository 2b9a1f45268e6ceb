"""email.organize on a real Dovecot, with all that it can do and with a server that can do less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, ConnectionLost, NotFound
from flowrunner_provider.email.mailbox.imap import ImapSession
from tests.email.mailboxes import mail, organizing, run
from tests.support.dovecot import Dovecot, Mailbox, dovecot
from tests.support.tls import Tls

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def bare(tls: Tls) -> Iterator[Dovecot]:
    """A server that says it has neither MOVE nor UIDPLUS."""
    with dovecot(tls, capability="IMAP4rev1 LITERAL+ SASL-IR NAMESPACE") as server:
        yield server


@pytest.fixture(params=["dovecot", "bare"])
def box(request: pytest.FixtureRequest) -> Mailbox:
    return prepared(request.getfixturevalue(request.param))


def prepared(server: Dovecot) -> Mailbox:
    box = server.mailbox()
    box.connection()
    box.put(mail("one"), mail("two"), mail("other", sender="else@example.com"))
    box.put(mail("kept"), folder="Target")
    return box


BILLING = {"from": "billing"}


def can_remove(box: Mailbox) -> bool:
    with box.client() as client:
        return b"UIDPLUS" in client.capability()[1][0]


def test_move(box: Mailbox) -> None:
    result = run(organizing(operation="move", search=BILLING, target_folder="Target"))
    assert (result["messages"], result["expunged"]) == (2, can_remove(box))
    assert box.message_ids("Target") == ["<kept@test>", "<one@test>", "<two@test>"]
    assert box.message_ids(criteria="UNDELETED") == ["<other@test>"]
    assert len(box.uids()) == (1 if can_remove(box) else 3), "a message of somebody else is never expunged"


def test_copy(box: Mailbox) -> None:
    run(organizing(operation="copy", search=BILLING, target_folder="Target"))
    assert box.message_ids("Target") == ["<kept@test>", "<one@test>", "<two@test>"]
    assert len(box.uids()) == 3


def test_delete_leaves_what_others_have_flagged(box: Mailbox) -> None:
    with box.client() as client:
        client.select("INBOX")
        client.uid("STORE", "3", "+FLAGS", "(\\Deleted)")  # type: ignore[no-untyped-call]
    result = run(organizing(operation="delete", uids=[1, 2, 77]))
    assert (result["messages"], result["missing"]) == (2, 1)
    assert box.message_ids() == (["<other@test>"] if can_remove(box) else ["<one@test>", "<other@test>", "<two@test>"])
    assert box.uids(criteria="UNDELETED") == []


def test_flags(box: Mailbox) -> None:
    run(organizing(operation="flag", search=BILLING))
    run(organizing(operation="flag", uids="1", flags=["Booked", "\\Answered"]))
    assert (box.uids(criteria="FLAGGED"), box.uids(criteria="KEYWORD Booked ANSWERED")) == ([1, 2], [1])
    run(organizing(operation="unflag", search={"flagged": True, "unkeyword": "Booked"}))
    assert box.uids(criteria="FLAGGED") == [1]
    run(organizing(operation="mark_seen", search={}))
    assert box.uids(criteria="UNSEEN") == []
    run(organizing(operation="mark_unseen", uids=[2]))
    assert box.uids(criteria="UNSEEN") == [2]


def test_archive(box: Mailbox) -> None:
    with pytest.raises(NotFound, match="create_target"):
        run(organizing(operation="archive", search=BILLING))
    result = run(organizing(operation="archive", search=BILLING, create_target=True))
    assert result["target_folder"] == "Archive"
    assert box.message_ids("Archive") == ["<one@test>", "<two@test>"]


@pytest.mark.parametrize("lost", ["before", "after"])
@pytest.mark.parametrize("operation", ["copy", "move"])
def test_a_connection_that_breaks_while_copying(
    bare: Dovecot, monkeypatch: pytest.MonkeyPatch, lost: str, operation: str
) -> None:
    """Nobody knows whether the COPY came: it is looked up, and never done twice."""
    box = prepared(bare)
    copy, calls = ImapSession.copy, []

    async def breaking(self: ImapSession, uids: Any, folder: str) -> None:
        calls.append(list(uids))
        if len(calls) > 1 or lost == "after":
            await copy(self, uids, folder)
        if len(calls) == 1:
            raise ConnectionLost("the reply never came")

    monkeypatch.setattr(ImapSession, "copy", breaking)
    run(organizing(operation=operation, search=BILLING, target_folder="Target"))
    assert calls == [[1, 2]] if lost == "after" else [[1, 2], [1, 2]]
    assert box.message_ids("Target") == ["<kept@test>", "<one@test>", "<two@test>"]
    assert len(box.uids(criteria="UNDELETED")) == (3 if operation == "copy" else 1)


def test_many_at_a_time(dovecot: Dovecot) -> None:
    box = dovecot.mailbox()
    box.connection()
    box.put(*(mail(f"m{n}") for n in range(130)))
    result = run(organizing(operation="move", search={}, target_folder="All", create_target=True, limit=120))
    assert (result["messages"], result["more"]) == (120, True)
    assert (len(box.uids("All")), len(box.uids())) == (120, 10)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"operation": "burn", "search": {}}, "operation"),
        ({"operation": "delete"}, "search"),
        ({"operation": "move", "search": {}}, "target_folder"),
        ({"operation": "move", "search": {}, "target_folder": "INBOX"}, "target_folder"),
        ({"operation": "move", "search": {}, "target_folder": "a\nb"}, "target_folder"),
        ({"operation": "delete", "search": {}, "target_folder": "x"}, "target_folder"),
        ({"operation": "flag", "search": {}, "flags": []}, "flags"),
        ({"operation": "flag", "search": {}, "flags": ["\\Nonsense"]}, "flags"),
        ({"operation": "flag", "search": {}, "flags": ["a b) (\\Deleted"]}, "flags"),
        ({"operation": "delete", "search": {}, "flags": ["x"]}, "flags"),
        ({"operation": "delete", "search": {"from": ""}}, "search"),
        ({"operation": "delete", "search": {}, "imap_conn_id": "nobody"}, "conn_id"),
    ],
    ids=str,
)
def test_bad_input(dovecot: Dovecot, arguments: dict[str, Any], field: str) -> None:
    box = prepared(dovecot)
    with pytest.raises(ConfigError) as caught:
        run(organizing(**arguments))
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert len(box.uids(criteria="UNDELETED UNFLAGGED")) == 3


def test_nothing_matches(dovecot: Dovecot) -> None:
    prepared(dovecot)
    with pytest.raises(NotFound):
        run(organizing(operation="delete", uids=[55]))
    assert run(organizing(operation="delete", uids=[55], missing_ok=True))["missing"] == 1
