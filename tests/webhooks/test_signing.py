"""Signatures against published vectors and against the vendor's own library."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import from_mapping
from flowrunner_provider.webhooks.config import WebhookOptions, signer_of
from flowrunner_provider.webhooks.signing import PlainHmac, StandardWebhooks
from tests.webhooks.receiver import SECRET

OTHER = "whsec_" + base64.b64encode(b"another-secret-of-24-bytes-").decode()


def options(**values) -> WebhookOptions:
    return from_mapping(WebhookOptions, values, where="connection 'x', webhook")


def test_the_vector_of_standard_webhooks():
    signer = StandardWebhooks(secrets=("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))
    headers = signer.headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330")


def test_the_vector_of_github():
    signer = PlainHmac(secret="It's a Secret to Everybody", header="X-Hub-Signature-256", prefix="sha256=")
    expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    assert signer.headers("1", 1, b"Hello, World!")["X-Hub-Signature-256"] == expected


def test_the_vector_of_slack():
    signer = PlainHmac(
        secret="8f742231b10e8888abcd99yyyzzz85a5",
        header="X-Slack-Signature",
        prefix="v0=",
        signed="v0:{timestamp}:{body}",
        timestamp_header="X-Slack-Request-Timestamp",
    )
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    headers = signer.headers("1", 1531420618, body)
    assert headers["X-Slack-Signature"] == "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    assert headers["X-Slack-Request-Timestamp"] == "1531420618"


def test_the_form_of_stripe():
    signer = PlainHmac(
        secret="whsec_x", header="Stripe-Signature", prefix="t={timestamp},v1=", signed="{timestamp}.{body}"
    )
    body = b'{"id": "evt_1", "timestamp": "{timestamp}"}'
    digest = hmac.new(b"whsec_x", b"1492774577." + body, hashlib.sha256).hexdigest()
    assert signer.headers("1", 1492774577, body)["Stripe-Signature"] == f"t=1492774577,v1={digest}"


def test_sha512_and_base64():
    signer = PlainHmac(secret="k", algorithm="sha512", encoding="base64", id_header="X-Delivery")
    digest = base64.b64encode(hmac.new(b"k", b"{}", hashlib.sha512).digest()).decode()
    assert signer.headers("7", 1, b"{}") == {"X-Delivery": "7", "X-Signature-256": digest}


@given(
    body=st.text(st.characters(exclude_categories=["Cs"])), message_id=st.from_regex(r"[\w:+-]{1,64}", fullmatch=True)
)
def test_the_vendors_library_accepts_every_message_and_no_other(body, message_id):
    webhooks = pytest.importorskip("standardwebhooks")
    raw, now = body.encode(), int(time.time())
    headers = StandardWebhooks(secrets=(OTHER, SECRET)).headers(message_id, now, raw)
    for secret in (SECRET, OTHER):
        webhooks.Webhook(secret).verify(raw, headers, json_parse=False)
    stranger = webhooks.Webhook("whsec_" + base64.b64encode(b"x" * 24).decode())
    for verifier, data, sent in [
        (webhooks.Webhook(SECRET), raw + b" ", headers),
        (webhooks.Webhook(SECRET), raw, {**headers, "webhook-id": message_id + "x"}),
        (webhooks.Webhook(SECRET), raw, {**headers, "webhook-timestamp": str(now - 1)}),
        (stranger, raw, headers),
    ]:
        with pytest.raises(Exception, match="No matching signature"):
            verifier.verify(data, sent, json_parse=False)


def test_no_signer_shows_its_secret():
    signers = (signer_of(options(secret=SECRET)), signer_of(options(secret=SECRET, scheme="hmac")))
    text = repr((*signers, options(secret=[SECRET, OTHER])))
    assert SECRET[6:] not in text
    assert OTHER[6:] not in text


@pytest.mark.parametrize(
    ("values", "sign", "field"),
    [
        ({"secret": "whsec_ !"}, None, "secret"),
        ({"secret": "whsec_"}, None, "secret"),
        ({"secret": "whsk_" + "A" * 32}, None, "secret"),
        ({"secret": ["whsec_QUFB", 5]}, None, "secret"),
        ({"secret": ["a", "b"], "scheme": "hmac"}, None, "secret"),
        ({"scheme": "standard_webhooks"}, None, "secret"),
        ({}, "hmac", "secret"),
        ({"secret": "a", "header": "X Y"}, "hmac", "header"),
        ({"secret": "a", "header": "webhook-id"}, "hmac", "header"),
        ({"secret": "a", "prefix": "a\r\nb"}, "hmac", "prefix"),
        ({"secret": "a", "signed": "{timestamp}"}, "hmac", "signed"),
        ({"secret": "a", "signed": "{timestamp}.{body}"}, "hmac", "timestamp_header"),
        ({"id_header": "a:b"}, "none", "id_header"),
    ],
)
def test_what_cannot_sign_is_refused_with_its_field(values, sign, field):
    with pytest.raises(ConfigError) as caught:
        signer_of(options(**values), sign)
    assert (caught.value.field, bool(caught.value.remedy)) == (field, True)


def test_a_missing_secret_is_a_missing_credential():
    with pytest.raises(MissingCredential):
        signer_of(options(), "standard_webhooks")
