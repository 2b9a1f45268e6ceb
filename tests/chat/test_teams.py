"""teams.post and teams.notify: what the workflow is given."""

from __future__ import annotations

import asyncio
import json

import pytest
from airflow.triggers.callback import CallbackTrigger

from flowrunner_provider.chat.notifier import TeamsNotifier
from flowrunner_provider.chat.operators import TeamsPostOperator
from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.masking import mask
from tests.support.context import make_context
from tests.support.http_server import Reply, throttled

CANARY = "canary-database-password-7"
CARD = {"type": "AdaptiveCard", "version": "1.4", "body": [{"type": "TextBlock", "text": "ask <at>Ann</at>"}]}


def post(**how) -> TeamsPostOperator:
    return TeamsPostOperator(task_id="t", **how)


@pytest.fixture
def teams(platform):
    return platform("teams")


def test_a_card_of_parts(teams, run):
    links = {"Report": "https://reports.example.com/1"}
    result = run(post(title="Load of {{ ds }}", text="done", facts={"Rows": 5, "None": None}, links=links))
    assert result == {"platform": "Microsoft Teams", "message_id": "", "unknown": False}
    card = teams.posted[0].body
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.5")
    assert [block.get("text") for block in card["body"][:2]] == ["Load of 2026-01-02", "done"]
    assert card["body"][2] == {"type": "FactSet", "facts": [{"title": "Rows", "value": "5"}]}
    assert card["actions"] == [{"type": "Action.OpenUrl", "title": "Report", "url": links["Report"]}]
    sent = teams.server.requests[0].json()
    assert sent["type"] == "message"
    assert sent["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"


def test_a_card_of_ones_own_with_mentions(teams, run, tmp_path):
    path = tmp_path / "card.json"
    path.write_text(json.dumps(CARD))
    people = [{"name": "Ann", "id": "ann@example.com"}, {"name": "Bo", "id": "bo@example.com"}]
    for number, how in enumerate(({"card": CARD}, {"card_file": str(path)})):
        run(post(mentions=people, **how), run_id=str(number))
    first, second = (message.body for message in teams.posted)
    assert first == second
    assert first["body"][1]["text"] == "<at>Bo</at>"
    assert first["msteams"]["entities"][0] == {
        "type": "mention",
        "text": "<at>Ann</at>",
        "mentioned": {"id": "ann@example.com", "name": "Ann"},
    }


def test_a_mention_of_a_name_with_quotes_is_not_repeated(teams, run):
    name = 'Ann "the \\ Bee" Lee'
    run(post(text=f"ask <at>{name}</at>", mentions=[{"name": name, "id": "ann@example.com"}]))
    assert [block["text"] for block in teams.posted[0].body["body"]] == [f"ask <at>{name}</at>"]


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({}, "card"),
        ({"text": "x", "card": CARD}, "card"),
        ({"card": {"type": "MessageCard"}}, "card"),
        ({"card": {**CARD, "version": "1.6"}}, "card"),
        ({"card": {**CARD, "body": [{"text": "x" * 28_000}]}}, "card"),
        ({"card_file": __file__}, "card_file"),
        ({"text": "x", "links": {"x": "javascript:alert(1)"}}, "links"),
        ({"text": "x", "mentions": [{"name": "Ann"}]}, "mentions"),
        ({"text": "x", "mentions": "Ann"}, "mentions"),
        ({"text": "x", "on_unknown": "hope"}, "on_unknown"),
        ({"text": "x", "teams_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(teams, run, how, field):
    with pytest.raises(e.ConfigError) as caught:
        run(post(**how))
    assert caught.value.field == field
    assert teams.server.requests == []


def test_a_workflow_that_refuses(teams, run):
    teams.faults.append(Reply(400, b'{"error": {"code": "TriggerInputSchemaMismatch"}}'))
    with pytest.raises(e.Rejected, match="TriggerInputSchemaMismatch"):
        run(post(text="x"))
    teams.faults.append(Reply(502))
    with pytest.raises(e.OutcomeUnknown):
        run(post(text="x"), run_id="b")
    assert teams.posted == []


def context_of(**more):
    error = ValueError(f"login with\n{CANARY} failed " + "x" * 400)
    context = make_context(**{"exception": error, "params": {"p": CANARY}, **more})
    context["ti"].state = context["dag_run"].state = more.pop("state", "failed")
    return context


def facts(card):
    return {each["title"]: each["value"] for each in next(b for b in card["body"] if b["type"] == "FactSet")["facts"]}


def test_a_failure_has_its_facts_and_links(teams):
    mask([CANARY])
    TeamsNotifier(facts={"Team": "{{ dag.dag_id if dag else 'data' }}"})(context_of(try_number=2))
    card = teams.posted[0].body
    assert card["body"][0]["text"] == "Task failed: task"
    assert card["body"][0]["color"] == "attention"
    assert CANARY not in json.dumps(card)
    assert card["body"][1]["text"].startswith("login with *** failed xxx")
    assert len(card["body"][1]["text"]) == 300
    shown = facts(card)
    assert (shown["DAG"], shown["Task"], shown["Try"], shown["Error"]) == ("dag", "task", "2", "ValueError")
    assert shown["Team"] == "data"
    log = "http://airflow.test/dags/dag/runs/manual__2026-01-02T03:04:05+00:00/tasks/task"
    assert [each["url"] for each in card["actions"]] == [log, log.partition("/tasks/")[0]]


def test_kinds_and_languages(teams):
    TeamsNotifier(language="es")(context_of())
    TeamsNotifier(language="es", kind="success", show_error=False)(context_of())
    TeamsNotifier(title="Look!")(context_of(reason="task_failure"))
    titles = [message.body["body"][0]["text"] for message in teams.posted]
    assert titles == ["La tarea ha fallado: task", "La tarea ha terminado bien: task", "Look!"]
    assert "Intento" in facts(teams.posted[0].body)
    for how, field in (({"kind": "party"}, "kind"), ({"language": "fr"}, "language"), ({"facts": 5}, "facts")):
        with pytest.raises(e.ConfigError) as caught:
            TeamsNotifier(**how)(context_of())
        assert caught.value.field == field


def test_a_deadline_alert_awaits_it_in_the_triggerer(teams):
    context = {"dag_run": {"dag_id": "d", "dag_run_id": "r"}, "deadline": {"deadline_time": "2026-01-02T03:04:05Z"}}
    path = f"{TeamsNotifier.__module__}.{TeamsNotifier.__name__}"
    trigger = CallbackTrigger(path, {"context": context})

    async def states() -> list[str]:
        return [event.payload["state"] async for event in trigger.run()]

    assert asyncio.run(states()) == ["running", "success"]
    card = teams.posted[0].body
    assert card["body"][0]["text"] == "Deadline missed: d"
    assert facts(card)["Deadline"] == "2026-01-02T03:04:05Z"


def test_it_tries_again_while_nothing_was_taken(teams):
    teams.faults.extend([throttled("0"), throttled("0")])
    TeamsNotifier()(context_of())
    assert len(teams.posted) == 1
    teams.faults.append("lose")
    with pytest.raises(e.OutcomeUnknown):
        TeamsNotifier()(context_of())
    assert len(teams.posted) == 2
