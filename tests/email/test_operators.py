"""``email.send`` from end to end: what the mailbox holds after each attempt."""

from __future__ import annotations

import importlib.util
import inspect
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    MissingExtra,
    NotFound,
    OutcomeUnknown,
    PartialFailure,
    PermanentError,
    Rejected,
    Throttled,
)
from flowrunner_provider.core.spec import param_docs, schema_of_signature
from flowrunner_provider.email.hook import FlowRunnerSmtpHook
from flowrunner_provider.email.operators import EmailSendOperator
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy
from tests.email.support import PASSWORD, Scene, connect, send
from tests.support import smtp_sink as smtp_sink_module
from tests.support.kill import attempt
from tests.support.servers import free_port
from tests.support.smtp_sink import AfterData, SmtpSink
from tests.support.tls import Tls


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> Scene:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", smtp_sink.directory)


def retried(error: FlowRunnerError) -> bool:
    return FlowRunnerRetryPolicy().evaluate(error, 1, 3).action.name == "RETRY"


def test_a_mail_is_sent(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n")
    result = send(
        scene, to='"Doe, John" <j@example.com>', bcc="secret@example.com", subject="Run {{ run_id[:6] }}",
        attachments=[f"{tmp_path}/*.csv"], from_email="Jürgen Müller <jm@example.com>",
    )  # fmt: skip
    (mail,) = smtp_sink.mails()
    assert mail.sender == "jm@example.com"
    assert mail.recipients == ("j@example.com", "secret@example.com")
    assert mail.message["Message-ID"] == result["message_id"]
    assert result == {
        "message_id": mail.message["Message-ID"], "accepted": 2, "refused": [], "unknown": 0, "subject": "Run manual",
        "invitation_uid": None,
    }  # fmt: skip
    assert mail.message["From"].addresses[0].display_name == "Jürgen Müller"
    assert b"secret@" not in mail.data
    assert [part.get_filename() for part in mail.message.iter_attachments()] == ["a.csv"]
    assert send(scene) == result
    assert len(smtp_sink.mails()) == 1


def test_partial_refusal_then_only_the_rest(scene: Scene, smtp_sink: SmtpSink) -> None:
    people = [f"{who}@example.com" for who in ("ok", "later", "never")]
    smtp_sink.refuse = {"later@example.com": "451 4.7.1 greylisted", "never@example.com": "550 5.1.1 unknown"}
    with pytest.raises(PartialFailure) as caught:
        send(scene, to=people)
    assert (caught.value.done, caught.value.retryable) == (1, True)
    assert caught.value.failed == {
        "later@example.com": "451 4.7.1 greylisted",
        "never@example.com": "550 5.1.1 unknown",
    }
    assert retried(caught.value)
    with pytest.raises(PartialFailure):
        send(scene, to=people)
    smtp_sink.refuse = {"never@example.com": "550 5.1.1 unknown"}
    with pytest.raises(PartialFailure) as caught:
        send(scene, to=people)
    assert (caught.value.done, list(caught.value.failed)) == (2, ["never@example.com"])
    assert not retried(caught.value)
    with pytest.raises(PartialFailure):
        send(scene, to=people)
    first, second = smtp_sink.mails()
    assert (first.recipients, second.recipients) == (("ok@example.com",), ("later@example.com",))
    assert first.data == second.data


def test_all_refused_for_good_is_rejected_without_a_trace(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"a@example.com": "550 5.1.1 unknown", "b@example.com": "554 5.7.1 blocked"}
    with pytest.raises(Rejected, match=r"a@example.com: 550.*b@example.com: 554") as caught:
        send(scene)
    assert not retried(caught.value)
    assert smtp_sink.sessions == 1
    assert send(scene, to="c@example.com")["accepted"] == 1


def test_all_refused_for_now_is_throttled(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"a@example.com": "450 4.2.0 greylisted", "b@example.com": "450 4.2.0 greylisted"}
    with pytest.raises(Throttled) as caught:
        send(scene)
    assert caught.value.retry_after == 300
    smtp_sink.refuse = {}
    assert send(scene)["accepted"] == 2
    assert len(smtp_sink.mails()) == 1


def test_nobody_taken_for_different_reasons(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.refuse = {"a@example.com": "550 5.1.1 unknown", "b@example.com": "450 4.2.0 later"}
    with pytest.raises(PartialFailure) as caught:
        send(scene)
    assert (caught.value.done, len(caught.value.failed)) == (0, 2)
    smtp_sink.refuse = {}
    with pytest.raises(PartialFailure):
        send(scene)
    assert [mail.recipients for mail in smtp_sink.mails()] == [("b@example.com",)]


def test_too_many_recipients_go_in_further_rounds_at_once(scene: Scene, smtp_sink: SmtpSink) -> None:
    async def limited(self: Any, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if len(envelope.rcpt_tos) == 3:
            return "452 4.5.3 too many recipients"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smtp_sink_module._Handler, "handle_RCPT", limited)
        assert send(scene, to=[f"u{n}@example.com" for n in range(8)])["accepted"] == 8
    assert [len(mail.recipients) for mail in smtp_sink.mails()] == [3, 3, 2]


def test_a_thousand_outcomes_fit_into_the_ledger(scene: Scene, smtp_sink: SmtpSink) -> None:
    people = [f"user-{n}@example.com" for n in range(1000)]
    smtp_sink.refuse = dict.fromkeys(people[1:], "451 4.7.1 " + "please come back later " * 8)
    with pytest.raises(PartialFailure) as caught:
        send(scene, to=people)
    assert (caught.value.done, len(caught.value.failed)) == (1, 999)
    smtp_sink.refuse = {}
    assert send(scene, to=people)["accepted"] == 1000
    assert [len(mail.recipients) for mail in smtp_sink.mails()] == [1, 999]


def test_a_permanent_refusal_of_the_message_is_not_repeated_in_place(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = ["554 5.6.0 no"]
    with pytest.raises(Rejected) as caught:
        send(scene)
    assert (smtp_sink.sessions, retried(caught.value)) == (1, False)
    assert send(scene)["accepted"] == 2


@pytest.mark.parametrize("after", [AfterData.DROP, AfterData.LOSE])
def test_a_lost_reply_stops_the_task(scene: Scene, smtp_sink: SmtpSink, after: AfterData) -> None:
    smtp_sink.after_data = [after]
    with pytest.raises(OutcomeUnknown, match=r"Message-ID <[0-9a-f]{40}@example.com>") as caught:
        send(scene)
    assert caught.value.effect_key in str(caught.value)
    assert not retried(caught.value)
    again = Scene(scene.directory.parent / "again", scene.mailbox)
    smtp_sink.after_data = [after]
    assert [attempt(send, again).error_type for _ in range(2)] == ["OutcomeUnknown"] * 2
    assert len(again.mails()) == (1 if after is AfterData.DROP else 0)


def test_a_lost_reply_and_resend(scene: Scene, smtp_sink: SmtpSink) -> None:
    smtp_sink.after_data = [AfterData.DROP]
    assert attempt(resend, scene).error_type == "OutcomeUnknown"
    assert attempt(resend, scene).result["accepted"] == 2
    first, second = smtp_sink.mails()
    assert first.data == second.data
    smtp_sink.after_data = [AfterData.DROP]
    with pytest.raises(OutcomeUnknown) as caught:
        resend(Scene(scene.directory.parent / "again", scene.mailbox))
    assert retried(caught.value)


def resend(scene: Scene) -> Any:
    return send(scene, on_unknown="resend")


def test_other_content_after_an_intent_is_refused(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    file = tmp_path / "report.csv"
    file.write_text("one")
    smtp_sink.after_data = [AfterData.DROP]
    with pytest.raises(OutcomeUnknown):
        send(scene, attachments=[str(file)])
    file.write_text("two")
    with pytest.raises(PermanentError, match="different content"):
        send(scene, attachments=[str(file)], on_unknown="resend")
    assert len(smtp_sink.mails()) == 1


def test_templates_and_the_connections_own(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "mail.html").write_text("<p>Hello\n\n{{ name }}</p>\n")
    (tmp_path / "subject.txt").write_text("For {{ name }}\n")
    connect(
        smtp_sink, html_content_template=str(tmp_path / "mail.html"), subject_template=str(tmp_path / "subject.txt")
    )
    context = {"template_context": {"name": "<Ann>"}}
    send(scene, html=None, subject=None, **context)
    send(
        Scene(tmp_path / "other", scene.mailbox),
        html=None,
        template="mail.html",
        template_folder=str(tmp_path),
        **context,
    )
    for mail in smtp_sink.mails():
        html = mail.message.get_body(("html",))
        assert html is not None
        assert html.get_content().replace("\r\n", "\n") == "<p>Hello\n\n&lt;Ann&gt;</p>\n"
    assert smtp_sink.mails()[0].message["Subject"] == "For <Ann>"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"to": "not an address"}, ConfigError, "to"),
        ({"to": None}, ConfigError, "to"),
        ({"subject": "a\nb"}, ConfigError, "subject"),
        ({"subject": None}, ConfigError, "subject"),
        ({"html": None}, ConfigError, "html"),
        ({"template": "x.html"}, ConfigError, "template"),
        ({"template": "x.txt", "template_folder": "/nowhere"}, ConfigError, "template"),
        ({"template": "x.txt", "template_context": "x"}, ConfigError, "template_context"),
        ({"attachments": ["/nowhere/*.csv"]}, NotFound, ""),
        ({"attachments": "/a.csv"}, ConfigError, "attachments"),
        ({"headers": {"Bcc": "x@example.com"}}, ConfigError, "headers"),
        ({"on_unknown": "maybe"}, ConfigError, "on_unknown"),
        ({"max_total_size": 100}, ConfigError, "max_total_size"),
        ({"max_total_size": 0}, ConfigError, "max_total_size"),
        ({"smtp_conn_id": "nowhere"}, ConfigError, "conn_id"),
        ({"timeout": "soon"}, ConfigError, "timeout"),
    ],
)  # fmt: skip
def test_bad_input_fails_before_anything_happens(
    scene: Scene, smtp_sink: SmtpSink, changes: dict[str, Any], error: type[FlowRunnerError], field: str
) -> None:
    with pytest.raises(error) as caught:
        send(scene, **changes)
    assert getattr(caught.value, "field", "") == field
    assert caught.value.remedy
    assert smtp_sink.sessions == 0


def test_no_sender(scene: Scene, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink, from_email="")
    with pytest.raises(ConfigError, match="has a sender"):
        send(scene)


def test_a_missing_package_is_named(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiosmtplib", None)
    with pytest.raises(MissingExtra) as caught:
        send(scene)
    assert "[email]" in str(caught.value)


def test_an_unreachable_server(scene: Scene, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)
    connection = json.loads(os.environ["AIRFLOW_CONN_SMTP_DEFAULT"])
    os.environ["AIRFLOW_CONN_SMTP_DEFAULT"] = json.dumps({**connection, "port": free_port()})
    with pytest.raises(ConnectionLost, match="could not connect"):
        send(scene)
    assert "effect" not in " ".join(scene.state.items())


def test_the_rate_limit_of_the_connection(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    connect(smtp_sink, flowrunner={"rate_limit": "1/hour"})
    assert send(scene)["accepted"] == 2
    with pytest.raises(Throttled, match="rate limit"):
        send(Scene(tmp_path / "other", scene.mailbox))
    assert len(smtp_sink.mails()) == 1


def test_the_password_is_nowhere(
    tmp_path: Path, tls: Tls, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("mail.log").setLevel(logging.CRITICAL)  # the server's own log, which shows AUTH
    texts = []
    with SmtpSink(tmp_path / "mail", tls=tls.server_context(), starttls=True, users={"u": PASSWORD}) as sink:
        safe = {"host": "localhost", "disable_tls": False, "flowrunner": {"ca_file": str(tls.ca_file)}}
        scene = Scene(tmp_path / "scene", sink.directory)
        connect(sink, login="u", password=PASSWORD, **safe)
        hook = FlowRunnerSmtpHook("smtp_default")
        done, text = hook.test_connection()
        assert (done, text.split("; ")[1:]) == (True, ["TLSv1.3, certificate verified", "logged in as u"])
        texts += [text, repr(send(scene)), *(mail.data.decode() for mail in sink.mails())]
        assert len(sink.mails()) == 1
        connect(sink, login="u", password=PASSWORD + "-wrong", **safe)
        done, text = FlowRunnerSmtpHook("smtp_default").test_connection()
        assert not done
        assert "check login and password" in text
        with pytest.raises(FlowRunnerError) as caught:
            send(Scene(tmp_path / "other", sink.directory))
        texts += [text, str(caught.value), repr(caught.value.to_event())]
        texts += [path.read_text() for path in tmp_path.rglob("*.json")]
    captured = capfd.readouterr()
    everything = "\n".join([*texts, caplog.text, captured.out, captured.err])
    assert PASSWORD not in everything
    assert PASSWORD[:12] not in everything


def test_the_action_is_described() -> None:
    _, documented = param_docs(EmailSendOperator.__doc__)
    schema = schema_of_signature(EmailSendOperator.__init__)
    assert set(schema["properties"]) == set(documented)  # type: ignore[arg-type]
    assert schema["properties"]["on_unknown"]["enum"] == ["stop", "resend", "skip"]  # type: ignore[index,call-overload]
    assert set(EmailSendOperator.template_fields) <= set(documented)
    assert inspect.get_annotations(EmailSendOperator.perform)["return"] == "SendResult"


def test_the_example_imports_without_connections() -> None:
    path = Path(__file__).parents[2] / "example_dags" / "email_actions.py"
    spec = importlib.util.spec_from_file_location("email_actions", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.summary.action == "email.send"
