"""Numbers, segments and recipients: what is judged before anything is sent."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.sms.gateway import Gateway, Text
from flowrunner_provider.sms.gateways.azure_acs import AzureGateway
from flowrunner_provider.sms.gateways.sns import SnsGateway
from flowrunner_provider.sms.gateways.twilio import TwilioGateway
from flowrunner_provider.sms.gateways.vonage import VonageGateway
from flowrunner_provider.sms.notifier import cut
from flowrunner_provider.sms.numbers import check_sender, is_e164, phone_number
from flowrunner_provider.sms.recipients import Draft, addressed
from flowrunner_provider.sms.segments import EXTENSION, GSM, segmented

ME = "+14155550123"


@pytest.mark.parametrize("good", ["+14155550123", "+6834000", "+123456789012345"])
def test_a_number_in_e164(good):
    assert phone_number(good, "to") == good


@pytest.mark.parametrize(
    "bad",
    ["", "14155550123", "+0123456789", "+1234567890123456", "+123456", "+1 415 5550123", "+1415555012a",
     "+1415\n5550123", "+14155550123\n", "+１４１５５５５０１２３", "++14155550123", None, 14155550123],
)  # fmt: skip
def test_what_is_no_number_is_refused_and_not_shown(bad):
    with pytest.raises(ConfigError) as caught:
        phone_number(bad, "to")
    assert caught.value.field == "to"
    assert "415" not in caught.value.message


@pytest.mark.parametrize("sender", ["+14155550123", "12345", "ACME", "Data Team 1"])
def test_a_sender(sender):
    assert check_sender(sender, "sender") == sender


@pytest.mark.parametrize("sender", ["", "0123456789012", "twelve chars", "Zoë", "a\nb", "+12"])
def test_what_is_no_sender(sender):
    with pytest.raises(ConfigError):
        check_sender(sender, "sender")


def test_the_alphabet_has_its_128_septets():
    assert len(GSM) == 127  # and the escape, which is no character
    assert len(EXTENSION) == 10
    assert not GSM & EXTENSION


@pytest.mark.parametrize(
    ("text", "encoding", "units", "segments"),
    [
        ("", "gsm-7", 0, 0),
        ("a" * 160, "gsm-7", 160, 1),
        ("a" * 161, "gsm-7", 161, 2),
        ("a" * 306, "gsm-7", 306, 2),
        ("a" * 307, "gsm-7", 307, 3),
        ("€" * 80, "gsm-7", 160, 1),
        ("€" * 81, "gsm-7", 162, 2),
        ("a" * 152 + "€" + "a" * 152, "gsm-7", 306, 3),  # the escape may not be parted from its character
        ("`", "ucs-2", 1, 1),
        ("ñ" * 160, "gsm-7", 160, 1),
        ("á", "ucs-2", 1, 1),
        ("ж" * 70, "ucs-2", 70, 1),
        ("ж" * 71, "ucs-2", 71, 2),
        ("😀" * 35, "ucs-2", 70, 1),
        ("ж" * 66 + "😀" + "ж" * 66, "ucs-2", 134, 3),  # nor a surrogate from its pair
    ],
)
def test_segments(text, encoding, units, segments):
    found = segmented(text)
    assert (found.encoding, found.units, found.segments) == (encoding, units, segments)


@given(st.text(max_size=1000))
def test_segments_hold_all_units_and_no_segment_is_empty(text):
    found = segmented(text)
    part, whole = (153, 160) if found.encoding == "gsm-7" else (67, 70)
    assert found.segments <= max(1, -(-found.units // (part - 1)))
    assert found.segments * (whole if found.segments == 1 else part) >= found.units


@given(st.text(alphabet="aé€😀ж", max_size=1000), st.integers(1, 4))
def test_a_text_is_cut_to_fit(text, segments):
    shown = cut(text, segments)
    assert segmented(shown).segments <= segments
    assert shown == text or shown.endswith("...")


def test_rows_from_everywhere(tmp_path):
    rows = [{"phone": ME, "name": "Ann"}, {"phone": "+4917000000", "name": "{item.phone}"}]
    path = tmp_path / "people.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draft = Draft(body="Dear {item.name}", sender="X1")
    for source in (rows, str(path)):
        found = addressed(source, draft)
        assert [text.body for text in found.texts.values()] == ["Dear Ann", "Dear {item.phone}"]
    assert list(addressed(ME, Draft(body="x", sender="X1")).texts) == [0]
    twice = addressed([ME, ME, "nobody"], Draft(body="x", sender="X1"))
    assert (len(twice.texts), twice.duplicates, list(twice.invalid)) == (1, 1, [2])
    assert len(addressed([ME, ME], Draft(body="x", sender="X1", dedupe=False)).texts) == 2


@pytest.mark.parametrize(
    ("to", "how", "field"),
    [
        (ME, {"body": " "}, "body"),
        (ME, {"body": "a" * 500}, "max_segments"),
        ("nobody", {}, "to"),
        (["0049"], {}, "to"),
        ([5], {}, "to"),
        ([{"mobile": ME}], {}, "to_column"),
        ([{"phone": ME}], {"body": "{item.nam}"}, "items"),
        ([ME] * 1001, {}, "to"),
        ("sftp://x@/a.csv", {}, "to"),
    ],
)
def test_bad_recipients_are_named(to, how, field):
    with pytest.raises(ConfigError) as caught:
        addressed(to, Draft(**{"body": "x", "sender": "X1", **how}))
    assert caught.value.field == field
    with pytest.raises(NotFound):
        addressed([], Draft(body="x", sender="X1"))


def test_vendors_refuse_what_they_have_no_way_for():
    def check(gateway: Gateway, **how):
        gateway.check(Text(**{"number": ME, "body": "x", "sender": ME, "channel": "sms", "segments": 1, **how}))

    http = None
    twilio = TwilioGateway(http, "AC" + "0" * 32)
    check(twilio, sender="MG" + "0" * 32)
    check(twilio, channel="whatsapp")
    check(SnsGateway(http, "Transactional"), sender="")
    for gateway, how, field in (
        (twilio, {"sender": ""}, "sender"),
        (twilio, {"sender": "MG12"}, None),
        (SnsGateway(http, "Transactional"), {"channel": "whatsapp"}, "channel"),
        (AzureGateway(http), {"channel": "whatsapp"}, "channel"),
        (VonageGateway(http), {"body": "a" * 3201}, "body"),
    ):
        if field is None:
            check(gateway, **how)  # an alphanumeric name, as it happens
            continue
        with pytest.raises(ConfigError) as caught:
            check(gateway, **how)
        assert caught.value.field == field
    assert is_e164(ME)
