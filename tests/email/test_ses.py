"""Amazon SES: against moto's server for what is sent, botocore's Stubber and a socket for what goes wrong.

moto is an emulator: that SES itself behaves so is read from its documentation.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import itertools
import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.deadline import Deadline
from flowrunner_provider.core.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    CredentialExpired,
    FlowRunnerError,
    MissingCredential,
    MissingExtra,
    OutcomeUnknown,
    PartialFailure,
    Rejected,
    Throttled,
)
from flowrunner_provider.email.addresses import Mailbox
from flowrunner_provider.email.hook import outgoing
from flowrunner_provider.email.ses import SesConfig, SesTransport
from tests.email.support import BatchScene, Scene, people, report, send, send_batch
from tests.email.test_dkim import options, verified
from tests.support.kill import attempt, kill_at
from tests.support.servers import free_port

SECRET = "canary-Aws-53cret-7f3e91"


def connect(endpoint: str, **more: Any) -> None:
    """Define the connection for this process and its children."""
    flowrunner = {"from_email": "Robot <robot@example.com>", "timeout": 5.0, **more}
    extra = {"region_name": "eu-west-1", "endpoint_url": endpoint, "flowrunner": flowrunner}
    value = {"conn_type": "aws", "login": "AKIDEXAMPLE", "password": SECRET, "extra": extra}
    os.environ["AIRFLOW_CONN_SES"] = json.dumps(value)


@dataclass
class Ses:
    """The emulator; ``endpoint`` is its address."""

    endpoint: str
    backend: Any

    def mails(self) -> list[tuple[list[str], Any]]:
        """Recipients and parsed message of every mail that was taken."""
        return [
            (each.destinations, email.message_from_string(each.raw_data, policy=email.policy.default))
            for each in self.backend.sent_messages
        ]


def one_at_a_time(app: Callable[..., Any]) -> Callable[..., Any]:
    """The emulator is not made for requests at the same time."""
    lock = threading.Lock()

    def ask(environ: Any, begin: Any) -> Any:
        with lock:
            return app(environ, begin)

    return ask


@pytest.fixture(scope="module")
def server() -> Iterator[Ses]:
    moto = pytest.importorskip("moto.server")
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.ses.models import ses_backends

    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    running._server.app = one_at_a_time(running._server.app)
    host, port = running.get_host_and_port()
    yield Ses(f"http://{host}:{port}", ses_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"])
    running.stop()


@pytest.fixture
def ses(server: Ses) -> Ses:
    server.backend.sent_messages.clear()
    server.backend.verify_domain("example.com")
    connect(server.endpoint)
    return server


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", tmp_path, {"smtp_conn_id": "ses"})


def test_a_mail_is_taken(ses: Ses, scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "größe.csv").write_bytes(b"a;b\n")
    result = send(
        scene, to='"Doe, John" <j@example.com>', cc="c@example.com", bcc="secret@example.com", subject="Größe ✓",
        attachments=[str(tmp_path / "größe.csv")],
    )  # fmt: skip
    ((recipients, message),) = ses.mails()
    assert recipients[:3] == ["j@example.com", "c@example.com", "secret@example.com"]  # moto adds the headers'
    assert message["Subject"] == "Größe ✓"
    assert "secret@" not in str(message)
    assert message["Original-Message-ID"] == message["Message-ID"] == result["message_id"]
    assert [(part.get_filename(), part.get_payload(decode=True)) for part in message.iter_attachments()] == [
        ("größe.csv", b"a;b\n")
    ]
    assert result["accepted"] == 3
    assert send(scene) == result
    assert len(ses.mails()) == 1


def test_more_than_fifty_are_refused(ses: Ses, scene: Scene) -> None:
    with pytest.raises(ConfigError, match="takes 50 recipients of a mail, and there are 51") as caught:
        send(scene, to=[f"u{n}@example.com" for n in range(51)])
    assert caught.value.field == "to"
    assert not ses.mails()


def test_a_batch(ses: Ses, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    batch = BatchScene(tmp_path / "scene", tmp_path, people(25), {"smtp_conn_id": "ses"})
    assert send_batch(batch)["sent"] == 25
    assert sorted(recipients[0] for recipients, _ in ses.mails()) == sorted(row["email"] for row in batch.rows)
    assert {message["Original-Message-ID"] for _, message in ses.mails()} == {
        line["message_id"] for line in report(batch)
    }


def test_a_refused_sender_is_rejected(ses: Ses, scene: Scene) -> None:
    with pytest.raises(Rejected, match="verified"):
        send(scene, from_email="nobody@elsewhere.example")
    assert not ses.mails()


def test_dkim_leaves_out_what_ses_rewrites(ses: Ses, scene: Scene) -> None:
    connect(ses.endpoint, **options()["flowrunner"])
    send(scene)
    raw = ses.backend.sent_messages[0].raw_data
    lines = [line if not line.startswith(("Date:", "Message-ID:")) else f"{line.split(':')[0]}: x" for line in
             raw.split("\r\n")]  # fmt: skip
    assert verified("\r\n".join(lines).encode())


ALL = int(os.environ.get("FLOWRUNNER_KILLS", "0")) > 20
"""The sweep of email.send goes over every failpoint; here, by default, those around the request."""

PASSED = ["email.send.before_connect", "effect.email.send.before_intent", "effect.email.send.after_intent",
          "email.send.before_data", "email.send.after_data", "effect.email.send.after_act",
          "effect.email.send.after_confirm"]  # fmt: skip
NOT_SENT, IN_DOUBT = PASSED[2:4], PASSED[2:6]
POINTS = {"stop": PASSED, "resend": IN_DOUBT, "skip": IN_DOUBT} if ALL else {
    "stop": PASSED[3:5], "resend": PASSED[4:5], "skip": PASSED[3:4],
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize(("choice", "point"), [(choice, point) for choice in POINTS for point in POINTS[choice]])
def test_killed_and_retried(ses: Ses, tmp_path: Path, choice: str, point: str) -> None:
    (tmp_path / "scene").mkdir()
    scene = Scene(tmp_path / "scene", tmp_path, {"smtp_conn_id": "ses", "on_unknown": choice})
    assert attempt(send, scene, rules=[kill_at(point)]).killed
    outcome = attempt(send, scene, try_number=2)
    doubtful, sent = point in IN_DOUBT, point not in NOT_SENT
    assert outcome.ok is not (doubtful and choice == "stop"), outcome.error
    expected = {"stop": int(sent), "resend": 1 + sent, "skip": int(sent)}[choice] if doubtful else 1
    assert len(ses.mails()) == expected
    assert len({message["Original-Message-ID"] for _, message in ses.mails()}) == min(1, expected)


# What goes wrong


@dataclass(frozen=True)
class Letter:
    needs_utf8: bool
    sender: Mailbox = field(default_factory=lambda: Mailbox(name="", local="robot", domain="example.com"))


def hand_over(
    client: Any, *, recipients: tuple[str, ...] = ("a@example.com",), size: int = 100, utf8: bool = False
) -> Any:
    async def run() -> Any:
        transport = SesTransport(SesConfig(timeout=1.0), lambda: client)
        session = await transport.envelope(Letter(needs_utf8=utf8), recipients, size, Deadline(20))
        try:
            return await session.data(b"Message-ID: <1@x>\r\n\r\ntext")
        finally:
            await session.close()

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("TooManyRequestsException", 429, Throttled), ("ThrottlingException", 400, Throttled),
        ("LimitExceededException", 400, Throttled), ("MessageRejected", 400, Rejected),
        ("MailFromDomainNotVerifiedException", 400, Rejected), ("BadRequestException", 400, Rejected),
        ("NotFoundException", 404, Rejected), ("AccountSuspendedException", 400, AccessDenied),
        ("SendingPausedException", 400, AccessDenied), ("AccessDeniedException", 403, AccessDenied),
        ("SignatureDoesNotMatch", 403, AccessDenied), ("ExpiredTokenException", 403, CredentialExpired),
        ("InternalFailure", 500, OutcomeUnknown), ("ServiceUnavailable", 503, OutcomeUnknown),
    ],
)  # fmt: skip
def test_what_an_answer_says(code: str, status: int, kind: type[FlowRunnerError]) -> None:
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("sesv2", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key=SECRET)
    with Stubber(client) as stub:
        stub.add_client_error("send_email", code, "because", status)
        with pytest.raises(kind) as caught:
            hand_over(client)
        stub.assert_no_pending_responses()
    assert type(caught.value) is kind
    assert code in caught.value.message or kind is Throttled
    assert kind is OutcomeUnknown or caught.value.remedy


def test_what_is_told_to_ses() -> None:
    import boto3
    from botocore.stub import Stubber

    client = boto3.client("sesv2", region_name="eu-west-1", aws_access_key_id="a", aws_secret_access_key=SECRET)
    message = b"Original-Message-ID: <1@x>\r\nMessage-ID: <1@x>\r\n\r\ntext"
    with Stubber(client) as stub:
        stub.add_response(
            "send_email", {"MessageId": "0"},
            {"FromEmailAddress": "robot@example.com", "Destination": {"ToAddresses": ["a@example.com"]},
             "Content": {"Raw": {"Data": message}}},
        )  # fmt: skip
        assert hand_over(client) is None


@pytest.mark.parametrize("more", [{"size": 41 << 20}, {"utf8": True}])
def test_what_ses_cannot_take_is_refused_before(more: dict[str, Any]) -> None:
    with pytest.raises(Rejected) as caught:
        hand_over(None, **more)
    assert caught.value.remedy


@contextmanager
def broken(answer: Callable[[socket.socket], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that takes requests whole and then does what ``answer`` does with the connection."""
    taken: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            data = b""
            while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < length(data):
                if not (chunk := connection.recv(65536)):
                    break
                data += chunk
            taken.append(data)
            answer(connection)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", taken
    finally:
        listener.close()


def length(data: bytes) -> int:
    head = data.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)


def hang(kept: list[socket.socket]) -> Callable[[socket.socket], None]:
    return kept.append


def say(text: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(text)
        connection.close()

    return answer


OOPS = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
CUT = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"


@pytest.mark.faults
@pytest.mark.parametrize("answer", [say(b""), say(CUT), say(OOPS), hang([])], ids=["drop", "cut", "500", "hang"])
def test_a_lost_answer_is_unknown_and_not_repeated(scene: Scene, answer: Callable[[socket.socket], None]) -> None:
    with broken(answer) as (endpoint, taken):
        connect(endpoint, timeout=1.0)
        with pytest.raises(OutcomeUnknown) as caught:
            send(scene)
        assert "Message-ID <" in caught.value.message
        assert len(taken) == 1
        with pytest.raises(OutcomeUnknown):
            send(scene)
        assert len(taken) == 1, "an attempt that may not repeat asked again"
        assert send(scene, on_unknown="skip")["unknown"] == 2
        assert len(taken) == 1


def test_no_server_is_known_not_to_have_it(scene: Scene) -> None:
    connect(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConnectionLost) as caught:
        send(scene, timeout="20s")
    assert caught.value.remedy


def test_the_connection_test(ses: Ses) -> None:
    ok, message = outgoing("ses").test_connection()
    assert ok or "GetAccount" in message or " -> " in message
    assert SECRET not in message
    connect(f"http://127.0.0.1:{free_port()}")
    ok, message = outgoing("ses").test_connection()
    assert not ok
    assert "cannot be reached" in message


def test_bad_connections(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SES", "http://example.com")
    with pytest.raises(ConfigError, match="sends no mail"):
        send(scene)
    connect("http://127.0.0.1:1", colour="red")
    with pytest.raises(ConfigError, match="colour"):
        send(scene)
    connect("http://127.0.0.1:1", from_email="")
    with pytest.raises(ConfigError) as caught:
        send(scene)
    assert caught.value.field == "from_email"
    connect("http://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingExtra, match=r"\[ses\]"):
        send(scene)


def test_no_credentials(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"conn_type": "aws", "extra": {"region_name": "eu-west-1", "endpoint_url": "http://127.0.0.1:1",
             "flowrunner": {"from_email": "a@example.com"}}}  # fmt: skip
    monkeypatch.setenv("AIRFLOW_CONN_SES", json.dumps(value))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(scene.directory))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingCredential):
        send(scene)


def test_a_throttled_batch_waits_and_goes_on(ses: Ses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto.sesv2.models import SESV2Backend

    times = itertools.count()
    real = SESV2Backend.send_raw_email

    def now_and_then(self: Any, **arguments: Any) -> Any:
        if next(times) in (3, 5):
            from moto.core.exceptions import JsonRESTError

            error = JsonRESTError("TooManyRequestsException", "Maximum sending rate exceeded.")
            error.code = 429
            raise error
        return real(self, **arguments)

    monkeypatch.setattr(SESV2Backend, "send_raw_email", now_and_then)
    (tmp_path / "scene").mkdir()
    batch = BatchScene(tmp_path / "scene", tmp_path, people(10), {"smtp_conn_id": "ses", "concurrency": 1})
    assert send_batch(batch, retry_plan=True)["sent"] == 10
    assert len(ses.mails()) == 10


def test_a_refused_row_of_a_batch_is_named(ses: Ses, tmp_path: Path) -> None:
    (tmp_path / "scene").mkdir()
    rows = [*people(3), {"id": 9, "email": "jürgen@example.com", "name": "J"}]
    batch = BatchScene(tmp_path / "scene", tmp_path, rows, {"smtp_conn_id": "ses"})
    with pytest.raises(PartialFailure) as caught:
        send_batch(batch)
    assert (caught.value.done, list(caught.value.failed)) == (3, ["3"])
