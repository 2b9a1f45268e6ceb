"""OAuth settings: what is refused before anything is sent, and what never shows."""

from __future__ import annotations

import dataclasses
import json
import traceback
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.core.spec import from_mapping, schema_of_dataclass, secret_fields
from flowrunner_provider.transport.oauth_settings import ClientCredentials, JwtBearer, OAuthSettings, RefreshToken
from flowrunner_provider.transport.oauth_signing import signed

URL = "https://idp.example.com/token"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
GRANTS: list[type[OAuthSettings]] = [ClientCredentials, RefreshToken, JwtBearer]
GOOD = {"token_url": URL, "client_id": "etl", "client_secret": "s3cr3t-value"}


def pem(key, password: bytes | None = None, form=serialization.PrivateFormat.PKCS8) -> str:
    locked = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, locked).decode()


@pytest.fixture(scope="module")
def rsa_key():
    return rsa.generate_private_key(65537, 2048)


@pytest.mark.parametrize(
    ("cls", "values", "field"),
    [
        (ClientCredentials, {"token_url": ""}, "token_url"),
        (ClientCredentials, {"client_id": ""}, "client_id"),
        (ClientCredentials, {"client_secret": ""}, "client_secret"),
        (ClientCredentials, {"client_secret": "", "client_auth": "client_secret_post"}, "client_secret"),
        (ClientCredentials, {"client_auth": "private_key_jwt"}, "private_key"),
        (ClientCredentials, {"client_auth": "none"}, "client_auth"),
        (ClientCredentials, {"client_auth": "tls_client_auth"}, "client_auth"),
        (ClientCredentials, {"algorithm": "none"}, "algorithm"),
        (ClientCredentials, {"algorithm": "HS256"}, "algorithm"),
        (ClientCredentials, {"client_id": "etl\r\nX: y"}, "client_id"),
        (ClientCredentials, {"key_id": "k\n"}, "key_id"),
        (ClientCredentials, {"scope": 'read "all"'}, "scope"),
        (ClientCredentials, {"token_timeout": 0}, "token_timeout"),
        (ClientCredentials, {"token_timeout": float("inf")}, "token_timeout"),
        (ClientCredentials, {"assumed_lifetime": -1}, "assumed_lifetime"),
        (ClientCredentials, {"issuer": "https://idp.example.com/?x=1"}, "issuer"),
        (RefreshToken, {}, "refresh_token"),
        (RefreshToken, {"refresh_token": "r", "client_id": "", "client_auth": "none"}, "client_id"),
        (JwtBearer, {}, "private_key"),
        (JwtBearer, {"private_key": "k", "client_id": ""}, "assertion_issuer"),
        (JwtBearer, {"private_key": "k", "assertion_lifetime": 3601}, "assertion_lifetime"),
        (JwtBearer, {"private_key": "k", "claims": {"aud": "x"}}, "claims"),
        (JwtBearer, {"private_key": "k", "claims": {"exp": 1}}, "claims"),
        (JwtBearer, {"private_key": "k", "claims": {"password": "x"}}, "claims"),
        *[
            (ClientCredentials, {"extra_params": {name: "x"}}, "extra_params")
            for name in (
                "client_secret", "Client_Secret", "client_id", "grant_type", "scope", "assertion", "refresh_token",
                "client_assertion", "api_key", "my_password", "a b", "x\r\n", "", "é",
            )
        ],
        (ClientCredentials, {"extra_params": {"tenant": 7}}, "extra_params"),
    ],
)  # fmt: skip
def test_bad_settings_name_their_field(cls, values, field):
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, {**GOOD, **values}, where="connection 'shop'")
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize(
    "url",
    [
        "http://idp.example.com/token",
        "http://127.0.0.1.example.com/token",
        "http://2130706433/token",
        "http://localhost.example.com/token",
        "ftp://idp.example.com/token",
        "idp.example.com/token",
        "https:///token",
        "https://user:pw@idp.example.com/token",
        "https://idp.example.com/token#x",
        "https://idp.example.com/token?client_secret=abc",
        "https://idp.example.com/token?grant_type=password",
        "https://idp.example.com/token?api_key=abc",
        "https://idp.example.com/to ken",
        "https://idp.example.com/\r\n",
        "https://[::1/token",
        "https://idp.example.com:port/token",
        "file:///etc/passwd",
    ],
)
@pytest.mark.parametrize("field", ["token_url", "issuer"])
def test_a_secret_goes_to_https_or_loopback_only(url, field):
    with pytest.raises(ConfigError) as caught:
        ClientCredentials(**{**GOOD, "token_url": "", field: url})
    assert caught.value.field == field


@pytest.mark.parametrize(
    "url", [URL, f"{URL}?api-version=2", "http://127.0.0.1:8080/token", "http://[::1]/token", "http://localhost/token"]
)
def test_good_token_urls(url):
    assert ClientCredentials(**{**GOOD, "token_url": url}).home == url


def test_plain_http_is_a_decision():
    url = "http://idp.example.com/token"
    assert ClientCredentials(**{**GOOD, "token_url": url}, allow_http=True).home == url


def test_a_missing_secret_is_a_missing_credential():
    with pytest.raises(MissingCredential):
        ClientCredentials(token_url=URL, client_id="etl")


@pytest.mark.parametrize("cls", GRANTS)
def test_secrets_are_declared_and_do_not_show(cls):
    secrets = {"client_secret", "private_key", "private_key_password"} | (
        {"refresh_token"} if cls is RefreshToken else set()
    )
    assert set(secret_fields(cls)) == secrets
    canaries = {name: f"canary-{name}" for name in secrets}
    settings = cls(token_url=URL, client_id="etl", **canaries)
    assert "canary" not in repr(settings)
    assert set(canaries.values()) <= set(settings.secrets())
    schema = schema_of_dataclass(cls)["properties"]
    assert all(schema[name]["format"] == "password" for name in secrets)
    assert all(field.metadata.get("label") for field in dataclasses.fields(cls))


def test_the_form_holds_what_was_set_and_nothing_else():
    settings = ClientCredentials(
        **GOOD, scope=" a  b ", audience="api", resource="urn:x urn:y", extra_params={"tenant": "t1"}
    )
    assert settings.form() == [
        ("grant_type", "client_credentials"), ("scope", "a b"), ("audience", "api"),
        ("resource", "urn:x"), ("resource", "urn:y"), ("tenant", "t1"),
    ]  # fmt: skip


def bearer(key: str, **more) -> JwtBearer:
    return JwtBearer(token_url=URL, client_id="etl", private_key=key, **more)


def test_keys_in_every_usual_form_sign(rsa_key):
    from joserfc import jwt
    from joserfc.jwk import RSAKey

    text = pem(rsa_key)
    for key, password in [
        (text, ""),
        (text.replace("\n", "\\n"), ""),
        (pem(rsa_key, form=serialization.PrivateFormat.TraditionalOpenSSL), ""),
        (pem(rsa_key, b"pass phrase"), "pass phrase"),
        (json.dumps(RSAKey.import_key(text).as_dict(private=True)), ""),
    ]:
        token = signed(bearer(key, private_key_password=password, key_id="k1"), {"iss": "etl"}, now=NOW, lifetime=60)
        read = jwt.decode(token, RSAKey.import_key(text), algorithms=["RS256"])
        assert read.header == {"typ": "JWT", "alg": "RS256", "kid": "k1"}
        assert read.claims["iss"] == "etl"
        assert read.claims["exp"] - read.claims["iat"] == 60
        assert len(read.claims["jti"]) >= 24


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_keys_that_cannot_sign_are_named_and_not_shown(rsa_key):
    weak, curve = rsa.generate_private_key(65537, 1024), ec.generate_private_key(ec.SECP384R1())
    public = rsa_key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for key, more in [
        ("canary-not-a-key", {}),
        ("{canary", {}),
        ('{"kty": "oct", "k": "Y2FuYXJ5LWNhbmFyeS1jYW5hcnk"}', {}),
        ('{"kty": "RSA"}', {}),
        ("[]", {}),
        (public.decode(), {}),
        (pem(weak), {}),
        (pem(rsa_key, b"pw"), {}),
        (pem(rsa_key, b"pw"), {"private_key_password": "canary-wrong"}),
        (pem(rsa_key), {"algorithm": "ES256"}),
        (pem(curve), {"algorithm": "ES256"}),
        (pem(curve), {"algorithm": "EdDSA"}),
    ]:
        with pytest.raises(ConfigError) as caught:
            signed(bearer(key, **more), {"iss": "etl"}, now=NOW, lifetime=60)
        assert caught.value.field == "private_key"
        shown = "".join(traceback.format_exception(caught.value))
        assert "canary" not in shown
        assert not any(line in shown for line in key.splitlines() if len(line) > 40)


def test_each_assertion_is_good_once(rsa_key):
    settings = bearer(pem(rsa_key))
    assert len({signed(settings, {}, now=NOW, lifetime=60) for _ in range(5)}) == 5


def test_without_the_package_the_extra_is_named(monkeypatch, rsa_key):
    import sys

    monkeypatch.setitem(sys.modules, "joserfc", None)
    monkeypatch.delitem(sys.modules, "joserfc.jwt", raising=False)
    with pytest.raises(ConfigError, match=r"airflow-provider-flowrunner\[oauth\]"):
        signed(bearer(pem(rsa_key)), {}, now=NOW, lifetime=60)


def test_claims_of_an_assertion():
    plain = bearer("k", scope="a b", scope_as_claim=True, claims={"tenant": "t"}, subject="alice")
    assert plain.assertion() == {"tenant": "t", "scope": "a b", "iss": "etl", "sub": "alice"}
    assert plain.form() == [("grant_type", JwtBearer.grant_type)]
    assert bearer("k", assertion_issuer="svc@example.com").assertion() == {
        "iss": "svc@example.com",
        "sub": "svc@example.com",
    }
