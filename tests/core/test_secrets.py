"""Secrets stay out of what is printed, whatever the spelling."""

from __future__ import annotations

import base64
import copy
import json
import logging
import pickle
import string
import time
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.secrets import Redactor, Secret, is_sensitive_key, redact_mapping, redact_url

SENSITIVE = [
    "password", "PASSWORD", "Passwd", "db_password", "userPassword", "PGPASSWORD", "smtp_pwd", "passphrase",
    "passwords", "secret", "clientSecret", "client_secret", "CLIENT-SECRET", "mysecret", "secrets",
    "aws_secret_access_key", "secretName", "token", "access_token", "accessToken", "refreshtoken", "id_token",
    "X-Auth-Token", "PRIVATE-TOKEN", "OAuth2Token", "api_key", "apikey", "apiKey", "APIKey", "X-Api-Key", "X-API-KEY",
    "xAPIkey", "api.key", "apikeys", "access_key", "aws_access_key_id", "account_key", "AccountKey",
    "SharedAccessKey", "storageKey", "master-key", "subscription_key", "Ocp-Apim-Subscription-Key", "sas",
    "sas_token", "SAS-URL", "sig", "signature", "X-Hub-Signature-256", "X-Amz-Signature", "private_key", "privateKey",
    "private_key_passphrase", "rsa_private_key_2", "authorization", "Proxy-Authorization", "auth", "basic_auth",
    "bearer", "cookie", "Set-Cookie", "cookies", "assertion", "client_assertion", "credential", "credentials",
    "X-Amz-Credential", "keyfile_json", "keyfileJson", "key_file_json", "keyfile_dict", "pfx", "hmac", "hmac_key",
    "upload_url", "uploadUrl", "presigned_url", "webhook_url", "dsn", "sentry_dsn", "connection_string", "ConnStr",
    "session_id", "sessionid", "jwt", "otp", "signing_key", "extra__google_cloud_platform__keyfile_json",
    " password ", "ｐassword_token", "token_url_token",
]  # fmt: skip
HARMLESS = [
    "", "author", "authors", "authority", "auth_type", "authenticated", "tokenizer", "tokenize", "max_tokens",
    "total_tokens", "maxTokens", "token_url", "tokenUri", "token_type", "token_endpoint", "passenger", "passengers",
    "pass", "bypass", "compass", "signal", "signals", "design", "assign", "sassafras", "sasl_mechanism", "sass",
    "key", "keys", "keyboard", "monkey", "key_file", "primary_key", "foreign_key", "sort_key", "idempotency_key",
    "Idempotency-Key", "secretary", "secretariat", "cookiecutter", "hotpot", "url", "base_url", "upload", "session",
    "sessions", "host", "login", "user", "path", "topsecretary", "X-Request-Id", "Content-Type", "traceparent",
    "rate_limit", "digest", "schema", "port", "credentialed", "dsnr", "pwdx", "🔑",
]  # fmt: skip

letters = st.sampled_from(string.printable.replace("*", "") + "äßé€🚀\u2028\udc80")
# Not made of letters only: those that the redactor takes for everyday words are.
secret_values = st.text(letters, min_size=6, max_size=40).filter(lambda v: len(set(v)) > 3 and not v.isalpha())
noise = st.text(string.ascii_letters + " :/=&'\"\\%\n{}", max_size=30)


def spellings(value: str) -> set[str]:
    """What the guarantee promises, spelled out independently of the module."""
    raw = value.encode("utf-8", "surrogatepass")
    return {
        value, quote(raw), quote(raw, safe=""), quote_plus(raw), json.dumps(value)[1:-1],
        json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1],
        base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode(),
        base64.b64encode(raw).decode().rstrip("="),
    }  # fmt: skip


@pytest.mark.parametrize("name", SENSITIVE)
def test_a_sensitive_name(name: str) -> None:
    assert is_sensitive_key(name)


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_name(name: str) -> None:
    assert not is_sensitive_key(name)


@given(st.lists(secret_values, min_size=1, max_size=4), st.lists(noise, min_size=5, max_size=5), st.data())
def test_no_secret_is_left_in_any_spelling(values: list[str], between: list[str], data: st.DataObject) -> None:
    redactor = Redactor(values)
    forbidden = sorted({spelling for value in values for spelling in spellings(value)})
    shown = data.draw(st.lists(st.sampled_from(forbidden), min_size=1, max_size=4))
    text = "".join(part for pair in zip(between, [*shown, ""], strict=False) for part in pair)
    clean = redactor.redact(text)
    assert [spelling for spelling in forbidden if spelling in clean] == []


@given(secret_values, st.sampled_from(["", "...", "…"]), st.data())
def test_a_secret_that_was_cut_off_is_hidden_too(value: str, ellipsis: str, data: st.DataObject) -> None:
    spelling = data.draw(st.sampled_from(sorted(spellings(value))))
    if len(spelling) > 8:
        kept = spelling[: data.draw(st.integers(8, len(spelling) - 1))]
        assert kept not in Redactor([value]).redact(f"Authorization: {kept}{ellipsis}")


@given(st.lists(secret_values, max_size=3), st.text(alphabet="0123456789 .", max_size=50))
def test_other_text_stays_as_it_is(values: list[str], text: str) -> None:
    kept = [v for v in values if set(v) - set("0123456789 .")]
    assert Redactor(f"#{v}#" for v in kept).redact(text) == text


def test_redaction_is_readable() -> None:
    redactor = Redactor(["hunter22", "hunter22-and-more", "user:hunter22"])
    basic = base64.b64encode(b"user:hunter22").decode()
    assert redactor.redact(f"a hunter22 b hunter22-and-more c Basic {basic}; d") == "a *** b *** c Basic ***; d"
    assert redactor.redact("") == ""
    assert Redactor().redact("hunter22") == "hunter22"


def test_secrets_may_be_added_later() -> None:
    redactor = Redactor(["first-one"])
    assert redactor.redact("first-one second-one") == "*** second-one"
    redactor.add("second-one")
    assert redactor.redact("first-one second-one") == "*** ***"


@pytest.mark.parametrize(
    "value", ["", "abc", "true", "None", "localhost", "Airflow", "password", "aaaaaaaa", "****", "    "]
)
def test_trivial_values_are_not_hidden(value: str) -> None:
    text = f"{value} abc true None localhost Airflow aaaaaaaa ****"
    assert Redactor([value]).redact(text) == text


def test_each_line_of_a_key_file_is_hidden() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG\n9w0BAQEFAASCBKcwggSj\nAg==\n-----END PRIVATE KEY-----\n"
    redactor = Redactor([key])
    assert redactor.redact("line 2: 9w0BAQEFAASCBKcwggSj") == "line 2: ***"
    assert redactor.redact(json.dumps({"k": key})) == '{"k": "***"}'
    assert redactor.redact("-----BEGIN PRIVATE KEY-----") == "***"  # cut off at the end


def test_secrets_that_continue_each_other_are_hidden_as_a_whole() -> None:
    longest = "".join(f"{number:04d}" for number in range(1000, 1150))
    values = [longest[:end] for end in range(6, len(longest), 2)]
    redactor = Redactor(values)
    assert [redactor.redact(f"a {value} b") for value in values] == ["a *** b"] * len(values)


@pytest.mark.parametrize(
    ("url", "redacted"),
    [
        ("https://example.org/a?b=1#c", "https://example.org/a?b=1#c"),
        ("postgresql://user:s3cret@db:5432/x", "postgresql://***@db:5432/x"),
        ("https://ghp_token@github.com/x", "https://***@github.com/x"),
        ("https://u:p@ss@h/x@y", "https://***@h/x@y"),
        ("https://h/x?access_token=abc&page=2&sig=d%3D&sv=1", "https://h/x?access_token=***&page=2&sig=***&sv=1"),
        ("https://h/x?X-Amz-Signature=a;api%5Fkey=b&key=AIza&code=9", "https://h/x?X-Amz-Signature=***;api%5Fkey=***&key=***&code=***"),
        ("https://h/#access_token=abc&token_type=bearer", "https://h/#access_token=***&token_type=bearer"),
        ("https://h/?token=", "https://h/?token="),
        ("https://h/?token", "https://h/?token"),
        ("https://h/?q=a=token=b", "https://h/?q=a=token=b"),
        ("", ""),
        ("not a url", "not a url"),
    ],
)  # fmt: skip
def test_redact_url(url: str, redacted: str) -> None:
    assert redact_url(url) == redacted


def test_redact_mapping_keeps_the_shape() -> None:
    data = {
        "host": "h",
        "url": "https://u:p@h/?token=t",
        "password": "x",
        "port": 5,
        "apiKey": None,
        "verify_auth": True,
        "secret": "",
        "tokens": ["a", {"b": 1, "c": [2, ("d",)]}],
        "nested": [{"Authorization": "Bearer x", "q": 1}, ["plain"], {1: {"pfx": b"raw"}}],
        "held": Secret("hunter22"),
    }
    before = copy.deepcopy(data)
    assert redact_mapping(data) == {
        "host": "h",
        "url": "https://***@h/?token=***",
        "password": "***",
        "port": 5,
        "apiKey": None,
        "verify_auth": True,
        "secret": "",
        "tokens": ["***", {"b": "***", "c": ["***", ("***",)]}],
        "nested": [{"Authorization": "***", "q": 1}, ["plain"], {1: {"pfx": "***"}}],
        "held": Secret("hunter22"),
    }
    assert data == before


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just("canary"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "token", "b"]), inner, max_size=3)
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["x", "password", "list"]), json_like, max_size=3))
def test_nothing_under_a_sensitive_key_is_left(data: dict[str, Any]) -> None:
    def check(before: Any, after: Any, hidden: bool) -> None:
        if isinstance(before, dict):
            assert list(before) == list(after)
            for key, value in before.items():
                check(value, after[key], hidden or key in ("token", "password"))
        elif isinstance(before, list):
            assert len(before) == len(after)
            for old, new in zip(before, after, strict=True):
                check(old, new, hidden)
        else:
            assert after == ("***" if hidden and before is not None and not isinstance(before, bool) else before)

    check(data, redact_mapping(data), False)


def test_a_mapping_that_holds_itself_ends() -> None:
    loop: dict[str, Any] = {"a": 1}
    loop["self"] = loop
    assert redact_mapping(loop)["self"]["a"] == 1


def test_a_secret_does_not_show_itself(caplog: pytest.LogCaptureFixture) -> None:
    secret = Secret("hunter22")
    logging.getLogger(__name__).warning("%s %r %s", secret, secret, {"k": [secret]})
    shown = [str(secret), repr(secret), f"{secret} {secret!r} {secret:>10}", f"{[secret]}", caplog.text]
    assert not any("hunter" in text for text in shown)
    assert f"{secret:>5}" == "  ***"
    assert secret.reveal() == "hunter22"


def test_a_secret_cannot_be_changed_pickled_or_dumped() -> None:
    secret = Secret("hunter22")
    with pytest.raises(AttributeError):
        secret._value = "x"
    with pytest.raises(AttributeError):
        del secret._value
    with pytest.raises(AttributeError):
        secret.other = 1  # type: ignore[attr-defined]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="pickled"):
            pickle.dumps(secret, protocol)
    with pytest.raises(TypeError):
        json.dumps({"k": secret})
    with pytest.raises(TypeError):
        vars(secret)
    assert copy.copy(secret) is secret
    assert copy.deepcopy({"k": secret})["k"] is secret


def test_secrets_compare_by_value_and_only_with_secrets() -> None:
    assert Secret("hunter22") == Secret("hunter22")
    assert hash(Secret("hunter22")) == hash(Secret("hunter22"))
    assert Secret("hunter22") != Secret("hunter23")
    assert Secret("é\udc80") == Secret("é\udc80")
    assert Secret("hunter22") != "hunter22"
    assert bool(Secret("x"))
    assert not Secret("")


SLOW_UNITS = [
    "a", "A", "aA", "_", " ", "password", "token ", "?", "&a", "&a=b", "&token=x", "://", "@", "#=", "key", "%41",
    "\\", "'",
]  # fmt: skip


@pytest.mark.parametrize("unit", SLOW_UNITS)
def test_a_megabyte_is_redacted_at_once(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    for redact in (redact_url, is_sensitive_key, lambda text: redact_url(f"https://{text}")):
        began = time.process_time()
        redact(text)
        assert time.process_time() - began < 1


def test_many_secrets_cost_no_more_than_one_pass() -> None:
    redactor = Redactor(f"{number * 7919 % 100_003:06d}-secret/{number}é" for number in range(200))
    redactor.redact("warm-up")
    text = "0123456789 abc-secret/ %2F" * 40_000
    began = time.process_time()
    assert redactor.redact(text) == text
    assert time.process_time() - began < 1


# -- many secrets


def secret(number: int) -> str:
    return f"s3cr3t/{number:06}/{'x' * 20}"


def test_many_secrets_are_all_hidden():
    redactor = Redactor(map(secret, range(1_000)))
    shown = redactor.redact(" ".join(map(secret, range(1_000))))
    assert shown == " ".join(["***"] * 1_000)


def test_a_secret_within_another_one_shows_none_of_its_ends():
    redactor = Redactor(["abcdefgh"])
    redactor.add_all(map(secret, range(500)))
    redactor.add("1234abcdefgh5678")
    assert redactor.redact("<1234abcdefgh5678>") == "<***>"


def test_what_is_used_again_is_not_let_go_of():
    redactor = Redactor(["the-password-of-years"])
    for number in range(20_000):
        if number % 500 == 0:
            redactor.add("the-password-of-years")
        redactor.add(secret(number))
    assert redactor.redact("the-password-of-years") == "***"
    assert redactor.redact(secret(19_000)) == "***"
    assert redactor.redact(secret(0)) == secret(0), "a token of long ago, which would make each new one cost more"
