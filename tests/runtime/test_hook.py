"""Connections: read, checked, masked, and refused with the name of the field to mend."""

import asyncio
import base64
import json
import traceback
from dataclasses import dataclass
from typing import Any

import pytest

from flowrunner_provider.core.errors import AccessDenied, ConfigError, Rejected
from flowrunner_provider.core.spec import option
from flowrunner_provider.runtime import masking
from flowrunner_provider.runtime.hook import FlowRunnerHook, connection
from flowrunner_provider.runtime.masking import mask, mask_sensitive, redact, redact_error


@dataclass(frozen=True, kw_only=True)
class ShopConfig:
    host: str = option(label="Host", help="Set the connection's host.")
    port: int = option(443, label="Port")
    password: str | None = option(None, label="Password", secret=True)
    signing_key: str | None = option(None, label="Signing key", secret=True)
    region: str = option("eu", label="Region")


class ShopHook(FlowRunnerHook[ShopConfig]):
    config_type = ShopConfig
    default_conn_name = "shop"

    def check(self) -> str:
        raise AccessDenied(f"login refused with {self.config.password}", remedy="check the password")


def define(monkeypatch: pytest.MonkeyPatch, **connection: Any) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps({"conn_type": "http", **connection}))


def test_standard_fields_and_our_options_become_one_config(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, host="h", password="pw-canary-1", extra={"X-Other": "1", "flowrunner": {"region": "us"}})
    assert ShopHook().config == ShopConfig(host="h", password="pw-canary-1", region="us")


def test_secrets_are_masked_as_soon_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"X-Api-Key": "canary-of-others", "flowrunner": {"signing_key": "canary-of-ours"}}
    define(monkeypatch, host="h", password="canary-of-password", extra=extra)
    assert ShopHook().config
    assert redact("canary-of-others canary-of-ours canary-of-password") == "*** *** ***"


def test_the_name_of_an_authentication_method_is_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden: list[str] = []
    monkeypatch.setattr(masking, "mask_secret", hidden.append)
    extra = {"auth": "canary-of-others-auth", "flowrunner": {"auth": "hook-bearer", "signing_key": "canary-signing"}}
    define(monkeypatch, host="h", password="canary-of-auth-password", extra=extra)
    assert connection("shop").host == "h"
    assert hidden == ["canary-of-auth-password", "canary-of-others-auth", "canary-signing"]
    assert redact("one of 'hook-bearer'") == "one of 'hook-bearer'"


def test_each_secret_of_a_list_is_masked() -> None:
    mask_sensitive({"webhook": {"secret": ["canary-old-4711", "canary-new-4712", 5, {"token": "canary-deep-4713"}]}})
    assert redact("canary-old-4711 canary-new-4712 canary-deep-4713") == "*** *** ***"


@pytest.mark.parametrize(
    ("connection", "field", "text"),
    [
        ({"host": "h", "extra": "[1]"}, "extra", "must be a JSON object, not list"),
        ({"host": "h", "extra": "{not json"}, "extra", "extra is not JSON"),
        ({"host": "h", "extra": {"flowrunner": "fast"}}, "flowrunner", "must be an object, not str"),
        ({"host": "h", "extra": {"flowrunner": {"regoin": "eu"}}}, "regoin", "did you mean 'region'"),
        ({"host": "h", "extra": {"flowrunner": {"region": 5}}}, "region", "must be str, not int"),
        ({}, "host", "Set the connection's host"),
    ],
)
def test_bad_connections_name_the_field(
    monkeypatch: pytest.MonkeyPatch, connection: dict[str, Any], field: str, text: str
) -> None:
    define(monkeypatch, **connection)
    with pytest.raises(ConfigError, match=text) as caught:
        _ = ShopHook().config
    assert caught.value.field == field
    assert "'shop'" in str(caught.value)


def test_an_unknown_connection_says_how_to_create_it() -> None:
    with pytest.raises(ConfigError, match=r"'nowhere' is not defined -> .*AIRFLOW_CONN_NOWHERE"):
        _ = ShopHook("nowhere").config


def test_test_connection_is_actionable_and_keeps_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    define(monkeypatch, host="h", password="canary-of-password")
    assert ShopHook().test_connection() == (False, "login refused with *** -> check the password")
    assert ShopHook("nowhere").test_connection()[0] is False


def test_a_trigger_reads_a_connection_without_blocking_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    def blocking(*_: Any) -> None:
        raise AssertionError("blocks the event loop")

    told: list[str] = []

    async def amask_secret(secret: str) -> None:
        told.append(secret)

    define(monkeypatch, host="h", password="pw-canary-async", extra={"api_token": "token-canary-async"})
    monkeypatch.setattr(ShopHook, "get_connection", blocking)
    monkeypatch.setattr(masking, "mask_secret", blocking)
    monkeypatch.setattr(masking, "amask_secret", amask_secret)
    hook = ShopHook()
    asyncio.run(hook.aload())
    assert hook.config.password == "pw-canary-async"
    assert told == ["pw-canary-async", "token-canary-async"]
    assert redact("pw-canary-async token-canary-async") == "*** ***"
    with pytest.raises(ConfigError, match="is not defined"):
        asyncio.run(ShopHook("nowhere").aload())


def test_what_an_error_comes_from_shows_no_secret_either():
    """Airflow logs the whole chain of causes; its masker does not know the encodings of a secret."""

    class Stubborn(Exception):
        def __str__(self):
            return "password canary-9933-canary"

    mask(["canary-9933-canary"])
    encoded = base64.b64encode(b"\0user\0canary-9933-canary").decode()
    for cause in (ValueError(535, f"AUTH PLAIN {encoded}"), ExceptionGroup("both", [KeyError(encoded)]), Stubborn()):
        between, error = Rejected(f"no: {encoded}", status=535), AccessDenied(f"no: {encoded}")
        between.__context__, error.__cause__ = cause, between
        redact_error(error)
        shown = "".join(traceback.format_exception(error))
        assert "canary" not in shown
        assert encoded not in shown
        assert "AccessDenied: no: " in shown


def test_one_connection_serves_several_services(monkeypatch: pytest.MonkeyPatch) -> None:
    from flowrunner_provider.email.hooks.ses import FlowRunnerSesHook
    from flowrunner_provider.files.hooks.s3 import FlowRunnerS3Hook
    from flowrunner_provider.sms.hook import SnsSmsHook

    options = {
        "timeout": 7, "s3": {"bucket": "raw", "timeout": 9}, "ses": {"configuration_set": "events"},
        "sns": {"sms_type": "Promotional"},
    }  # fmt: skip
    extra = {"region_name": "eu-central-1", "flowrunner": options}
    define(monkeypatch, conn_type="aws", login="AK", password="SK", extra=extra)
    s3, ses, sns = FlowRunnerS3Hook("shop").config, FlowRunnerSesHook("shop").config, SnsSmsHook("shop").config
    assert (s3.bucket, s3.timeout) == ("raw", 9)
    assert (ses.configuration_set, ses.timeout) == ("events", 7)
    assert (sns.sms_type, sns.region) == ("Promotional", "eu-central-1")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"s3": "raw"}, "s3"),
        ({"configuration_set": "events"}, "configuration_set"),
        ({"s3": {"bukket": "x"}}, "bukket"),
    ],
)
def test_what_no_service_knows_is_refused(monkeypatch: pytest.MonkeyPatch, options: Any, field: str) -> None:
    from flowrunner_provider.files.hooks.s3 import FlowRunnerS3Hook

    define(monkeypatch, conn_type="aws", extra={"flowrunner": options})
    with pytest.raises(ConfigError) as caught:
        _ = FlowRunnerS3Hook("shop").config
    assert caught.value.field == field
