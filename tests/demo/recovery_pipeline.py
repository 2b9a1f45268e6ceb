"""A stand-in for the real DAG: the same steps, places and failpoints in plain Python tasks."""

from __future__ import annotations

import csv
import json
import os
import smtplib
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from datetime import timedelta
from email.message import EmailMessage
from http.client import HTTPException
from pathlib import Path

from airflow.sdk import Connection, dag, task

from flowrunner_provider.core.failpoints import failpoint
from flowrunner_provider.core.retry import pause


def folder() -> Path:
    return Path(os.environ["FLOWRUNNER_DEMO_DIR"]) / "staging"


def get_page(url: str, token: str) -> dict:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            pause(float(error.headers["Retry-After"]))
        except (OSError, HTTPException):
            continue


@dag(
    dag_id="recovery_pipeline",
    schedule=None,
    default_args={"retries": 5, "retry_delay": timedelta(seconds=1)},
)
def recovery_pipeline():
    @task
    def fetch():
        conn = Connection.get("demo_api")
        work, state = folder() / "airports.jsonl.part", folder().parent / "fetch.json"
        done = json.loads(state.read_text()) if state.exists() else {"cursor": "", "bytes": 0}
        with work.open("ab") as out:
            out.truncate(done["bytes"])
            while done["cursor"] is not None:
                page = get_page(f"{conn.host}:{conn.port}/v1/airports?cursor={done['cursor']}", conn.password)
                for record in page["data"]:
                    out.write(json.dumps(record).encode() + b"\n")
                out.flush()
                done = {"cursor": page["next_cursor"], "bytes": out.tell()}
                state.write_text(json.dumps(done))
                failpoint("http.paginate.after_page")
        work.rename(folder() / "airports.jsonl")

    @task
    def stage():
        records = [json.loads(line) for line in (folder() / "airports.jsonl").open()]
        part = folder() / "airports.csv.part"
        with part.open("w", newline="") as out:
            writer = csv.DictWriter(out, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        part.rename(folder() / "airports.csv")

    @task
    def load():
        with closing(sqlite3.connect(Connection.get("demo_db").host)) as db:
            db.execute("CREATE TABLE IF NOT EXISTS airports (iata TEXT PRIMARY KEY, name TEXT)")
            with (folder() / "airports.csv").open(newline="") as rows:
                pairs = [(row["iata"], row["name"]) for row in csv.DictReader(rows)]
            db.executemany("INSERT OR IGNORE INTO airports VALUES (?, ?)", pairs)
            failpoint("sql.load.before_commit")
            db.commit()
            failpoint("sql.load.after_commit")

    @task
    def report():
        sent = folder().parent / "report.sent"
        if sent.exists():
            return
        conn = Connection.get("demo_smtp")
        mail = EmailMessage()
        mail["From"], mail["To"], mail["Subject"] = "flowrunner@example.com", "team@example.com", "Airports"
        mail.set_content("All airports are attached.")
        mail.add_attachment(
            (folder() / "airports.csv").read_bytes(), maintype="text", subtype="csv", filename="airports.csv"
        )
        with smtplib.SMTP(conn.host, conn.port) as client:
            client.send_message(mail)
        sent.touch()
        failpoint("email.send.after_confirm")

    @task
    async def archive():
        import asyncssh

        conn = Connection.get("demo_sftp")
        known = asyncssh.import_known_hosts(f"[{conn.host}]:{conn.port} {conn.extra_dejson['host_key']}\n")
        async with (
            asyncssh.connect(
                conn.host, conn.port, username=conn.login, password=conn.password, known_hosts=known
            ) as ssh,
            ssh.start_sftp_client() as sftp,
        ):
            await sftp.put(str(folder() / "airports.csv"), "/archive/airports.csv.part")
            failpoint("files.copy.before_rename")
            await sftp.posix_rename("/archive/airports.csv.part", "/archive/airports.csv")

    fetch() >> stage() >> load() >> report() >> archive()


recovery_pipeline()
