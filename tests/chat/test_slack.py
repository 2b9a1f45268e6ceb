"""slack.upsert as a DAG runs it, seen in the channel; the fake is driven by slack_sdk, too."""

from __future__ import annotations

import json
import lzma
import os
import time
from pathlib import Path

import pytest

from flowrunner_provider.chat.hook import FlowRunnerSlackHook
from flowrunner_provider.chat.operators import SlackUpsertOperator
from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.rate_limits import pacer_for
from tests.support.chat_platforms import SlackFake
from tests.support.http_server import Reply, drop, throttled

SPECS = Path(os.environ.get("FLOWRUNNER_SPECS") or Path(__file__).parents[3] / "shared" / "specs")
SPEC = SPECS / "slack-openapi.json.xz"
CHANNEL = "C0TEAM1"


def upsert(**how) -> SlackUpsertOperator:
    return SlackUpsertOperator(task_id="t", **{"channel": CHANNEL, "text": "running", **how})


@pytest.fixture
def slack(platform):
    return platform("slack")


def test_it_is_posted_and_a_retry_changes_nothing(slack, run):
    result = run(upsert(blocks=[{"type": "divider"}]))
    (message,) = slack.posted
    assert result == {"channel": CHANNEL, "ts": message.message_id, "updated": False, "unknown": False}
    assert (message.body["text"], message.body["blocks"]) == ("running", [{"type": "divider"}])
    run(upsert(blocks=[{"type": "divider"}]))
    assert len(slack.posted) == 1


def test_a_timeout_that_is_no_number_names_its_field(slack, run, monkeypatch):
    connection = json.loads(os.environ["AIRFLOW_CONN_SLACK_API_DEFAULT"])
    connection["extra"]["timeout"] = "soon"
    monkeypatch.setenv("AIRFLOW_CONN_SLACK_API_DEFAULT", json.dumps(connection))
    with pytest.raises(e.ConfigError) as caught:
        run(upsert())
    assert caught.value.field == "timeout"
    assert slack.server.requests == []


def test_tasks_share_a_message_by_its_key(slack, run):
    first = run(upsert(message_key="load", blocks=[{"type": "divider"}]), run_id="a")
    for number in range(10):
        run(upsert(text=f"noise {number}"), run_id=f"noise{number}")
    second = run(upsert(message_key="load", text="done"), run_id="b")
    assert (second["ts"], second["updated"]) == (first["ts"], True)
    assert (slack.posted[0].body["text"], slack.posted[0].body["blocks"]) == ("done", [])
    assert len(slack.posted) == 11


def test_a_message_and_a_reply_by_their_timestamps(slack, run):
    root = run(upsert(), run_id="root")["ts"]
    reply = run(upsert(thread_ts=root, message_key="k", text="step 1"), run_id="a")
    again = run(upsert(thread_ts=root, message_key="k", text="step 2"), run_id="b")
    assert (again["ts"], again["updated"]) == (reply["ts"], True)
    assert run(upsert(ts=root, text="done"), run_id="c")["updated"]
    assert [each.body["text"] for each in slack.posted] == ["done", "step 2"]


@pytest.mark.parametrize("key", [None, "load"])
@pytest.mark.parametrize("fault", ["lose", drop(), Reply(500), SlackFake.error("internal_error")])
def test_a_lost_answer_is_found_in_the_history(slack, run, fault, key):
    slack.faults.append(fault)
    with pytest.raises(e.OutcomeUnknown) as caught:
        run(upsert(message_key=key))
    assert caught.value.reconcilable
    result = run(upsert(message_key=key))
    assert [each.message_id for each in slack.posted] == [result["ts"]]


def test_a_history_that_cannot_be_read_is_no_proof(slack, run):
    slack.faults.append("lose")
    with pytest.raises(e.OutcomeUnknown):
        run(upsert())
    for reply in (SlackFake.error("missing_scope"), Reply(200, b"{}"), Reply(200, b'{"ok": true}')):
        slack.server.route("GET", "/api/conversations.history", reply)
        with pytest.raises(e.OutcomeUnknown):
            run(upsert())
    assert len(slack.posted) == 1
    assert run(upsert(on_unknown="skip"))["unknown"]


def test_retry_after_is_kept_to(slack, run):
    slack.faults.append(throttled("1"))
    began = time.monotonic()
    run(upsert())
    assert time.monotonic() - began >= 0.95
    slack.faults.append(throttled("600"))
    with pytest.raises(e.Throttled) as caught:
        run(upsert(), run_id="b")
    assert caught.value.retry_after == 600
    pacer_for.cache_clear()
    slack.faults.append(SlackFake.error("ratelimited"))
    run(upsert(), run_id="b")
    assert len(slack.posted) == 2


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("not_in_channel", e.AccessDenied),
        ("missing_scope", e.AccessDenied),
        ("token_revoked", e.AccessDenied),
        ("channel_not_found", e.NotFound),
        ("invalid_blocks", e.Rejected),
    ],
)
def test_what_slack_refuses(slack, run, code, error):
    slack.faults.append(SlackFake.error(code))
    with pytest.raises(error, match=code) as caught:
        run(upsert())
    assert caught.value.remedy
    assert slack.posted == []


def test_the_connection_test(slack, monkeypatch):
    ok, message = FlowRunnerSlackHook("slack_api_default").test_connection()
    assert (ok, message) == (True, "Slack knows the token as 'airflow' of 'data'")
    value = json.loads(os.environ["AIRFLOW_CONN_SLACK_API_DEFAULT"])
    for password, text in (("xoxb-canary-wrong-1", "invalid_auth"), ("", "token")):
        monkeypatch.setenv("AIRFLOW_CONN_SLACK_API_DEFAULT", json.dumps({**value, "password": password}))
        ok, message = FlowRunnerSlackHook("slack_api_default").test_connection()
        assert not ok
        assert text in message
        assert "canary" not in message


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"channel": "#alerts"}, "channel"),
        ({"text": " "}, "text"),
        ({"text": "x" * 40_001}, "text"),
        ({"blocks": [{}] * 51}, "blocks"),
        ({"blocks": "x"}, "blocks"),
        ({"ts": "now"}, "ts"),
        ({"ts": "1.1", "message_key": "k"}, "ts"),
        ({"lookback": "long"}, "lookback"),
        ({"on_unknown": "hope"}, "on_unknown"),
        ({"slack_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(slack, run, how, field):
    with pytest.raises(e.ConfigError) as caught:
        run(upsert(**how))
    assert caught.value.field == field
    assert slack.server.requests == []


def test_the_fake_by_slack_sdk(slack):
    sdk = pytest.importorskip("slack_sdk")
    client = sdk.WebClient("xoxb-canary-slack-token", base_url=f"{slack.server.url}/api/")
    metadata = {"event_type": "flowrunner_message", "event_payload": {"key": "k"}}
    sent = client.chat_postMessage(channel=CHANNEL, text="hello", metadata=metadata)
    for number in range(4):
        client.chat_postMessage(channel=CHANNEL, text=f"{number}")
    pages = client.conversations_history(channel=CHANNEL, limit=3, include_all_metadata=True)
    messages = [each for page in pages for each in page["messages"]]
    assert len(messages) == 5
    assert messages[-1]["metadata"] == metadata
    client.chat_update(channel=CHANNEL, ts=sent["ts"], text="changed")
    assert slack.posted[0].body["text"] == "changed"
    client.chat_postMessage(channel=CHANNEL, text="reply", thread_ts=sent["ts"])
    assert len(client.conversations_replies(channel=CHANNEL, ts=sent["ts"])["messages"]) == 2
    assert client.auth_test()["user"] == "airflow"
    with pytest.raises(sdk.errors.SlackApiError, match="channel_not_found"):
        client.chat_postMessage(channel="nowhere", text="x")


@pytest.mark.skipif(not SPEC.exists(), reason=f"the OpenAPI description of Slack is not at {SPEC}")
def test_our_requests_by_the_description(slack, run):
    """Known parameters only; ``metadata`` and ``include_all_metadata`` came after the description, of 2021."""
    spec = json.loads(lzma.decompress(SPEC.read_bytes()))
    root = run(upsert(), run_id="a")["ts"]
    run(upsert(message_key="k", thread_ts=root), run_id="b")
    run(upsert(message_key="k", thread_ts=root), run_id="c")
    seen = set()
    for request in slack.server.requests:
        path = request.path.removeprefix("/api")
        described = spec["paths"][path][request.method.lower()]["parameters"]
        known = {each["name"] for each in described} | {"metadata", "include_all_metadata"}
        assert set(request.query or request.json()) <= known
        seen.add(path)
    assert seen == {"/chat.postMessage", "/chat.update", "/conversations.replies"}
