"""``email.send_report``: what the mailbox holds, read back by the standard library, openpyxl and csv."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from flowrunner_provider.core.errors import (
    ConfigError,
    ConnectionLost,
    FlowRunnerError,
    MissingExtra,
    OutcomeUnknown,
    PartialFailure,
    PathEscape,
    Rejected,
)
from tests.email.support import connect
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import Outcome, attempt, kill_at, overlaps, random_kills, trace, zombies
from tests.support.postgres import Postgres
from tests.support.servers import free_port
from tests.support.smtp_sink import AfterData, Mail, SmtpSink

EVIL = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\tx",
    "<script>alert(1)</script>",
    'a "b" & c',
    "{{ 7 * 7 }}",
]
KILLS = int(os.environ.get("FLOWRUNNER_KILLS", "4"))


@dataclass(frozen=True)
class Scene:
    """One task, its database, and the mailbox that it sends to."""

    directory: Path
    mailbox: Path
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def state(self) -> FileStateStore:
        return FileStateStore(self.directory / "state")

    @property
    def kept(self) -> list[Path]:
        """What is left on the worker's disk."""
        return [path for path in (self.directory / "airflow" / "flowrunner" / "reports").rglob("*") if path.is_file()]

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.directory / "shop.db")) as database:
            for statement in statements:
                database.execute(statement)
            database.commit()

    def mails(self) -> list[Mail]:
        mine = f"Subject: {self.directory.name}\r\n".encode()
        return [
            Mail("", (), path.read_bytes()) for path in sorted(self.mailbox.glob("*.eml")) if mine in path.read_bytes()
        ]


def send(scene: Scene, **more: Any) -> Any:
    """One attempt."""
    from flowrunner_provider.reports.operators import SqlToEmailOperator

    os.environ["AIRFLOW_HOME"] = str(scene.directory / "airflow")
    os.environ["AIRFLOW_CONN_SHOP"] = json.dumps({"conn_type": "sqlite", "host": str(scene.directory / "shop.db")})
    arguments: dict[str, Any] = {
        "task_id": "task", "timeout": "30s", "conn_id": "shop", "sql": "SELECT * FROM orders ORDER BY id",
        "to": ["a@example.com", "b@example.com"], "subject": scene.directory.name, "html": "<p>Good morning</p>",
        **scene.arguments, **more,
    }  # fmt: skip
    return execute(SqlToEmailOperator(**arguments), make_context(state=scene.state))


@pytest.fixture
def scenes(tmp_path: Path, smtp_sink: SmtpSink) -> Callable[..., Scene]:
    connect(smtp_sink)
    numbers = itertools.count()

    def make(rows: int = 3, **arguments: Any) -> Scene:
        scene = Scene(tmp_path / f"scene-{next(numbers)}", smtp_sink.directory, arguments)
        scene.directory.mkdir()
        scene.run("CREATE TABLE orders (id INTEGER, name TEXT, total REAL, note TEXT)")
        with closing(sqlite3.connect(scene.directory / "shop.db")) as database:
            values = [(n, EVIL[n % len(EVIL)], n / 4, None if n % 2 else "ä") for n in range(rows)]
            database.executemany("INSERT INTO orders VALUES (?, ?, ?, ?)", values)
            database.commit()
        return scene

    return make


def body(mail: Mail, kind: str = "html") -> str:
    part = mail.message.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def attached(mail: Mail) -> tuple[str, str, bytes]:
    (part,) = mail.message.iter_attachments()
    return str(part.get_filename()), part.get_content_type(), part.get_payload(decode=True)  # type: ignore[return-value]


def test_a_table_in_the_mail(scenes: Callable[..., Scene]) -> None:
    scene = scenes(len(EVIL))
    result = send(scene)
    (mail,) = scene.mails()
    assert result == {
        "sent": True, "rows": 8, "delivered": "inline", "message_id": mail.message["Message-ID"], "accepted": 2,
        "unknown": 0,
    }  # fmt: skip
    html = body(mail)
    assert "<p>Good morning</p>" in html
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html
    assert "border-collapse: collapse" in html.partition("<tr>")[0]
    assert "text-align: right" in html
    assert "<style" not in html
    lines = [line.split("\t") for line in body(mail, "plain").replace("\r\n", "\n").split("\n")]
    assert ["id", "name", "total", "note"] in lines
    assert not scene.kept
    assert send(scene) == result
    assert len(scene.mails()) == 1


def test_a_long_table_is_attached_instead(scenes: Callable[..., Scene]) -> None:
    scene = scenes(12)
    assert send(scene, threshold=11, attachment_name="orders")["delivered"] == "attached"
    (mail,) = scene.mails()
    name, kind, data = attached(mail)
    assert (name, kind) == ("orders.csv", "text/csv")
    assert "12 rows are in the file orders.csv" in body(mail)
    assert "<table" not in body(mail)
    assert len(list(csv.reader(io.StringIO(data.decode("utf-8-sig"))))) == 13


def test_csv_is_harmless_for_spreadsheets_unless_asked(scenes: Callable[..., Scene]) -> None:
    """S14."""
    for escape in (True, False):
        scene = scenes(len(EVIL))
        send(scene, format="csv", escape_formulas=escape)
        rows = list(csv.DictReader(io.StringIO(attached(scene.mails()[0])[2].decode("utf-8-sig"), newline="")))
        names = [row["name"] for row in rows]
        assert names == ([f"'{name}" if name[0] in "=+-@\t" else name for name in EVIL] if escape else EVIL)
        assert [row["total"] for row in rows][:3] == ["0.0", "0.25", "0.5"]


def test_excel_holds_values_and_no_formulas(scenes: Callable[..., Scene]) -> None:
    """S14: what looks like a formula is text."""
    scene = scenes(len(EVIL))
    send(scene, format="xlsx", attachment_name="orders")
    name, kind, data = attached(scene.mails()[0])
    assert name == "orders.xlsx"
    assert kind == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    sheet: Any = openpyxl.load_workbook(io.BytesIO(data)).active
    rows = list(sheet.iter_rows())
    assert [cell.value for cell in rows[0]] == ["id", "name", "total", "note"]
    assert [row[1].value for row in rows[1:]] == EVIL
    assert {row[1].data_type for row in rows[1:]} == {"s"}
    assert [row[2].value for row in rows[1:4]] == [0, 0.25, 0.5]
    assert [row[3].value for row in rows[1:4]] == ["ä", None, "ä"]


@pytest.mark.backend
def test_types_of_a_real_database(scenes: Callable[..., Scene], postgres: Postgres) -> None:
    scene = scenes()
    at = postgres.database()
    value = {"conn_type": "postgres", "host": at.host, "port": at.port, "login": at.user, "password": at.password}
    os.environ["AIRFLOW_CONN_WAREHOUSE"] = json.dumps({**value, "schema": at.name})
    sql = (
        "SELECT 1::int AS i, 12.50::numeric AS d, 12345678901234567890::numeric AS big, date '2026-01-31' AS day, "
        "timestamp '2026-01-31 10:20:30' AS t, timestamptz '2026-01-31 10:20:30+00' AS tz, true AS b, "
        "'{\"a\": 1}'::jsonb AS j, NULL::text AS n, date '1850-01-01' AS old, %s::text AS p"
    )
    send(scene, conn_id="warehouse", sql=sql, parameters=["=x"], format="xlsx")
    sheet: Any = openpyxl.load_workbook(io.BytesIO(attached(scene.mails()[0])[2])).active
    found = dict(zip(*([cell.value for cell in row] for row in sheet.iter_rows()), strict=True))
    assert (found["i"], found["d"], found["b"], found["n"], found["p"]) == (1, 12.5, True, None, "=x")
    assert found["big"] == "12345678901234567890"
    assert str(found["day"]) == "2026-01-31 00:00:00"
    assert str(found["t"]) == "2026-01-31 10:20:30"
    assert found["old"] == "1850-01-01"
    assert str(found["tz"]).startswith("2026-01-31T10:20:30") or "2026-01-31" in str(found["tz"])
    assert json.loads(found["j"]) == {"a": 1}


def test_no_rows(scenes: Callable[..., Scene]) -> None:
    scene = scenes(0, skip_if_empty=True)
    assert send(scene) == {
        "sent": False, "rows": 0, "delivered": "nothing", "message_id": None, "accepted": 0, "unknown": 0,
    }  # fmt: skip
    assert not scene.mails()
    assert not scene.kept
    for kind in ("html_table", "csv", "xlsx"):
        scene = scenes(0, format=kind)
        assert send(scene)["sent"]
        assert len(scene.mails()) == 1


def test_a_style_of_ones_own(scenes: Callable[..., Scene]) -> None:
    scene = scenes()
    send(scene, style="table.report td { color: teal }")
    assert "color: teal" in body(scene.mails()[0])
    assert "border-collapse" not in body(scene.mails()[0])


def test_the_same_file_each_time(scenes: Callable[..., Scene], tmp_path: Path) -> None:
    from flowrunner_provider.data.dataset import Dataset
    from flowrunner_provider.reports.sheet import write_xlsx

    (tmp_path / "rows.jsonl").write_text('{"a": 1, "b": "x"}\n' * 100)
    dataset = Dataset(
        path=str(tmp_path / "rows.jsonl"), format="jsonl", rows=100, columns={"a": "integer", "b": "string"}, bytes=-1,
        preview=[],
    )  # fmt: skip
    for name in ("1", "2"):
        write_xlsx(dataset, tmp_path / f"{name}.xlsx", lambda size: None)
        time.sleep(1.1)  # the clock of a zip ticks in seconds
    assert (tmp_path / "1.xlsx").read_bytes() == (tmp_path / "2.xlsx").read_bytes()


def test_too_large_is_found_before_anything_is_sent(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    scene = scenes(20_000)
    for kind in ("csv", "xlsx"):
        with pytest.raises(ConfigError) as caught:
            send(scene, format=kind, max_total_size=20_000)
        assert caught.value.field == "max_total_size"
    assert smtp_sink.sessions == 0


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"format": "pdf"}, ConfigError), ({"on_unknown": "maybe"}, ConfigError), ({"threshold": -1}, ConfigError),
        ({"threshold": "7"}, ConfigError), ({"max_total_size": 0}, ConfigError), ({"sql": " "}, ConfigError),
        ({"sql": "SELECT * FROM nothing"}, FlowRunnerError), ({"sql": "DELETE FROM orders"}, FlowRunnerError),
        ({"sql": "SELECT 1; SELECT 2"}, FlowRunnerError), ({"conn_id": "nowhere"}, ConfigError),
        ({"smtp_conn_id": "nowhere"}, ConfigError), ({"to": "nobody"}, ConfigError), ({"to": None}, ConfigError),
        ({"subject": "a\nb"}, ConfigError), ({"attachment_name": "../x"}, PathEscape),
        ({"from_email": "x"}, ConfigError),
    ],
)  # fmt: skip
def test_bad_input_is_refused_before_anything_is_sent(
    scenes: Callable[..., Scene], smtp_sink: SmtpSink, changes: dict[str, Any], kind: type[FlowRunnerError]
) -> None:
    scene = scenes()
    with pytest.raises(kind) as caught:
        send(scene, **changes)
    assert caught.value.remedy
    assert smtp_sink.sessions == 0


def test_a_missing_package_and_no_server(scenes: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xlsxwriter", None)
    with pytest.raises(MissingExtra, match=r"\[xlsx\]"):
        send(scenes(), format="xlsx")
    smtp = json.loads(os.environ["AIRFLOW_CONN_SMTP_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps({**smtp, "port": free_port()}))
    with pytest.raises(ConnectionLost):
        send(scenes())


# Retries


def test_a_retry_mails_what_the_first_attempt_saw(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    scene = scenes(on_unknown="resend")
    smtp_sink.after_data = [AfterData.DROP]
    with pytest.raises(OutcomeUnknown):
        send(scene)
    scene.run("DELETE FROM orders", "INSERT INTO orders VALUES (99, 'later', 0, '')")
    assert send(scene)["rows"] == 3
    first, second = scene.mails()
    assert first.data == second.data
    assert not scene.kept


def test_refused_for_now_get_the_same_report_later(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    scene = scenes(format="csv")
    smtp_sink.refuse = {"b@example.com": "451 4.7.1 later"}
    with pytest.raises(PartialFailure):
        send(scene)
    scene.run("DELETE FROM orders")
    smtp_sink.refuse = {}
    assert send(scene)["accepted"] == 2
    assert len({mail.data for mail in scene.mails()}) == 1
    assert [mail.recipients for mail in smtp_sink.mails()] == [("a@example.com",), ("b@example.com",)]


def test_before_anything_was_sent_another_machine_asks_again(scenes: Callable[..., Scene], smtp_sink: SmtpSink) -> None:
    scene = scenes()
    smtp_sink.refuse = dict.fromkeys(["a@example.com", "b@example.com"], "550 5.1.1 unknown")
    with pytest.raises(Rejected):
        send(scene)
    shutil.rmtree(scene.directory / "airflow")
    scene.run("DELETE FROM orders WHERE id > 0")
    smtp_sink.refuse = {}
    assert send(scene)["rows"] == 1


@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_on_another_machine_no_other_report_is_sent(
    scenes: Callable[..., Scene], smtp_sink: SmtpSink, choice: str
) -> None:
    scene = scenes(on_unknown=choice)
    smtp_sink.after_data = [AfterData.DROP]
    with pytest.raises(OutcomeUnknown):
        send(scene)
    shutil.rmtree(scene.directory / "airflow")
    if choice == "skip":
        assert (send(scene)["unknown"], send(scene)["rows"]) == (2, 3)
    else:
        with pytest.raises(OutcomeUnknown, match="not on this machine") as caught:
            send(scene)
        assert not caught.value.reconcilable
    assert len(scene.mails()) == 1


PASSED = [
    "email.send_report.before_folder", "email.send_report.after_folder", "sql.export.after_connect",
    "sql.export.before_publish", "sql.export.after_publish", "checkpoint.report.before_save",
    "checkpoint.report.after_save", "email.send_report.before_write", "email.send_report.after_write",
    "email.send.before_data", "email.send.after_data", "effect.email.send.after_confirm",
    "email.send_report.before_remove", "email.send_report.after_remove", "run.before_finish", "run.after_finish",
]  # fmt: skip
IN_DOUBT = {"effect.email.send.after_intent", "email.send.before_data", "email.send.after_data",
            "effect.email.send.after_act"}  # fmt: skip

BRIEFLY = {
    "stop": ["sql.export.after_publish", "email.send_report.after_write", "email.send.after_data",
             "email.send_report.before_remove"],
    "resend": ["email.send.after_data"],
    "skip": ["email.send.before_data"],
}  # fmt: skip


def over(outcome: Outcome) -> bool:
    return outcome.ok or outcome.error_type == "OutcomeUnknown"


def once(scene: Scene) -> None:
    """One mail with all rows; a second one only where it was asked for, and then the same."""
    mails = scene.mails()
    copies = {mail.data for mail in mails}
    assert len(copies) <= 1
    assert len(mails) <= (2 if scene.arguments["on_unknown"] == "resend" else 1)
    if mails:
        rows = list(csv.reader(io.StringIO(attached(mails[0])[2].decode("utf-8-sig"), newline="")))
        assert [row[0] for row in rows[1:]] == [str(n) for n in range(40)]
    finished = "flowrunner" in scene.state.items()
    assert not (finished and scene.kept), "rows of a report that is sent are left"
    if finished and scene.arguments["on_unknown"] != "skip":
        assert mails, "finished without a mail"


@pytest.mark.faults
@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_killed_at_every_failpoint(scenes: Callable[..., Scene], choice: str) -> None:
    points = list(dict.fromkeys(trace(send, scenes(40, format="csv", on_unknown=choice))))
    assert set(PASSED) <= set(points)
    if KILLS <= 20:
        points = BRIEFLY[choice]
    elif choice != "stop":
        points = [point for point in points if point in IN_DOUBT]
    for point in points:
        scene = scenes(40, format="csv", on_unknown=choice)
        assert attempt(send, scene, rules=[kill_at(point)]).killed, point
        if choice != "stop":
            scene.run("DELETE FROM orders")
        outcome = attempt(send, scene, try_number=2)
        assert outcome.ok is not (choice == "stop" and point in IN_DOUBT), (point, outcome.error)
        once(scene)


@pytest.mark.faults
@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_random_kills(scenes: Callable[..., Scene], choice: str) -> None:
    report = random_kills(
        lambda: scenes(40, format="csv", on_unknown=choice), send, once, count=max(1, KILLS // 3), done=over
    )
    assert report.scenarios == max(1, KILLS // 3)


@pytest.mark.faults
@pytest.mark.parametrize("choice", ["stop", "resend", "skip"])
def test_a_zombie_mails_no_second_report(scenes: Callable[..., Scene], choice: str) -> None:
    def at(point: str) -> bool:
        return KILLS > 20 or (point.startswith("effect.") if choice == "stop" else point in BRIEFLY[choice])

    zombies(lambda: scenes(40, format="csv", on_unknown=choice), send, once, at=at, done=over)


def sent_once(scene: Scene) -> None:
    """One mail with a complete workbook, and nothing left on the worker's disk."""
    (mail,) = scene.mails()
    book = openpyxl.load_workbook(io.BytesIO(attached(mail)[2]))
    assert [row[0].value for row in book.active.iter_rows(min_row=2)] == list(range(40))
    assert not list((scene.directory / "airflow" / "flowrunner" / "reports").rglob("*"))


@pytest.mark.faults
@pytest.mark.timeout(300 if KILLS < 5 else 1800)
def test_a_zombie_mails_no_second_workbook(scenes: Callable[..., Scene]) -> None:
    """FLOWRUNNER_KILLS=5: stopped at every failpoint."""

    def at(point: str) -> bool:
        return KILLS > 4 or point in ("data.writer.before_write", "email.send_report.after_write")

    zombies(lambda: scenes(40, format="xlsx"), send, sent_once, at=at, patience=2.0)


@pytest.mark.faults
@pytest.mark.timeout(300 if KILLS < 5 else 1800)
def test_a_zombie_deletes_no_rows_of_the_attempt_that_has_taken_over(scenes: Callable[..., Scene]) -> None:
    """It goes on to its end while the newer attempt is in the middle of its work."""
    places = ("email.send_report.before_folder", "email.send_report.after_folder", "data.writer.before_open",
              "email.send_report.before_write", "effect.email.send.after_act")  # fmt: skip

    def at(point: str) -> bool:
        return point in places if KILLS > 4 else point == places[0]

    def midway(scene: Scene) -> None:
        assert len(scene.mails()) <= 1

    overlaps(lambda: scenes(40, format="xlsx"), send, sent_once, midway=midway, at=at, limit=max(4, KILLS), seed=3)


@pytest.mark.faults
def test_killed_at_the_end_and_gone_on_elsewhere(scenes: Callable[..., Scene]) -> None:
    """The mail is out and confirmed, the machine is lost: the retry knows, without the rows."""
    scene = scenes(40, format="csv", on_unknown="stop")
    assert attempt(send, scene, rules=[kill_at("effect.email.send.after_confirm")]).killed
    shutil.rmtree(scene.directory / "airflow")
    scene.run("DELETE FROM orders")
    outcome = attempt(send, scene, try_number=2)
    assert outcome.ok, outcome.error
    assert (outcome.result["rows"], outcome.result["accepted"], outcome.result["delivered"]) == (40, 2, "attached")
    once(scene)
