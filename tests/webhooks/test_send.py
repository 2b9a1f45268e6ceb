"""webhook.send as a DAG runs it, seen by a receiver that verifies."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import traceback
from pathlib import Path

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.http.operators import HttpRequestOperator
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.webhooks.operators import WebhookSendOperator
from tests.support.http_server import HttpServer, Reply, drop, in_turn, redirect, throttled
from tests.webhooks.receiver import SECRET, Receiver, verify
from tests.webhooks.test_signing import OTHER

PASSWORD = "canary-bearer-4711-abcdef"


def send(**how) -> WebhookSendOperator:
    return WebhookSendOperator(task_id="t", **{"endpoint": "/in", "payload": {"a": "ä", "n": [1, None]}, **how})


def test_the_bytes_that_are_signed_are_sent(run, http_server):
    http_server.route("POST", "/in", receiver := Receiver())
    result = run(send())
    (request,) = receiver.accepted
    assert request.body == '{"a":"ä","n":[1,null]}'.encode()
    assert request.headers["content-type"] == "application/json"
    assert result == {
        "event_id": request.headers["webhook-id"], "status": 202, "bytes": len(request.body), "signed": True,
    }  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{40}", result["event_id"])


def test_the_same_connection_serves_other_requests(run, http_server):
    http_server.route("GET", "/orders", Reply(204))
    run(HttpRequestOperator(task_id="t", endpoint="/orders"))
    assert "webhook" not in str(http_server.requests[0].headers).lower()


def test_templates_an_envelope_and_an_id_of_ones_own(run, http_server):
    http_server.route("POST", "/in/orders", receiver := Receiver())
    how = {"endpoint": "/in/{{ params.x }}", "payload": {"day": "{{ ds }}"}, "headers": {"X-Event": "{{ ds }}"}}
    run(send(**how, event_type="day.done", event_id="day-{{ ds }}"), params={"x": "orders"})
    (request,) = receiver.accepted
    assert (request.headers["webhook-id"], request.headers["x-event"]) == ("day-2026-01-02", "2026-01-02")
    body = request.json()
    assert list(body) == ["type", "timestamp", "data"]
    assert (body["type"], body["data"]) == ("day.done", {"day": "2026-01-02"})


def test_each_secret_of_a_rotation_signs(run, connect, http_server):
    connect(webhook={"secret": [OTHER, SECRET]})
    http_server.route("POST", "/in", receiver := Receiver(secrets=(SECRET, OTHER)))
    run(send())
    assert receiver.accepted[0].headers["webhook-signature"].count("v1,") == 2


def test_plain_hmac_beside_a_bearer_token(run, connect, http_server):
    scheme = {"scheme": "hmac", "secret": "k3y-canary", "header": "X-Hub-Signature-256", "prefix": "sha256="}
    connect(webhook={**scheme, "id_header": "X-GitHub-Delivery"}, options={"auth": "bearer"}, password=PASSWORD)
    http_server.route("POST", "/in", Reply(200))
    result = run(send(headers={"X-GitHub-Event": "push"}))
    (request,) = http_server.requests
    digest = hmac.new(b"k3y-canary", request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-hub-signature-256"] == f"sha256={digest}"
    assert request.headers["authorization"] == f"Bearer {PASSWORD}"
    assert request.headers["x-github-delivery"] == result["event_id"]


def test_without_a_signature_the_id_still_travels(run, http_server):
    http_server.route("POST", "/in", Reply(204))
    result = run(send(sign="none"))
    (request,) = http_server.requests
    assert (request.headers["webhook-id"], result["signed"]) == (result["event_id"], False)
    assert "webhook-signature" not in request.headers


def test_a_try_that_was_refused_is_signed_anew_under_the_same_id(run, http_server):
    receiver = Receiver()
    http_server.route("POST", "/in", in_turn(throttled("1"), throttled("0", 503), receiver))
    run(send())
    first, _, last = http_server.requests
    for request in http_server.requests:
        verify(request, SECRET)
    assert first.headers["webhook-id"] == last.headers["webhook-id"]
    assert int(first.headers["webhook-timestamp"]) < int(last.headers["webhook-timestamp"])
    assert first.body == last.body


def test_a_long_wait_is_left_to_airflow(run, http_server):
    http_server.route("POST", "/in", throttled("3600"))
    with pytest.raises(e.Throttled) as caught:
        run(send())
    assert caught.value.retry_after == 3600
    http_server.route("POST", "/in", receiver := Receiver())
    pacer_for.cache_clear()  # the wait is over
    result = run(send(), try_number=2)
    assert len(receiver.accepted) == 1
    assert result["event_id"] == http_server.requests[0].headers["webhook-id"]


def test_a_lost_reply_is_repeated_where_the_receiver_recognises_ids(run, http_server):
    http_server.route("POST", "/in", receiver := Receiver(lose_replies=2))
    run(send(idempotent_receiver=True))
    assert (len(receiver.seen), len(receiver.accepted), receiver.failures) == (3, 1, [])


def test_a_lost_reply_is_unknown_elsewhere(run, http_server):
    http_server.route("POST", "/in", receiver := Receiver(lose_replies=1, dedupes=False))
    for number in (1, 2):
        with pytest.raises(e.OutcomeUnknown, match="check the") as caught:
            run(send(), try_number=number)
        assert not caught.value.reconcilable
    assert len(receiver.seen) == 1
    assert run(send(on_unknown="skip"), try_number=3)["status"] == 0
    assert len(receiver.seen) == 1


def test_resend_repeats_under_the_same_id(run, http_server):
    http_server.route("POST", "/in", receiver := Receiver(lose_replies=1))
    with pytest.raises(e.OutcomeUnknown) as caught:
        run(send(on_unknown="resend"))
    assert caught.value.reconcilable
    result = run(send(on_unknown="resend"), try_number=2)
    assert receiver.ids == {result["event_id"]}
    assert len(receiver.seen) == 2


@pytest.mark.parametrize(
    ("reply", "how", "error", "text"),
    [
        (Reply(410), {}, e.PermanentError, "endpoint is gone"),
        (Reply(410), {"idempotent_receiver": True}, e.PermanentError, "endpoint is gone"),
        (Reply(404), {}, e.NotFound, "404"),
        (Reply(400, b"no"), {}, e.Rejected, "400"),
        (Reply(401), {}, e.AccessDenied, "check the signing secret"),
        (Reply(500), {}, e.OutcomeUnknown, "500"),
        (redirect("/thanks", 303), {}, e.OutcomeUnknown, "303"),
        (redirect("/thanks", 303), {"idempotent_receiver": True}, e.Rejected, "303"),
        (redirect("/in", 308), {}, e.Rejected, "too many redirects"),
    ],
)
def test_refusals(run, http_server, reply, how, error, text):
    http_server.route("POST", "/in", reply)
    with pytest.raises(error, match=text) as caught:
        run(send(**how))
    assert type(caught.value) is error
    assert caught.value.remedy
    assert len(http_server.requests) == (11 if "too many redirects" in text else 1)


def test_the_status_is_the_receipt(run, http_server):
    http_server.route("POST", "/in", Reply(200, b"x" * 1000, cut=3))
    assert run(send())["status"] == 200
    http_server.route("POST", "/seen", redirect("/thanks", 303))
    assert run(send(endpoint="/seen", expected_status=[303]), run_id="other")["status"] == 303


def test_a_redirect_stays_within_its_origin(run, http_server):
    http_server.route("POST", "/in", redirect("/v2/in", 307))
    http_server.route("POST", "/v2/in", receiver := Receiver())
    run(send())
    assert (len(receiver.accepted), receiver.failures) == (1, [])
    with HttpServer() as stranger:
        stranger.route("POST", "*", Reply(200))
        for number, target in enumerate((stranger.url, stranger.url.replace("http:", "https:"), "//127.0.0.2/in")):
            http_server.route("POST", "/in", redirect(target, 308))
            with pytest.raises(e.TargetForbidden, match="another origin"):
                run(send(), run_id=f"run-{number}")
        assert stranger.requests == []


@pytest.mark.parametrize(
    ("how", "webhook", "field"),
    [
        ({"payload": {"x": object()}}, None, "payload"),
        ({"payload": float("nan")}, None, "payload"),
        ({"payload": "\ud800"}, None, "payload"),
        ({"event_id": ""}, None, "event_id"),
        ({"event_id": "a b"}, None, "event_id"),
        ({"event_id": "a\r\nX: y"}, None, "event_id"),
        ({"event_id": "{{ run_id }}.1"}, None, "event_id"),
        ({"event_id": "x" * 257}, None, "event_id"),
        ({"headers": {"Webhook-Id": "1"}}, None, "headers"),
        ({"headers": 5}, None, "headers"),
        ({"sign": "rot13"}, None, "sign"),
        ({"on_unknown": "guess"}, None, "on_unknown"),
        ({"endpoint": "http://127.0.0.1:1/in"}, None, "endpoint"),
        ({"sign": "standard_webhooks"}, {}, "secret"),
        ({}, {"secret": "canary!-not-base64"}, "secret"),
        ({}, {"scheme": "none", "colour": 1}, "colour"),
        ({}, {"secret": {"a": 1}}, "secret"),
        ({}, {"scheme": "hmac", "secret": "k", "algorithm": "md5"}, "algorithm"),
        ({}, "whsec_canary", "webhook"),
        ({"http_conn_id": "nowhere"}, None, "conn_id"),
    ],
)
def test_bad_input_is_refused_before_any_effect(run, connect, http_server, tmp_path, how, webhook, field):
    connect(webhook=webhook)
    with pytest.raises(e.ConfigError) as caught:
        run(send(**how))
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)
    assert "canary" not in str(caught.value)
    assert http_server.requests == []
    assert not any("effect" in path.read_text() for path in (tmp_path / "state").rglob("*.json"))


def test_no_secret_shows_anywhere(run, connect, http_server, tmp_path, caplog, capfd):
    raw = b"canary-webhook-secret-0815-and-more"
    connect(webhook={"secret": [SECRET, OTHER]}, options={"auth": "bearer"}, password=PASSWORD)
    texts = []
    echo = f"you sent {SECRET} and {SECRET[6:]} with {PASSWORD}".encode()
    for number, reply in enumerate((Reply(400, echo), Reply(500, echo), throttled("99"), drop(), Reply(200, echo))):
        http_server.route("POST", "/in", reply)
        operator = send()
        try:
            texts.append(json.dumps(run(operator, run_id=f"r{number}")))
        except e.FlowRunnerError as error:
            texts += ["".join(traceback.format_exception(error)), json.dumps(error.to_event())]
        texts.append(repr(vars(operator)))
    texts += [path.read_text() for path in Path(tmp_path).rglob("*") if path.is_file()]
    out = capfd.readouterr()
    shown = "\n".join([*texts, caplog.text, out.out, out.err])
    for canary in (SECRET, SECRET[6:], OTHER[6:], PASSWORD, raw.decode()):
        assert canary[:12] not in shown
