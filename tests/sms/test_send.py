"""sms.send as a DAG runs it, seen by the vendors; each fake is checked against the vendor's contract."""

from __future__ import annotations

import json
import os
import time
import traceback
from dataclasses import replace

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.runtime.rate_limits import pacer_for
from flowrunner_provider.sms.hook import SnsSmsHook, sms_hook
from flowrunner_provider.sms.operators import SmsSendOperator
from tests.sms.stage import ME, SENDER
from tests.support.http_server import Reply, drop, json_reply, throttled
from tests.support.sms_vendors import AzureFake, TwilioFake

YOU = "+4915550001"
VENDORS = ["twilio", "vonage", "azure_acs"]


def send(**how) -> SmsSendOperator:
    return SmsSendOperator(task_id="t", **{"to": [ME, YOU], "body": "The load is late", "concurrency": 1, **how})


@pytest.mark.parametrize("name", VENDORS)
def test_everybody_gets_it_and_the_result_has_the_ids(vendor, run, name):
    stage = vendor(name)
    result = run(send(body="Größe: 5 €\n{item}"))
    assert [(each.number, each.body) for each in stage.taken] == [
        (ME, f"Größe: 5 €\n{ME}"),
        (YOU, f"Größe: 5 €\n{YOU}"),
    ]
    assert {each.sender.lstrip("+") for each in stage.taken} == {SENDER.lstrip("+")}
    assert result["message_ids"] == [each.message_id for each in stage.taken]
    counts = {name: result[name] for name in ("recipients", "sent", "duplicates", "unknown", "segments")}
    assert counts == {"recipients": 2, "sent": 2, "duplicates": 0, "unknown": 0, "segments": 2}


@pytest.mark.parametrize("name", VENDORS)
def test_a_refusal_is_a_partial_failure_with_its_reason(vendor, run, name):
    stage = vendor(name)
    stage.fake.blocked.add(YOU)
    with pytest.raises(e.PartialFailure) as caught:
        run(send(to=[ME, YOU, "nobody", "+4915550002"]))
    error = caught.value
    assert (error.done, sorted(error.failed), error.retryable) == (2, ["1", "2"], False)
    assert YOU not in str(error) + str(error.failed)
    assert YOU[1:] not in str(error.failed)
    assert [each.number for each in stage.taken] == [ME, "+4915550002"]
    with pytest.raises(e.PartialFailure):
        run(send(to=[ME, YOU, "nobody", "+4915550002"]))
    assert len(stage.taken) == 2, "a retry sends only what is not confirmed"


def test_channels_and_senders(vendor, run):
    stage = vendor("twilio")
    run(send(to=ME, channel="whatsapp"), run_id="a")
    run(send(to=ME, sender="MG" + "1" * 32), run_id="b")
    assert [(each.number, each.sender) for each in stage.taken] == [
        (f"whatsapp:{ME}", f"whatsapp:{SENDER}"),
        (ME, "MG" + "1" * 32),
    ]
    stage = vendor("vonage")
    run(send(to=ME, channel="whatsapp"), run_id="c")
    assert stage.server.requests[-1].json()["channel"] == "whatsapp"


def test_any_connection_may_name_the_vendor(vendor, run, monkeypatch):
    stage = vendor("twilio")
    value = json.loads(os.environ["AIRFLOW_CONN_SMS_DEFAULT"])
    value["conn_type"] = "generic"
    value["extra"]["flowrunner"]["vendor"] = "twilio"
    monkeypatch.setenv("AIRFLOW_CONN_SMS_DEFAULT", json.dumps(value))
    run(send(to=ME))
    assert len(stage.taken) == 1


@pytest.mark.parametrize("name", VENDORS)
def test_throttling_is_waited_out_or_handed_to_airflow(vendor, run, name):
    stage = vendor(name)
    stage.faults.append(throttled("1"))
    began = time.monotonic()
    run(send(to=ME))
    assert time.monotonic() - began >= 0.95
    assert len(stage.taken) == 1
    stage.faults.extend(["pass", throttled("600")])
    with pytest.raises(e.Throttled) as caught:
        run(send(), run_id="b")
    assert 590 < caught.value.retry_after <= 600
    assert len(stage.taken) == 2
    pacer_for.cache_clear()
    run(send(), run_id="b")
    assert len(stage.taken) == 3, "the retry goes on where the first try was stopped"


def test_a_lost_answer_is_found_in_the_list_of_twilio(vendor, run):
    stage = vendor("twilio", TwilioFake(prefix="Sent from your Twilio trial account - "))
    stage.faults.append("lose")
    with pytest.raises(e.OutcomeUnknown) as caught:
        run(send())
    assert caught.value.reconcilable
    assert len(stage.taken) == 2, "the others are not kept waiting"
    result = run(send())
    assert len(stage.taken) == 2
    assert result["message_ids"] == [each.message_id for each in stage.taken]


def test_what_twilio_never_took_is_sent_by_the_retry(vendor, run):
    stage = vendor("twilio")
    stage.faults.append(drop())
    with pytest.raises(e.OutcomeUnknown):
        run(send())
    run(send())
    assert sorted(each.number for each in stage.taken) == [ME, YOU]


def test_an_older_message_is_not_taken_for_it(vendor, run):
    stage = vendor("twilio")
    run(send(to=ME), run_id="yesterday")
    stage.fake.messages[stage.account][0] = replace(stage.taken[0], at=time.time() - 60)
    stage.faults.append(drop())
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    run(send(to=ME))
    assert len(stage.taken) == 2


def test_a_list_that_cannot_be_read_is_no_proof(vendor, run, http_server):
    stage = vendor("twilio")
    stage.faults.append(drop())
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    path = f"/2010-04-01/Accounts/{stage.account}/Messages.json"
    http_server.route("GET", path, Reply(500))
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    http_server.route("GET", path, json_reply({"messages": [{"direction": "outbound-api"}]}))
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    assert stage.taken == []
    other = [
        {"sid": "SM1", "body": "x", "direction": "outbound-api", "date_created": "Thu, 01 Jan 2099 00:00:00 +0000"}
    ]
    http_server.route("GET", path, json_reply({"messages": other, "next_page_uri": f"{path}?Page=1"}))
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    assert stage.taken == []


def test_the_list_is_believed_after_a_while_only(vendor, run):
    stage = vendor("twilio")
    stage.faults.append(drop())
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    stage.connect(settle=30.0)
    with pytest.raises(e.Unavailable) as caught:
        run(send(to=ME))
    assert 20 < caught.value.retry_after <= 30


def test_azure_recognises_its_token(vendor, run):
    stage = vendor("azure_acs")
    stage.faults.append("lose")
    result = run(send(to=ME))
    assert result["message_ids"] == [stage.taken[0].message_id]
    assert len(stage.taken) == 1
    assert len(stage.server.requests) == 2


def test_azure_forgets_and_then_the_user_decides(vendor, run, monkeypatch):
    from flowrunner_provider.sms.gateways.azure_acs import AzureGateway

    stage = vendor("azure_acs", AzureFake(memory=2.0))
    stage.faults.extend(["lose"] * 4)
    with pytest.raises(e.OutcomeUnknown):
        run(send(to=ME))
    assert len(stage.taken) == 1
    known = AzureGateway.capabilities
    forgetful = replace(known, far=replace(known.far, remembers=1e-6))
    monkeypatch.setattr(AzureGateway, "capabilities", forgetful)
    with pytest.raises(e.OutcomeUnknown) as caught:
        run(send(to=ME))
    assert "forgotten" in str(caught.value)
    assert len(stage.taken) == 1
    run(send(to=ME, on_unknown="resend"))
    assert len(stage.taken) == 2


def test_of_vonage_the_user_decides(vendor, run):
    stage = vendor("vonage")
    for on_unknown, sent, unknown, taken in (("skip", 1, 1, 2), ("resend", 2, 0, 3)):
        stage.fake.messages.clear()
        stage.faults.append("lose")
        with pytest.raises(e.OutcomeUnknown) as caught:
            run(send(), run_id=on_unknown)
        assert not caught.value.reconcilable
        with pytest.raises(e.OutcomeUnknown):
            run(send(), run_id=on_unknown)
        assert len(stage.taken) == 2, "nothing is sent twice on a guess"
        result = run(send(on_unknown=on_unknown), run_id=on_unknown)
        assert (result["sent"], result["unknown"], len(stage.taken)) == (sent, unknown, taken)


def test_an_answer_that_cannot_be_read_does_not_mean_that_nothing_was_sent(vendor, run):
    stage = vendor("vonage")
    for broken in (Reply(202, b"ok"), json_reply({}, 202), json_reply([], 202)):
        stage.faults.append(broken)
        with pytest.raises(e.OutcomeUnknown):
            run(send(to=ME), run_id=str(broken))


def test_lost_answers_in_a_row_stop_it(vendor, run):
    stage = vendor("vonage")
    stage.faults.extend(["lose"] * 10)
    with pytest.raises(e.OutcomeUnknown, match="7 were not tried"):
        run(send(to=[f"+49155500{n:02}" for n in range(10)]))
    assert len(stage.taken) == 3


def test_with_skip_the_next_attempt_goes_on(vendor, run):
    stage = vendor("vonage")
    stage.faults.extend(["lose"] * 3)
    people = [f"+49155500{n:02}" for n in range(6)]
    with pytest.raises(e.PartialFailure, match="3 were not tried") as caught:
        run(send(to=people, on_unknown="skip"))
    assert caught.value.retryable
    result = run(send(to=people, on_unknown="skip"))
    assert (result["sent"], result["unknown"], len(stage.taken)) == (3, 3, 6)


def test_an_empty_account_stops_it(vendor, run):
    stage = vendor("vonage")
    stage.faults.append(json_reply({"type": "x#low-balance", "title": "Low balance"}, 402))
    with pytest.raises(e.AccessDenied):
        run(send())
    assert stage.taken == []


def test_other_content_under_the_same_task_is_refused(vendor, run):
    stage = vendor("twilio")
    stage.faults.extend(["pass", throttled("600")])
    with pytest.raises(e.Throttled):
        run(send())
    pacer_for.cache_clear()
    with pytest.raises(e.PermanentError, match="different content"):
        run(send(body="Another text"))
    assert len(stage.taken) == 1


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"to": "nobody"}, "to"),
        ({"body": ""}, "body"),
        ({"body": "x" * 1000}, "max_segments"),
        ({"channel": "fax"}, "channel"),
        ({"on_unknown": "hope"}, "on_unknown"),
        ({"concurrency": 0}, "concurrency"),
        ({"rate_limit": "often"}, "rate_limit"),
        ({"sender": "no sender at all"}, "sender"),
        ({"sms_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(vendor, run, how, field):
    stage = vendor("twilio")
    with pytest.raises(e.ConfigError) as caught:
        run(send(**how))
    assert caught.value.field == field
    assert caught.value.remedy
    assert stage.server.requests == []


@pytest.mark.parametrize(
    ("fields", "extra", "field"),
    [
        ({"conn_type": "http"}, {}, "vendor"),
        ({"conn_type": "twilio", "login": "me"}, {}, "login"),
        ({"conn_type": "twilio", "login": "AC" + "0" * 32}, {}, "password"),
        ({"conn_type": "twilio", "login": "SK" + "0" * 32, "password": "x"}, {}, "login"),
        ({"conn_type": "vonage", "login": "k"}, {}, "password"),
        ({"conn_type": "azure_acs", "password": "x"}, {}, "host"),
        ({"conn_type": "azure_acs", "host": "h", "password": "???"}, {}, "password"),
        ({"conn_type": "aws"}, {}, "region"),
        ({"conn_type": "aws"}, {"region_name": "eu-west-1", "role_arn": "arn:x"}, "role_arn"),
        ({"conn_type": "twilio"}, {"flowrunner": {"retry": 3}}, "retry"),
    ],
)
def test_a_connection_that_is_not_complete(run, monkeypatch, fields, extra, field):
    monkeypatch.setenv("AIRFLOW_CONN_SMS_DEFAULT", json.dumps({**fields, "extra": extra}))
    with pytest.raises(e.ConfigError) as caught:
        run(send(sender=SENDER))
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("name", VENDORS)
def test_the_connection_test_and_wrong_credentials(vendor, run, name, caplog):
    stage = vendor(name)
    ok, message = sms_hook("sms_default").test_connection()
    assert ok, message
    canary = {"twilio": "token", "vonage": "secret", "azure_acs": "key"}[name]
    wrong = "Y2FuYXJ5LXdyb25nLWtleQ=="
    known = getattr(stage.fake, canary)
    setattr(stage.fake, canary, wrong)
    if name != "vonage":
        ok, message = sms_hook("sms_default").test_connection()
        assert not ok
        assert " -> " in message
    with pytest.raises(e.AccessDenied) as caught:
        run(send(to=ME))
    shown = "".join(traceback.format_exception(caught.value)) + message + caplog.text
    assert known not in shown
    assert stage.taken == []


@pytest.fixture
def sns(monkeypatch):
    moto = pytest.importorskip("moto.server")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    extra = {"region_name": "eu-west-1", "endpoint_url": f"http://{host}:{port}", "flowrunner": {"trust_env": False}}
    value = {"conn_type": "aws", "login": "AKIDEXAMPLE", "password": "canary-aws-secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMS_DEFAULT", json.dumps(value))
    pacer_for.cache_clear()
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.sns.models import sns_backends

    backend = sns_backends[DEFAULT_ACCOUNT_ID]["eu-west-1"]
    backend.sms_messages.clear()
    yield backend.sms_messages, f"http://{host}:{port}"
    server.stop()


def test_amazon_sns(sns, run):
    messages, url = sns
    result = run(send(body="Tom & <Ärger>"))
    assert list(messages.values()) == [(ME, "Tom & <Ärger>"), (YOU, "Tom & <Ärger>")]
    assert result["message_ids"] == list(messages)
    ok, message = SnsSmsHook("sms_default").test_connection()
    assert ok, message
    import boto3

    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-west-1"}
    known = boto3.client("sns", endpoint_url=url, **keys).publish(PhoneNumber=ME, Message="by boto3")
    assert messages[known["MessageId"]] == (ME, "by boto3")


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "Throttling", e.Throttled),
        (403, "AuthorizationError", e.AccessDenied),
        (400, "InvalidParameter", e.PartialFailure),
    ],
)
def test_what_amazon_sns_refuses(http_server, run, monkeypatch, status, code, error):
    body = f"<ErrorResponse><Error><Code>{code}</Code><Message>to {ME}</Message></Error></ErrorResponse>"
    http_server.route("POST", "/", Reply(status, body.encode(), {"Content-Type": "text/xml"}))
    extra = {"region_name": "eu-west-1", "endpoint_url": http_server.url}
    value = {"conn_type": "aws", "login": "AKIDEXAMPLE", "password": "canary-aws-secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMS_DEFAULT", json.dumps(value))
    with pytest.raises(error) as caught:
        run(send(to=ME, timeout=30))
    assert ME not in str(caught.value)
    signed = http_server.requests[0].headers["authorization"]
    assert signed.startswith("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/")
    assert "/eu-west-1/sns/aws4_request" in signed
