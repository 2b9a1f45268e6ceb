"""sms.wait_delivery: both modes, seen against Twilio's states; and who cannot be asked."""

from __future__ import annotations

import time
from collections import deque

import pytest

from flowrunner_provider.core import errors as e
from flowrunner_provider.sms.sensors import SmsDeliverySensor
from tests.contracts.sensor_contract import SensorContract
from tests.sms.stage import ME, SENDER
from tests.support.context import execute, make_context
from tests.support.sms_vendors import Taken

IDS = ["SM" + "a" * 32, "SM" + "b" * 32]


def wait(**how) -> SmsDeliverySensor:
    return SmsDeliverySensor(task_id="t", **{"message_ids": IDS, "poke_interval": 1, **how})


@pytest.fixture
def twilio(vendor):
    stage = vendor("twilio")
    stage.fake.messages[stage.account] = [Taken(name, ME, "x", SENDER, time.time()) for name in IDS]
    return stage


class TestContract(SensorContract):
    @pytest.fixture(autouse=True)
    def scene(self, twilio):
        self.stage = twilio

    def sensor(self, **kwargs):
        return wait(**kwargs)

    def nothing_yet(self):
        self.stage.fake.status = {IDS[0]: ("delivered", None), IDS[1]: ("sent", None)}

    def appear(self):
        self.stage.fake.status[IDS[1]] = ("read", None)

    def break_it(self):
        self.stage.fake.status[IDS[1]] = ("undelivered", 30003)
        return e.PartialFailure


def look(sensor):
    return execute(sensor, make_context(sensor))


def test_the_report_has_each_status(twilio):
    twilio.fake.status = dict.fromkeys(IDS, ("delivered", None))
    assert look(wait()) == {"messages": 2, "statuses": dict.fromkeys(IDS, "delivered")}


def test_what_did_not_arrive_is_named_with_its_code(twilio):
    twilio.fake.status = {IDS[0]: ("delivered", None), IDS[1]: ("failed", 30008)}
    with pytest.raises(e.PartialFailure) as caught:
        look(wait())
    assert (caught.value.failed, caught.value.done, caught.value.retryable) == ({IDS[1]: "failed 30008"}, 1, False)


def test_states_of_ones_own(twilio):
    twilio.fake.status = dict.fromkeys(IDS, ("sent", None))
    assert look(wait(success_states=["sent"]))["messages"] == 2
    with pytest.raises(e.PartialFailure):
        look(wait(success_states=["delivered"], fail_states=["sent"]))


def test_a_settled_message_is_not_asked_for_again(twilio):
    states = deque(["sent", "sent", "delivered"])
    twilio.fake.status = {IDS[0]: ("delivered", None), IDS[1]: ("sent", None)}
    sensor = wait()
    while states:
        twilio.fake.status[IDS[1]] = (states.popleft(), None)
        sensor.poke(make_context(sensor))
    asked = [request.path.rpartition("/")[2] for request in twilio.server.requests]
    assert asked.count(f"{IDS[0]}.json") == 1


@pytest.mark.parametrize("name", ["vonage", "azure_acs"])
def test_who_reports_to_webhooks_alone_is_refused(vendor, name):
    vendor(name)
    with pytest.raises(e.ConfigError, match="webhooks or logs"):
        look(wait())


@pytest.mark.parametrize(
    ("how", "field"),
    [
        ({"message_ids": []}, "message_ids"),
        ({"message_ids": ["../Accounts"]}, "message_ids"),
        ({"message_ids": IDS * 300}, "message_ids"),
        ({"success_states": ["sent"], "fail_states": ["sent"]}, "fail"),
        ({"sms_conn_id": "nowhere"}, "conn_id"),
    ],
)
def test_bad_input_names_its_field(twilio, how, field):
    with pytest.raises(e.ConfigError) as caught:
        look(wait(**how))
    assert caught.value.field == field
    assert twilio.server.requests == []
