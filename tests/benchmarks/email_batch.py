"""2,000 personalised mails with a 20 KiB attachment, and 200 of them over a line with 20 ms of round trip.

``email_batch.postfix`` is the comparison that was asked for: Postfix's ``smtp-sink`` takes the mails, and the
reference is smtplib on one connection, which formats one string of headers and HTML for each mail and puts the
attachment, encoded once, behind it. Ours renders three Jinja templates for each mail (subject, HTML and a plain
text), keeps its ledger on the disk and writes a report. ``smtplib, Jinja`` renders the same three templates and
keeps nothing.

``email_batch.bare`` is harsher: its sink costs next to nothing (uvloop, in a process of its own; it looks for the
final dot and counts), so what is compared is the client alone. The reference formats text and HTML.

``email_batch.latency`` has 10 ms each way before that sink; the reference has a fresh ``EmailMessage`` for each
mail, on 16 connections. Both sinks announce PIPELINING, as mail servers do; smtplib and aiosmtplib know nothing of it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload

WORDS = 20


class _Sink(asyncio.Protocol):
    """Just enough of RFC 5321."""

    taken = 0

    def connection_made(self, transport: Any) -> None:
        self.transport, self.buffer, self.in_data = transport, bytearray(), False
        transport.write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while True:
            end = b"\r\n.\r\n" if self.in_data else b"\r\n"
            found = self.buffer.find(end)
            if found < 0:
                return
            command = bytes(self.buffer[:4]).upper()
            del self.buffer[: found + len(end)]
            self._answer(command)

    def _answer(self, command: bytes) -> None:
        if self.in_data:
            self.in_data = False
            _Sink.taken += 1
            self.transport.write(b"250 OK\r\n")
        elif command == b"DATA":
            self.in_data = True
            self.transport.write(b"354 go\r\n")
        elif command == b"VRFY":
            self.transport.write(f"252 {_Sink.taken}\r\n".encode())
        elif command == b"EHLO":
            self.transport.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n")
        elif command == b"QUIT":
            self.transport.write(b"221 bye\r\n")
            self.transport.close()
        else:
            self.transport.write(b"250 OK\r\n")


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextlib.contextmanager
def _home(count: int) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "report.pdf").write_bytes(os.urandom(20 * 1024))
        yield {"count": count, "counts": True, "file": str(Path(home) / "report.pdf")}


@contextlib.contextmanager
def postfix() -> Iterator[dict[str, Any]]:
    """Postfix's sink; it does not tell what it took."""
    from tests.support.servers import free_port, greets, require

    program = require("smtp-sink", "/usr/sbin/smtp-sink", apt="postfix")
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    server = subprocess.Popen([program, *user, f"127.0.0.1:{port}", "500"], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError):
                if greets(port, b"220"):
                    break
            time.sleep(0.05)
        with _home(2_000) as found:
            yield {**found, "port": port, "sink": port, "counts": False}
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def bare(count: int = 2_000) -> Iterator[dict[str, Any]]:
    """The sink of this file."""
    server = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with _home(count) as found:
            yield {**found, "port": port, "sink": port}
    finally:
        server.terminate()
        server.wait()


@contextlib.contextmanager
def latency() -> Iterator[dict[str, Any]]:
    """The same, 10 ms away."""
    from tests.support.chaos_proxy import ChaosProxy, Toxics

    with bare(200) as found, ChaosProxy("127.0.0.1", found["sink"]) as proxy:
        proxy.toxics = Toxics(latency=0.01)
        yield {**found, "port": proxy.port}


def _taken(scene: dict[str, Any]) -> int:
    import smtplib

    if not scene["counts"]:
        return 0
    with smtplib.SMTP("127.0.0.1", scene["sink"]) as client:
        return int(client.docmd("VRFY")[1])


def _all_came(scene: dict[str, Any], before: int) -> None:
    for _ in range(100):
        if not scene["counts"] or _taken(scene) - before == scene["count"]:
            return
        time.sleep(0.02)
    raise AssertionError(f"{_taken(scene) - before} of {scene['count']} mails came")


def _words(number: int) -> tuple[str, str]:
    return f"Dear user {number}, your balance is {number}.\n" * WORDS, (
        f"<p>Dear user {number}, your balance is <b>{number}</b>.</p>\n" * WORDS
    )


def _message(number: int, file: bytes) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"] = "a@example.com", f"u{number}@example.com"
    message["Subject"] = f"Hello {number}"
    text, html = _words(number)
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    message.add_attachment(file, maintype="application", subtype="pdf", filename="report.pdf")
    return message


def _formatted(number: int, encoded: str) -> bytes:
    return _parts(number, f"Hello {number}", _words(number), encoded)


def _parts(number: int, subject: str, words: tuple[str, str], encoded: str) -> bytes:
    text, html = words
    return (
        f"From: a@example.com\r\nTo: u{number}@example.com\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Type: multipart/alternative; boundary=a\r\n"
        f"\r\n--a\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--a\r\nContent-Type: text/html\r\n\r\n{html}\r\n"
        "--a--\r\n\r\n--m\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment; filename=report.pdf\r\n\r\n{encoded}\r\n--m--\r\n"
    ).encode()


def _encoded(scene: dict[str, Any]) -> str:
    return base64.encodebytes(Path(scene["file"]).read_bytes()).decode().replace("\n", "\r\n")


def _html_only(number: int, encoded: str) -> bytes:
    return (
        f"From: a@example.com\r\nTo: u{number}@example.com\r\nSubject: Hello {number}\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/mixed; boundary=zz\r\n\r\n--zz\r\nContent-Type: text/html\r\n\r\n"
        + f"<p>Dear user {number}</p>"
        * WORDS
        + "\r\n--zz\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment; filename=att.bin\r\n\r\n{encoded}\r\n--zz--\r\n"
    ).encode()


SUBJECT = "Hello {{ id }}"
TEXT = "{% for _ in range(words) %}Dear user {{ id }}, your balance is {{ id }}.\n{% endfor %}"
HTML = "{% for _ in range(words) %}<p>Dear user {{ id }}, your balance is <b>{{ id }}</b>.</p>\n{% endfor %}"


def _rendered() -> Callable[[int, str], bytes]:
    import jinja2

    subject, text = (jinja2.Environment().from_string(each) for each in (SUBJECT, TEXT))
    html = jinja2.Environment(autoescape=True).from_string(HTML)

    def message(number: int, encoded: str) -> bytes:
        names = {"id": number, "words": WORDS}
        words = text.render(names).replace("\n", "\r\n"), html.render(names).replace("\n", "\r\n")
        return _parts(number, subject.render(names), words, encoded)

    return message


def smtplib_once(formatter: Callable[[], Callable[[int, str], bytes]]) -> Any:
    def contender(scene: dict[str, Any]) -> Iterator[None]:
        import smtplib

        before = _taken(scene)
        message = formatter()
        yield
        encoded = _encoded(scene)
        with smtplib.SMTP("127.0.0.1", scene["port"]) as client:
            for number in range(scene["count"]):
                client.sendmail("a@example.com", [f"u{number}@example.com"], message(number, encoded))
        _all_came(scene, before)

    return contender


def aiosmtplib_16(scene: dict[str, Any]) -> Iterator[None]:
    import aiosmtplib

    before = _taken(scene)
    file = Path(scene["file"]).read_bytes()
    yield

    async def main() -> None:
        numbers = iter(range(scene["count"]))

        async def worker() -> None:
            async with aiosmtplib.SMTP(hostname="127.0.0.1", port=scene["port"], start_tls=False) as client:
                for number in numbers:
                    await client.send_message(_message(number, file))

        await asyncio.gather(*(worker() for _ in range(16)))

    asyncio.run(main())
    _all_came(scene, before)


def _connect(scene: dict[str, Any]) -> None:
    extra = {"disable_ssl": True, "disable_tls": True, "from_email": "a@example.com"}
    value = {"conn_type": "smtp", "host": "127.0.0.1", "port": scene["port"], "extra": extra}
    os.environ["AIRFLOW_CONN_SMTP_DEFAULT"] = json.dumps(value)
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()


def hook_per_mail(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene)
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    before = _taken(scene)
    yield
    for number in range(scene["count"]):
        with SmtpHook("smtp_default") as hook:
            hook.send_email_smtp(
                to=f"u{number}@example.com",
                subject=f"Hello {number}",
                html_content=_words(number)[1],
                files=[scene["file"]],
            )
    _all_came(scene, before)


def operator_per_mail(scene: dict[str, Any]) -> Iterator[None]:
    _connect(scene)
    from airflow.providers.smtp.operators.smtp import EmailOperator

    before = _taken(scene)
    yield
    for number in range(scene["count"]):
        EmailOperator(
            task_id="t",
            to=f"u{number}@example.com",
            from_email="a@example.com",
            subject=f"Hello {number}",
            html_content=_words(number)[1],
            files=[scene["file"]],
        ).execute({})
    _all_came(scene, before)


def batch(concurrency: int) -> Any:
    def contender(scene: dict[str, Any]) -> Iterator[None]:
        _connect(scene)
        from flowrunner_provider.email.operators import EmailBatchOperator
        from tests.support.context import FileStateStore, execute, make_context

        folder = Path(tempfile.mkdtemp())
        (folder / "people.csv").write_text(
            "id,email\n" + "".join(f"{n},u{n}@example.com\n" for n in range(scene["count"]))
        )
        operator = EmailBatchOperator(
            task_id="t",
            recipients=str(folder / "people.csv"),
            subject=SUBJECT,
            text=TEXT,
            html=HTML,
            template_context={"words": WORDS},
            attachments=[scene["file"]],
            concurrency=concurrency,
            report=str(folder / "report.jsonl"),
        )
        context = make_context(operator, state=FileStateStore(folder / "state"))
        before = _taken(scene)
        yield
        result = execute(operator, context)
        assert result["sent"] == scene["count"]
        _all_came(scene, before)

    return contender


ONCE, SIXTEEN = "smtplib, one connection, encoded once", "aiosmtplib, 16 connections"
TITLE = "personalised mails with a 20 KiB attachment"
WORKLOADS = {
    "postfix": Workload(
        title=f"2,000 {TITLE}",
        contenders={
            ONCE: smtplib_once(lambda: _html_only),
            "email.send_batch": batch(4),
            "smtplib, Jinja": smtplib_once(_rendered),
            "SmtpHook per mail": hook_per_mail,
            "EmailOperator per mail": operator_per_mail,
        },
        reference=ONCE,
        scene=postfix,
    ),
    "bare": Workload(
        title=f"2,000 {TITLE}, to a sink that costs nothing",
        contenders={
            ONCE: smtplib_once(lambda: _formatted),
            "email.send_batch": batch(4),
            "smtplib, Jinja": smtplib_once(_rendered),
        },
        reference=ONCE,
        scene=bare,
    ),
    "latency": Workload(
        title=f"200 {TITLE}, 20 ms of round trip",
        contenders={SIXTEEN: aiosmtplib_16, "email.send_batch, 16 connections": batch(16)},
        reference=SIXTEEN,
        scene=latency,
    ),
}

if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
