"""The fakes against the vendors' own clients and descriptions, so that they share no misreading of ours."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import pytest

from flowrunner_provider.sms.operators import SmsSendOperator
from tests.sms.stage import ACCOUNT, ME, SENDER
from tests.support.http_server import HttpServer
from tests.support.sms_vendors import AzureFake, TwilioFake, VonageFake

SPECS = Path(os.environ.get("FLOWRUNNER_SPECS") or Path(__file__).parents[3] / "shared" / "specs")
SPEC = SPECS / "twilio-openapi.json.xz"
MESSAGES = "/2010-04-01/Accounts/{AccountSid}/Messages.json"


def test_twilio_by_its_client(http_server):
    twilio = pytest.importorskip("twilio.rest")
    from twilio.base.exceptions import TwilioRestException
    from twilio.http.http_client import TwilioHttpClient

    class Here(TwilioHttpClient):
        def request(self, method, url, *args, **kwargs):
            return super().request(method, url.replace("https://api.twilio.com", http_server.url), *args, **kwargs)

    fake = TwilioFake()
    fake.install(http_server)
    client = twilio.Client(ACCOUNT["twilio"], fake.token, http_client=Here())
    sent = client.messages.create(to=ME, from_=SENDER, body="hello")
    assert [each.sid for each in client.messages.list(to=ME)] == [sent.sid]
    assert client.messages(sent.sid).fetch().status == "queued"
    assert client.api.accounts(ACCOUNT["twilio"]).fetch().status == "active"
    for _ in range(4):
        client.messages.create(to=ME, from_=SENDER, body="hello")
    assert len(client.messages.list(to=ME, page_size=2)) == 5
    with pytest.raises(TwilioRestException) as caught:
        client.messages.create(to="nobody", from_=SENDER, body="hello")
    assert (caught.value.status, caught.value.code) == (400, 21211)


def test_vonage_by_its_client(tls, monkeypatch):
    vonage = pytest.importorskip("vonage")
    from vonage_messages.models import Sms

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tls.ca_file))
    fake = VonageFake()
    with HttpServer(tls=tls.server_context()) as server:
        fake.install(server)
        options = vonage.HttpClientOptions(api_host=f"localhost:{server.port}")
        client = vonage.Vonage(vonage.Auth(api_key=ACCOUNT["vonage"], api_secret=fake.secret), options)
        answer = client.messages.send(Sms(to=ME[1:], from_="ACME", text="hello"))
        assert fake.taken(ACCOUNT["vonage"])[0].message_id == answer.message_uuid
        with pytest.raises(Exception, match="422"):
            client.messages.send(Sms(to="123456789012345", from_="ACME", text="x", ttl=100, trusted_recipient=True))


def test_azure_by_its_client(http_server):
    sms = pytest.importorskip("azure.communication.sms")
    fake = AzureFake()
    fake.install(http_server)
    client = sms.SmsClient(http_server.url, fake.key)
    good, bad = client.send(from_=SENDER, to=[ME, "nobody"], message="hello", enable_delivery_report=True)
    assert (good.successful, good.http_status_code) == (True, 202)
    assert (bad.successful, bad.http_status_code) == (False, 400)
    assert [each.message_id for each in fake.taken(SENDER)] == [good.message_id]


@pytest.fixture(scope="module")
def spec():
    if not SPEC.exists():
        pytest.skip(f"the OpenAPI description of Twilio is not at {SPEC}")
    return json.loads(lzma.decompress(SPEC.read_bytes()))


def test_twilio_by_its_description(vendor, run, spec):
    """Our requests name known parameters only, and the fake's answers have the described fields and types."""
    import jsonschema

    stage = vendor("twilio")
    stage.faults.append("lose")
    operator = SmsSendOperator(task_id="t", to=ME, body="hello")
    with pytest.raises(Exception, match="may or may not"):
        run(operator)
    run(operator)
    post = spec["paths"][MESSAGES]["post"]["requestBody"]["content"]["application/x-www-form-urlencoded"]["schema"]
    filters = {each["name"] for each in spec["paths"][MESSAGES]["get"]["parameters"] if each["in"] == "query"}
    assert set(post["properties"]) >= TwilioFake.PARAMETERS
    assert filters == TwilioFake.FILTERS
    asked = [request for request in stage.server.requests if request.method == "GET"]
    assert asked
    assert set(asked[0].query) <= filters
    schema = {**spec["components"]["schemas"]["api.v2010.account.message"], "components": spec["components"]}
    page = stage.fake(asked[0])
    answers = [*json.loads(page.body)["messages"]]
    assert answers
    for answer in answers:
        assert set(answer) <= set(schema["properties"])
        jsonschema.validate(_plain(answer), _nullable(schema))


def _plain(answer):
    return {name: value for name, value in answer.items() if value is not None}


def _nullable(schema):
    return {name: value for name, value in schema.items() if name != "required"}
