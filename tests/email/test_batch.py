"""``email.send_batch`` against a real SMTP server: who has which mail, read back from the mailbox."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PartialFailure,
    PermanentError,
    Throttled,
)
from flowrunner_provider.core.run import Run
from flowrunner_provider.email.batch.ledger import MAX_ROWS, Ledger
from tests.email.support import PASSWORD, BatchScene, connect, people, report, send_batch
from tests.support import smtp_sink as smtp_sink_module
from tests.support.servers import free_port
from tests.support.smtp_sink import AfterData, SmtpSink


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> BatchScene:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    return BatchScene(tmp_path / "scene", smtp_sink.directory, people(10))


def statuses(scene: BatchScene) -> Counter[str]:
    return Counter(line["status"] for line in report(scene))


def test_everybody_has_a_mail_of_their_own(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "terms.csv").write_bytes(b"a;b\n" * 2000)
    (tmp_path / "own").mkdir()
    for row in scene.rows:
        row["file"] = f"{row['id']}.txt"
        (tmp_path / "own" / row["file"]).write_text(f"statement {row['id']}")
    result = send_batch(
        scene, attachments=[str(tmp_path / "terms.csv")], attachment_column="file",
        attachment_folder=str(tmp_path / "own"), to_name="name", headers={"X-Id": "{{ id }}"},
        template_context={"day": "{{ ds }}"}, subject="{{ day }}: {{ name }}", text="Dear {{ row['name'] }}",
        html="<p>Dear {{ name }}</p>",
    )  # fmt: skip
    assert (result["rows"], result["sent"], result["refused"], result["unknown"], result["skipped"]) == (
        10,
        10,
        0,
        0,
        0,
    )
    found = {mail.recipients: mail.message for mail in smtp_sink.mails()}
    assert len(found) == 10
    for row, line in zip(scene.rows, report(scene), strict=True):
        message = found[(row["email"],)]
        assert message["Subject"] == f"2026-01-02: {row['name']}"
        assert message["To"].addresses[0].display_name == row["name"]
        assert message["X-Id"] == str(row["id"])
        assert message["Message-ID"] == line["message_id"]
        assert message.get_body(("plain",)).get_content().replace("\r", "") == f"Dear {row['name']}\n"
        assert "&lt;b&gt;" in message.get_body(("html",)).get_content()
        terms, own = message.iter_attachments()
        assert (terms.get_filename(), own.get_content()) == ("terms.csv", f"statement {row['id']}")
        assert line == {
            "row": row["id"], "address": row["email"], "message_id": message["Message-ID"],
            "status": "sent", "reason": None,
        }  # fmt: skip
    assert smtp_sink.sessions <= 4
    assert not list(scene.journals.glob("*"))
    assert send_batch(scene) == result
    assert len(smtp_sink.mails()) == 10


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_a_dataset_is_streamed(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"people.{suffix}"
    if suffix == "csv":
        path.write_text("id,email,name\n" + "".join(f"{n},u{n}@example.com,N{n}\n" for n in range(25)))
    else:
        path.write_text(
            "".join(json.dumps({"id": n, "email": f"u{n}@example.com", "name": None}) + "\n" for n in range(25))
        )
    assert send_batch(scene, recipients=str(path), window=10)["sent"] == 25
    assert len({mail.recipients for mail in smtp_sink.mails()}) == 25
    if suffix == "jsonl":
        assert "None" not in str(smtp_sink.mails()[0].message["Subject"])


def test_values_are_never_templates(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    path.write_text(json.dumps({"id": 1, "email": "a@example.com", "name": "{{ 7 * 7 }}{% raw %}"}) + "\n")
    send_batch(scene, recipients=str(path), html="<p>{{ name }}</p>")
    (mail,) = smtp_sink.mails()
    assert mail.message["Subject"] == "Hello {{ 7 * 7 }}{% raw %}"
    assert "{{ 7 * 7 }}{% raw %}" in mail.message.get_body(("html",)).get_content()


def test_refusals_are_named_and_only_those_for_now_are_tried_again(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"u3@example.com": "550 5.1.1 unknown", "u7@example.com": "451 4.7.1 greylisted"}
    scene.rows[5]["email"] = "nobody"
    with pytest.raises(PartialFailure) as caught:
        send_batch(scene)
    assert (caught.value.done, caught.value.retryable) == (7, True)
    assert sorted(caught.value.failed) == ["3", "5", "7"]
    assert statuses(scene) == {"sent": 7, "refused": 3}
    assert [line["item"]["id"] for line in scene.lines("dead.jsonl")] == [3, 5, 7]
    smtp_sink.refuse = {"u3@example.com": "550 5.1.1 unknown"}
    with pytest.raises(PartialFailure) as caught:
        send_batch(scene)
    assert (caught.value.done, caught.value.retryable) == (8, False)
    reasons = {line["row"]: line["reason"] for line in report(scene) if line["reason"]}
    assert reasons[3] == "550 5.1.1 unknown"
    assert "is not an address" in reasons[5]
    assert max(Counter(mail.recipients for mail in smtp_sink.mails()).values()) == 1


def test_the_first_refusal_may_end_it(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"u3@example.com": "550 5.1.1 unknown"}
    with pytest.raises(PartialFailure, match="stopped there"):
        send_batch(scene, on_item_error="fail", concurrency=1)
    assert statuses(scene) == {"sent": 3, "refused": 1, "skipped": 6}
    with pytest.raises(PartialFailure):
        send_batch(scene, on_item_error="fail", concurrency=1)
    assert statuses(scene) == {"sent": 9, "refused": 1}


def test_too_many_refusals_end_it(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {row["email"]: "550 5.1.1 unknown" for row in scene.rows}
    with pytest.raises(PartialFailure):
        send_batch(scene, max_failures=2, concurrency=1)
    assert statuses(scene) == {"refused": 3, "skipped": 7}


def test_a_refused_message(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = ["554 5.6.0 no", "451 4.3.0 later"]
    with pytest.raises(PartialFailure) as caught:
        send_batch(scene, concurrency=1)
    assert (caught.value.done, sorted(caught.value.failed)) == (8, ["0", "1"])
    with pytest.raises(PartialFailure):
        send_batch(scene)
    assert len(smtp_sink.mails()) == 9


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
@pytest.mark.parametrize("after", [AfterData.DROP, AfterData.LOSE])
def test_a_lost_reply(scene: BatchScene, smtp_sink: SmtpSink, choice: str, after: AfterData) -> None:
    smtp_sink.after_data = [after]
    if choice == "skip":
        assert send_batch(scene, on_unknown=choice)["unknown"] == 1
    else:
        with pytest.raises(OutcomeUnknown, match=r"1 of 10 .*report.jsonl") as caught:
            send_batch(scene, on_unknown=choice)
        assert caught.value.reconcilable is (choice == "resend")
    assert statuses(scene) == {"sent": 9, "unknown": 1}
    there = 9 if after is AfterData.LOSE else 10
    assert len(smtp_sink.mails()) == there
    if choice == "resend":
        assert send_batch(scene, on_unknown=choice)["sent"] == 10
        assert len(smtp_sink.mails()) == there + 1
        assert len({mail.data for mail in smtp_sink.mails()}) == 10
    elif choice == "stop":
        with pytest.raises(OutcomeUnknown):
            send_batch(scene)
        assert len(smtp_sink.mails()) == there
        assert send_batch(scene, on_unknown="skip")["unknown"] == 1


def test_a_421_pauses_all_and_goes_on(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = ["421 4.7.0 slow down"]
    assert send_batch(scene)["sent"] == 10
    assert len(smtp_sink.mails()) == 10


def test_a_server_that_always_says_421_is_left_to_airflow(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = ["421 4.7.0 slow down"] * 100
    with pytest.raises(Throttled) as caught:
        send_batch(scene, retry_plan=True)
    assert caught.value.retry_after == 300
    assert statuses(scene) == {"skipped": 10}
    smtp_sink.after_data = []
    assert send_batch(scene)["sent"] == 10


def test_fewer_connections_than_asked_for(
    scene: BatchScene, smtp_sink: SmtpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_ones: list[Any] = []

    async def ehlo(self: Any, server: Any, session: Any, envelope: Any, host: str, said: list[str]) -> list[str]:
        open_ones[:] = [each for each in open_ones if not each.is_closing()]
        session.host_name = host
        if len(open_ones) >= 2:
            return ["421 4.7.0 too many connections"]
        open_ones.append(server.transport)
        return said

    monkeypatch.setattr(smtp_sink_module._Handler, "handle_EHLO", ehlo, raising=False)
    assert send_batch(scene, concurrency=6, retry_plan=True)["sent"] == 10
    assert len(smtp_sink.mails()) == 10


def test_a_server_that_ends_connections_after_some_mails(
    scene: BatchScene, smtp_sink: SmtpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: Counter[Any] = Counter()

    async def mail(self: Any, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        served[session.peer] += 1
        if served[session.peer] > 3:
            server.transport.abort()
        envelope.mail_from = address
        return "250 OK"

    monkeypatch.setattr(smtp_sink_module._Handler, "handle_MAIL", mail, raising=False)
    assert send_batch(scene, concurrency=1)["sent"] == 10
    assert (len(smtp_sink.mails()), smtp_sink.sessions) == (10, 4)


def test_a_rate_limit_of_its_own(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    connect(smtp_sink, flowrunner={"rate_limit": "1/hour"})
    assert send_batch(scene, rate_limit="1000/second")["sent"] == 10
    connect(smtp_sink)
    (tmp_path / "other").mkdir()
    other = BatchScene(tmp_path / "other", scene.mailbox, scene.rows)
    with pytest.raises(Throttled, match="rate limit"):
        send_batch(other, rate_limit="2/hour")
    assert len(other.mails()) == 1


def test_other_content_is_refused(scene: BatchScene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"u3@example.com": "451 4.7.1 later"}
    with pytest.raises(PartialFailure):
        send_batch(scene)
    with pytest.raises(PermanentError, match="another content"):
        send_batch(scene, subject="Other {{ name }}")


def test_the_ledger_of_many_rows_is_small() -> None:
    run = Run.alone()
    ledger = Ledger(run, "f", MAX_ROWS, 1.0)
    from random import Random

    ledger.states[:] = bytes(Random(1).choices(range(5), k=MAX_ROWS))
    ledger.close()
    assert len(json.dumps(run.journal.read("effect", "email.send_batch"))) < 60_000
    again = Ledger(run, "f", MAX_ROWS, 1.0)
    again.load()
    assert again.states == ledger.states
    with pytest.raises(ConfigError, match="split"):
        Ledger(run, "f", MAX_ROWS + 1, 1.0)


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"smtp_conn_id": "nowhere"}, ConfigError, "nowhere"),
    ({"recipients": []}, NotFound, "no rows"),
    ({"recipients": "/nowhere/a.csv"}, NotFound, "a.csv"),
    ({"recipients": ["a@example.com"]}, ConfigError, "list of mappings"),
    ({"recipients": 7}, ConfigError, "recipients"),
    ({"to": "mail"}, ConfigError, "no column 'mail'"),
    ({"to_name": "nick"}, ConfigError, "nick"),
    ({"subject": "{{ nick }}"}, ConfigError, "nick"),
    ({"subject": "{{ name"}, ConfigError, "subject, line 1"),
    ({"text": "{{ ''.__class__.__mro__ }}"}, ConfigError, "text"),
    ({"text": None}, ConfigError, "no content"),
    ({"template": "none.html"}, ConfigError, "none.html"),
    ({"template": "none.txt"}, ConfigError, "none.txt"),
    ({"attachments": ["/nowhere/*.pdf"]}, NotFound, "matches"),
    ({"attachment_column": "name"}, ConfigError, "belong together"),
    ({"concurrency": 0}, ConfigError, "concurrency"),
    ({"rate_limit": "often"}, ConfigError, "often"),
    ({"window": True}, ConfigError, "window"),
    ({"on_unknown": "guess"}, ConfigError, "on_unknown"),
    ({"on_item_error": "shrug"}, ConfigError, "on_item_error"),
    ({"report": "relative.jsonl"}, ConfigError, "absolute"),
    ({"report": "/dev/null/x.jsonl"}, ConfigError, "report"),
    ({"dead_letter": "/tmp"}, ConfigError, "dead_letter"),
    ({"report": "/tmp/x.jsonl", "dead_letter": "/tmp/x.jsonl"}, ConfigError, "of its own"),
    ({"headers": {"Bcc": "x@y.org"}}, ConfigError, "parameter of its own"),
    ({"from_email": "me"}, ConfigError, "not an address"),
]


@pytest.mark.parametrize(("more", "kind", "said"), BAD)
def test_bad_input_is_refused_before_anything_is_sent(
    scene: BatchScene, smtp_sink: SmtpSink, more: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        send_batch(scene, **more)
    assert caught.value.remedy or caught.value.field  # type: ignore[attr-defined]
    assert smtp_sink.sessions == 0
    assert not any("effect" in key for key in scene.state.items())


def test_an_attachment_outside_its_folder_is_refused(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "ok.txt").write_text("ok")
    for row in scene.rows:
        row["file"] = "ok.txt"
    scene.rows[2]["file"], scene.rows[4]["file"] = "../secret.txt", "/etc/passwd"
    with pytest.raises(PartialFailure):
        send_batch(scene, attachment_column="file", attachment_folder=str(tmp_path / "own"))
    assert statuses(scene) == {"sent": 8, "refused": 2}


def test_no_server_and_a_wrong_password(scene: BatchScene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    with SmtpSink(tmp_path / "other", users={"me": PASSWORD}) as sink:
        connect(sink, login="me", password="wrong")
        with pytest.raises(AccessDenied):
            send_batch(scene)
        assert sink.sessions <= 4
    connect(smtp_sink, port=free_port())
    with pytest.raises(ConnectionLost):
        send_batch(scene, retry_plan=True)
    assert statuses(scene) == {"skipped": 10}


def test_a_missing_package_says_what_to_install(scene: BatchScene, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    monkeypatch.setitem(sys.modules, "aiosmtplib", None)
    with pytest.raises(MissingExtra, match=r"\[email\]"):
        send_batch(scene)
