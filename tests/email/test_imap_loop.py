"""Out and in again: our mail through a real Postfix into a real Dovecot, read back by us and by another parser."""

from __future__ import annotations

import email
import email.policy
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.email.operators import EmailSendOperator
from tests.email.mailboxes import reading, run
from tests.support.dovecot import PASSWORD, Dovecot, Mailbox
from tests.support.postfix import Postfix, postfix

pytestmark = pytest.mark.backend


@pytest.fixture(scope="module")
def mta(dovecot: Dovecot) -> Iterator[Postfix]:
    with postfix(dovecot) as server:
        yield server


def arrived(box: Mailbox) -> int:
    """Its UID, once it is there."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if uids := box.uids():
            return uids[0]
        time.sleep(0.05)
    raise AssertionError("the mail did not arrive")


@pytest.mark.parametrize("security", ["tls", "starttls"])
def test_what_we_send_is_what_we_read(mta: Postfix, dovecot: Dovecot, tmp_path: Path, security: str) -> None:
    box = dovecot.mailbox()
    box.connection()
    value: dict[str, Any] = {
        "conn_type": "smtp", "host": "127.0.0.1", "port": mta.tls if security == "tls" else mta.starttls,
        "login": box.login, "password": PASSWORD,
        "extra": {
            "disable_ssl": security != "tls", "from_email": f"Rechnungen für März <{box.login}>",
            "flowrunner": {"ca_file": str(dovecot.tls.ca_file)},
        },
    }  # fmt: skip
    os.environ["AIRFLOW_CONN_OUT"] = json.dumps(value)
    data, name = os.urandom(200_000), "Rechnung Nr. 7 – März ✓.pdf"
    (tmp_path / name).write_bytes(data)
    sending = EmailSendOperator(
        task_id=f"s{uuid.uuid4().hex[:6]}", smtp_conn_id="out", to=f'"Müller, Zoë" <{box.login}>',
        subject="Ihre Rechnung ✓ " + "ä" * 90, html="<p>Grüße</p>\n.\n<p>Ende</p>", attachments=[str(tmp_path / name)],
    )  # fmt: skip
    sent = run(sending)
    uid = arrived(box)
    target = tmp_path / "in"
    result = run(
        reading(search={"subject": "Ihre Rechnung ✓"}, body="both", save_attachments_to=str(target), after="mark_seen")
    )
    (row,) = result["rows"]
    with box.client() as client:
        client.select("INBOX", readonly=True)
        raw: Any = client.uid("FETCH", str(uid), "(BODY.PEEK[])")[1]  # type: ignore[no-untyped-call]
    independent = email.message_from_bytes(raw[0][1], policy=email.policy.default)
    assert row["subject"] == independent["Subject"] == "Ihre Rechnung ✓ " + "ä" * 90
    assert row["message_id"] == independent["Message-ID"] == sent["message_id"]
    assert row["from"] == [{"name": "Rechnungen für März", "address": box.login}]
    assert row["to"] == [{"name": "Müller, Zoë", "address": box.login}]
    for kind, text in (("plain", row["text"]), ("html", row["html"])):
        part = independent.get_body((kind,))
        assert part is not None
        assert text == part.get_content().replace("\r\n", "\n")
    (attached,) = independent.iter_attachments()
    (saved,) = row["attachments"]
    assert saved["name"] == attached.get_filename() == name
    assert Path(saved["path"]).read_bytes() == attached.get_content() == data
    assert box.uids(criteria="SEEN") == [uid]
