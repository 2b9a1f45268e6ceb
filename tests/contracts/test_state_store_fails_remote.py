"""The task state store fails at any of its calls, and the far side is a service that counts what it gets."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.chat import stage as chat
from tests.contracts.test_state_store_fails import at_any_call
from tests.http.test_batch_faults import Stage as BatchStage
from tests.sms import stage as sms
from tests.support.chat_platforms import GoogleChatFake, TeamsFake
from tests.support.context import FileStateStore, execute, make_context
from tests.support.http_server import HttpServer, Reply, json_reply
from tests.support.sms_vendors import TwilioFake, VonageFake

pytestmark = pytest.mark.faults

PEOPLE = [f"+4915550{number:04}" for number in range(2)]
ITEMS = 3


@dataclass(frozen=True)
class Scene:
    """One task instance in a folder of its own, and its own corner of the far side."""

    action: str
    folder: Path
    number: int
    connection: str
    path: str = ""


def run(scene: Scene, store: dict[str, Any]) -> Any:
    """One attempt, in a process of its own."""
    for conn_id in ("SMS_DEFAULT", "CHAT_DEFAULT", "TEAMS_DEFAULT", "HTTP_DEFAULT"):
        os.environ[f"AIRFLOW_CONN_{conn_id}"] = scene.connection
    operator = OPERATORS[scene.action](scene)
    return execute(operator, make_context(operator, state=FileStateStore(scene.folder / "state", **store)))


def texted(scene: Scene) -> Any:
    from flowrunner_provider.sms.operators import SmsSendOperator

    return SmsSendOperator(task_id="t", to=PEOPLE, body="late", concurrency=1)


def carded(scene: Scene) -> Any:
    from flowrunner_provider.chat.operators import TeamsPostOperator

    return TeamsPostOperator(task_id="t", text="late")


def posted(scene: Scene) -> Any:
    from flowrunner_provider.chat.operators import ChatPostOperator

    return ChatPostOperator(task_id="t", text="late")


def paid(scene: Scene) -> Any:
    from flowrunner_provider.http.operators import HttpBatchOperator

    request = {"method": "POST", "endpoint": f"{scene.path}/pay", "json": {"id": "{item}"}}
    return HttpBatchOperator(
        task_id="t", items=list(range(ITEMS)), request=request, save_to=f"{scene.folder}/rows.jsonl", concurrency=1
    )


def asked(scene: Scene) -> Any:
    from flowrunner_provider.http import batch
    from flowrunner_provider.http.operators import HttpBatchOperator

    batch._LINES_PER_WRITE = 2
    return HttpBatchOperator(
        task_id="t",
        items=list(range(ITEMS)),
        request={"endpoint": f"{scene.path}/{{item}}"},
        save_to=f"{scene.folder}/rows.jsonl",
        concurrency=1,
    )


def paged(scene: Scene) -> Any:
    from flowrunner_provider.http import pagination
    from flowrunner_provider.http.operators import HttpPaginateOperator

    pagination.CHECKPOINT_SECONDS = 0.0
    return HttpPaginateOperator(
        task_id="t", endpoint=f"{scene.path}/rows", save_to=f"{scene.folder}/rows.jsonl", strategy="offset"
    )


OPERATORS: dict[str, Callable[[Scene], Any]] = {
    "sms twilio": texted,
    "sms vonage": texted,
    "chat teams": carded,
    "chat google_chat": posted,
    "http.batch POST": paid,
    "http.batch GET": asked,
    "http.paginate": paged,
}


@pytest.fixture
def numbers() -> Iterator[int]:
    return count(1)


@pytest.mark.parametrize(("name", "fake"), [("twilio", TwilioFake), ("vonage", VonageFake)])
def test_text_messages(http_server: HttpServer, tmp_path: Path, numbers: Iterator[int], name: str, fake: Any) -> None:
    vendor = fake()
    vendor.install(http_server)

    def account(number: int) -> str:
        return f"AC{number:032x}" if name == "twilio" else f"key{number}"

    def make(what: str) -> Scene:
        number = next(numbers)
        text = sms.connection(name, http_server.url, account(number), vendor, rate_limit=None)
        return Scene(f"sms {name}", tmp_path / what, number, text)

    def once(scene: Scene, finished: bool) -> None:
        times = Counter(each.number for each in vendor.taken(account(scene.number)))
        assert max(times.values(), default=0) <= 1, "nobody has it twice"
        assert set(times) == set(PEOPLE) or not finished, "a success, and somebody has none"

    at_any_call(make, run, once, may_stop=name == "vonage")


@pytest.mark.parametrize(("name", "fake"), [("teams", TeamsFake), ("google_chat", GoogleChatFake)])
def test_chat(http_server: HttpServer, tmp_path: Path, numbers: Iterator[int], name: str, fake: Any) -> None:
    platform = fake()
    platform.install(http_server)

    def make(what: str) -> Scene:
        number = next(numbers)
        return Scene(f"chat {name}", tmp_path / what, number, chat.connection(name, http_server.url, f"C{number}"))

    def once(scene: Scene, finished: bool) -> None:
        messages = len(platform.posted(f"C{scene.number}"))
        assert messages == 1 or (messages == 0 and not finished)

    at_any_call(make, run, once, may_stop=name == "teams")


@pytest.mark.parametrize("action", ["http.batch POST", "http.batch GET"])
def test_a_batch_of_requests(http_server: HttpServer, tmp_path: Path, action: str) -> None:
    stage = BatchStage(http_server, tmp_path / "stage")
    (tmp_path / "stage").mkdir()
    stage.key_header = None
    connection = json.dumps({"conn_type": "http", "host": http_server.url})

    def make(what: str) -> Scene:
        number = stage.scene().number
        return Scene(action, tmp_path / what, number, connection, f"/{number}")

    def each_once(scene: Scene, finished: bool) -> None:
        times = Counter(effect.json()["id"] for effect in stage.effects[scene.number].effects)
        assert set(times.values()) <= {1}, "nothing happens twice"
        if finished:
            assert set(times) == (set(range(ITEMS)) if "POST" in action else set())
            rows = [json.loads(line) for line in (scene.folder / "rows.jsonl").read_text().splitlines()]
            assert sorted(row["index"] for row in rows) == list(range(ITEMS))

    at_any_call(make, run, each_once, may_stop="POST" in action)


def test_pages(http_server: HttpServer, tmp_path: Path) -> None:
    rows = [{"id": number} for number in range(9)]

    def page(request: Any) -> Reply:
        start = int(request.query.get("offset", ["0"])[0])
        return json_reply(rows[start : start + 4])

    http_server.route("GET", "/rows", page)
    connection = json.dumps({"conn_type": "http", "host": http_server.url})

    def every_row_once(scene: Scene, finished: bool) -> None:
        assert finished
        assert [json.loads(line) for line in (scene.folder / "rows.jsonl").read_text().splitlines()] == rows

    at_any_call(
        lambda what: Scene("http.paginate", tmp_path / what, 0, connection), run, every_row_once, may_stop=False
    )
