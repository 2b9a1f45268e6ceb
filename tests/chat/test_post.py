"""chat.post as a DAG runs it, seen on each platform."""

from __future__ import annotations

import contextlib
import json
import os
import traceback

import pytest

from flowrunner_provider.chat.hook import chat_hook
from flowrunner_provider.chat.operators import ChatPostOperator
from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.rate_limits import pacer_for
from tests.chat.stage import SECRETS
from tests.support.chat_platforms import DiscordFake, TelegramFake
from tests.support.http_server import Reply, drop, throttled

ALL = ["teams", "google_chat", "discord", "discord_bot", "telegram", "mattermost", "mattermost_bot"]
HELPS = ["google_chat", "discord_bot", "mattermost_bot"]
BLIND = ["teams", "discord", "telegram", "mattermost"]
TEXT = 'Größe: 5 € "<b>" {{ @everyone }}'


def post(**how) -> ChatPostOperator:
    return ChatPostOperator(task_id="t", **{"text": "{% raw %}" + TEXT + "{% endraw %}", **how})


def shown(name, body) -> str:
    match name:
        case "teams":
            return body["body"][0]["text"]
        case "discord" | "discord_bot":
            return body["content"]
        case "mattermost_bot":
            return body["message"]
        case _:
            return body["text"]


@pytest.mark.parametrize("name", ALL)
def test_it_is_posted_and_the_result_has_its_id(platform, run, name):
    stage = platform(name)
    result = run(post())
    (message,) = stage.posted
    assert shown(name, message.body) == TEXT
    assert not result["unknown"]
    assert bool(result["message_id"]) == (name not in ("teams", "mattermost"))
    assert run(post()) == result
    assert len(stage.posted) == 1


@pytest.mark.parametrize("name", HELPS)
@pytest.mark.parametrize("fault", ["lose", drop()], ids=["taken", "not-taken"])
def test_a_lost_answer_where_the_platform_helps(platform, run, name, fault):
    stage = platform(name)
    stage.faults.append(fault)
    with contextlib.suppress(e.OutcomeUnknown):  # Google Chat and bots of Discord are asked again at once
        run(post())
    result = run(post())
    assert len(stage.posted) == 1
    assert result["message_id"].endswith(stage.posted[0].message_id) or "client-" in result["message_id"]


@pytest.mark.parametrize("name", BLIND)
def test_a_lost_answer_where_nobody_can_tell(platform, run, name):
    stage = platform(name)
    stage.faults.append("lose")
    for _ in range(2):
        with pytest.raises(e.OutcomeUnknown) as caught:
            run(post())
        assert not caught.value.reconcilable
    assert len(stage.posted) == 1
    assert run(post(on_unknown="skip"))["unknown"]
    assert len(stage.posted) == 1
    stage.faults.append("lose")
    with pytest.raises(e.OutcomeUnknown):
        run(post(), run_id="b")
    run(post(on_unknown="resend"), run_id="b")
    assert len(stage.posted) == 3


def test_an_id_that_google_knows_is_done(platform, run):
    stage = platform("google_chat")
    stage.faults.append("lose")
    stage.fake.requests = {}
    original = stage.fake.requests.__class__

    class Forgetful(original):
        def get(self, *_):
            return None

    stage.fake.requests = Forgetful()
    result = run(post())
    assert result["message_id"].startswith("spaces/C0TEAM1/messages/client-")
    assert len(stage.posted) == 1


def test_discord_forgets_and_then_the_user_decides(platform, run, monkeypatch):
    from dataclasses import replace

    from flowrunner_provider.chat.platforms.discord import DiscordBotGateway

    stage = platform("discord_bot", DiscordFake(memory=0.0))
    stage.faults.extend([Reply(500)] * 4)
    with pytest.raises(e.OutcomeUnknown):
        run(post())
    monkeypatch.setattr(DiscordBotGateway, "far", replace(DiscordBotGateway.far, remembers=1e-6))
    with pytest.raises(e.OutcomeUnknown, match="forgotten"):
        run(post())
    assert stage.posted == []


def test_threads_and_cards(platform, run):
    stage = platform("google_chat")
    run(post(thread_key="loads", card={"header": {"title": "x"}}))
    body = stage.posted[0].body
    assert (body["thread"], body["cardsV2"][0]["card"]) == ({"threadKey": "loads"}, {"header": {"title": "x"}})
    assert stage.server.requests[-1].query["messageReplyOption"] == ["REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD"]
    stage = platform("discord")
    run(post(thread_key="99", card={"title": "x"}), run_id="d")
    assert stage.posted[0].body["embeds"] == [{"title": "x"}]
    assert stage.posted[0].body["allowed_mentions"] == {"parse": []}
    assert stage.server.requests[-1].query == {"wait": ["true"], "thread_id": ["99"]}
    stage = platform("telegram")
    run(post(thread_key="7"), run_id="t")
    assert stage.posted[0].body["message_thread_id"] == 7
    stage = platform("mattermost_bot")
    run(post(thread_key="root", card={"title": "x"}), run_id="m")
    body = stage.posted[0].body
    assert (body["root_id"], body["props"]["attachments"]) == ("root", [{"title": "x"}])


@pytest.mark.parametrize("name", ALL)
def test_throttling_is_handed_to_airflow(platform, run, name):
    stage = platform(name)
    wait = (
        TelegramFake.error(429, "Too Many Requests: retry after 600", 600) if name == "telegram" else throttled("600")
    )
    stage.faults.append(wait)
    with pytest.raises(e.Throttled) as caught:
        run(post())
    assert 590 < caught.value.retry_after <= 600
    pacer_for.cache_clear()
    run(post())
    assert len(stage.posted) == 1


@pytest.mark.parametrize("name", ALL)
def test_secrets_are_shown_nowhere(platform, run, name, caplog):
    stage = platform(name)
    for fault in (Reply(403, b"no"), Reply(404, b"gone"), drop(), Reply(500, b"oops")):
        stage.faults.extend([fault] * 4)
        with pytest.raises(e.FlowRunnerError) as caught:
            run(post(timeout=20), run_id=str(fault))
        text = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert not [secret for secret in SECRETS if secret in text]
        stage.faults.clear()


@pytest.mark.parametrize("name", ALL)
def test_the_connection_test_posts_nothing(platform, name):
    stage = platform(name)
    ok, message = chat_hook("chat_default").test_connection()
    assert ok, message
    assert stage.posted == []
    assert not [secret for secret in SECRETS if secret in message]


@pytest.mark.parametrize("name", ["discord_bot", "telegram", "mattermost_bot"])
def test_a_wrong_token_is_told(platform, run, name, monkeypatch):
    stage = platform(name)
    value = json.loads(os.environ["AIRFLOW_CONN_CHAT_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_CHAT_DEFAULT", json.dumps({**value, "password": "canary-wrong-token-1"}))
    ok, message = chat_hook("chat_default").test_connection()
    assert not ok
    assert " -> " in message
    with pytest.raises(e.AccessDenied) as caught:
        run(post())
    assert "canary" not in str(caught.value) + message
    assert stage.posted == []


@pytest.mark.parametrize(
    ("name", "how", "field"),
    [
        ("google_chat", {"text": " "}, "text"),
        ("google_chat", {"text": "x" * 32_001}, "text"),
        ("google_chat", {"text": "ж" * 16_001}, "text"),
        ("google_chat", {"card": {"x": "y" * 33_000}}, "card"),
        ("discord", {"text": "x" * 2001}, "text"),
        ("telegram", {"text": "x" * 4097}, "text"),
        ("telegram", {"card": {"title": "x"}}, "card"),
        ("telegram", {"thread_key": "topic"}, "thread_key"),
        ("mattermost", {"text": "x" * 16_384}, "text"),
        ("mattermost", {"thread_key": "x"}, "thread_key"),
        ("teams", {"text": "x" * 27_999}, "card"),
        ("teams", {"on_unknown": "hope"}, "on_unknown"),
        ("teams", {"card": [1]}, "card"),
        ("teams", {"chat_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(platform, run, name, how, field):
    stage = platform(name)
    with pytest.raises(e.ConfigError) as caught:
        run(ChatPostOperator(task_id="t", **{"text": "x", **how}))
    assert caught.value.field == field
    assert stage.server.requests == []


@pytest.mark.parametrize(
    ("fields", "extra", "field"),
    [
        ({"conn_type": "http", "password": "x"}, {}, "platform"),
        ({"conn_type": "teams"}, {}, "password"),
        ({"conn_type": "google_chat", "password": "token"}, {}, "password"),
        ({"conn_type": "discord", "password": "http://chat.example.com/api/webhooks/1/x"}, {}, "password"),
        ({"conn_type": "discord", "password": "https://chat.example.com"}, {}, "password"),
        ({"conn_type": "discord", "password": "token"}, {}, "channel"),
        ({"conn_type": "telegram", "password": "https://x.example.com/y"}, {}, "password"),
        ({"conn_type": "mattermost", "password": "token"}, {}, "host"),
        ({"conn_type": "teams", "password": "https://x/y"}, {"retry": 3}, "retry"),
    ],
)
def test_a_connection_that_is_not_complete(run, monkeypatch, fields, extra, field):
    monkeypatch.setenv("AIRFLOW_CONN_CHAT_DEFAULT", json.dumps({**fields, "extra": {"flowrunner": extra}}))
    with pytest.raises(e.ConfigError) as caught:
        run(post())
    assert caught.value.field == field
    assert caught.value.remedy
