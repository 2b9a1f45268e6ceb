"""2,000 personalised mails with a 20 KiB attachment, and 200 of them over a line with 20 ms of round trip.

Every contender sends to the same sink: a bare SMTP server on uvloop in a process of its own, which reads each
message to its final dot and counts it. It offers no PIPELINING. Ours renders Jinja templates for each mail, keeps
its ledger on the disk and writes a report; the references format one string and keep nothing.
``FLOWRUNNER_BENCH=latency`` plays the second scene.
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
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from tests.benchmarks.harness import Workload

LATENCY = os.environ.get("FLOWRUNNER_BENCH") == "latency"
COUNT = 200 if LATENCY else 2_000
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
            self.transport.write(b"250-sink\r\n250-8BITMIME\r\n250 SIZE 50000000\r\n")
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
def scene() -> Iterator[dict[str, Any]]:
    from tests.support.chaos_proxy import ChaosProxy, Toxics

    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as stack:
        (Path(home) / "report.pdf").write_bytes(os.urandom(20 * 1024))
        server = subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE, text=True)
        stack.callback(server.wait)
        stack.callback(server.terminate)
        assert server.stdout is not None
        sink = port = int(server.stdout.readline())
        if LATENCY:
            proxy = stack.enter_context(ChaosProxy("127.0.0.1", sink))
            proxy.toxics = Toxics(latency=0.01)
            port = proxy.port
        yield {"port": port, "sink": sink, "file": str(Path(home) / "report.pdf")}


def _taken(scene: dict[str, Any]) -> int:
    import smtplib

    with smtplib.SMTP("127.0.0.1", scene["sink"]) as client:
        return int(client.docmd("VRFY")[1])


def _all_came(scene: dict[str, Any], before: int) -> None:
    for _ in range(100):
        if _taken(scene) - before == COUNT:
            return
        time.sleep(0.02)
    raise AssertionError(f"{_taken(scene) - before} of {COUNT} mails came")


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
    text, html = _words(number)
    return (
        f"From: a@example.com\r\nTo: u{number}@example.com\r\nSubject: Hello {number}\r\nMIME-Version: 1.0\r\n"
        f"Content-Type: multipart/mixed; boundary=m\r\n\r\n--m\r\nContent-Type: multipart/alternative; boundary=a\r\n"
        f"\r\n--a\r\nContent-Type: text/plain\r\n\r\n{text}\r\n--a\r\nContent-Type: text/html\r\n\r\n{html}\r\n"
        "--a--\r\n\r\n--m\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n"
        f"Content-Disposition: attachment; filename=report.pdf\r\n\r\n{encoded}\r\n--m--\r\n"
    ).encode()


def _encoded(scene: dict[str, Any]) -> str:
    return base64.encodebytes(Path(scene["file"]).read_bytes()).decode().replace("\n", "\r\n")


def smtplib_once(scene: dict[str, Any]) -> Iterator[None]:
    import smtplib

    before = _taken(scene)
    yield
    encoded = _encoded(scene)
    with smtplib.SMTP("127.0.0.1", scene["port"]) as client:
        for number in range(COUNT):
            client.sendmail("a@example.com", [f"u{number}@example.com"], _formatted(number, encoded))
    _all_came(scene, before)


def aiosmtplib_16(scene: dict[str, Any]) -> Iterator[None]:
    import aiosmtplib

    before = _taken(scene)
    file = Path(scene["file"]).read_bytes()
    yield

    async def main() -> None:
        numbers = iter(range(COUNT))

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
    for number in range(COUNT):
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
    for number in range(COUNT):
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
        (folder / "people.csv").write_text("id,email\n" + "".join(f"{n},u{n}@example.com\n" for n in range(COUNT)))
        operator = EmailBatchOperator(
            task_id="t",
            recipients=str(folder / "people.csv"),
            subject="Hello {{ id }}",
            text="{% for _ in range(words) %}Dear user {{ id }}, your balance is {{ id }}.\n{% endfor %}",
            html="{% for _ in range(words) %}<p>Dear user {{ id }}, your balance is <b>{{ id }}</b>.</p>\n{% endfor %}",
            template_context={"words": WORDS},
            attachments=[scene["file"]],
            concurrency=concurrency,
            report=str(folder / "report.jsonl"),
        )
        context = make_context(operator, state=FileStateStore(folder / "state"))
        before = _taken(scene)
        yield
        result = execute(operator, context)
        assert result["sent"] == COUNT
        _all_came(scene, before)

    return contender


WORKLOAD = Workload(
    title=f"{COUNT:,} personalised mails with a 20 KiB attachment" + (", 20 ms of round trip" if LATENCY else ""),
    contenders={
        "aiosmtplib, 16 connections": aiosmtplib_16,
        "email.send_batch, 16 connections": batch(16),
    }
    if LATENCY
    else {
        "smtplib, one connection, encoded once": smtplib_once,
        "email.send_batch": batch(4),
        "SmtpHook per mail": hook_per_mail,
        "EmailOperator per mail": operator_per_mail,
    },
    reference="aiosmtplib, 16 connections" if LATENCY else "smtplib, one connection, encoded once",
    scene=scene,
)

if __name__ == "__main__":
    import uvloop

    uvloop.run(_serve())
