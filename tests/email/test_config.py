"""The connection: official fields as the official hook reads them, only strictly."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, MissingCredential
from flowrunner_provider.email.config import SmtpConfig
from flowrunner_provider.email.hook import FlowRunnerSmtpHook


def config(monkeypatch: pytest.MonkeyPatch, value: Any) -> SmtpConfig:
    text = value if isinstance(value, str) else json.dumps({"conn_type": "smtp", "host": "mail.test", **value})
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", text)
    return FlowRunnerSmtpHook("mail").config


@pytest.mark.parametrize(
    ("query", "security", "port"),
    [
        ("", "tls", 465),
        ("?disable_tls=true", "tls", 465),
        ("?disable_ssl=true", "starttls", 587),
        ("?disable_ssl=true&disable_tls=false", "starttls", 587),
        ("?disable_ssl=True&disable_tls=False", "starttls", 587),
        ("?disable_ssl=1&disable_tls=0", "starttls", 587),
        ("?disable_ssl=false&disable_tls=false", "tls", 465),
        ("?disable_ssl=yes&disable_tls=on", "plain", 25),
    ],
)
def test_false_means_false(monkeypatch: pytest.MonkeyPatch, query: str, security: str, port: int) -> None:
    found = config(monkeypatch, f"smtp://mail.test/{query}")
    assert (found.security, found.effective_port) == (security, port)


def test_official_fields_and_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {
        "from_email": "a@b.org", "timeout": "12", "retry_limit": 7, "ssl_context": "none", "auth_type": "basic",
        "subject_template": "/s.txt", "html_content_template": "/h.html",
        "flowrunner": {"rate_limit": "10/minute", "message_id_domain": "b.org", "max_total_size": 5},
    }  # fmt: skip
    found = config(monkeypatch, {"port": 2525, "login": "u", "password": "p4ss", "extra": extra})
    assert (found.server, found.user, found.from_email, found.timeout) == ("mail.test:2525", "u", "a@b.org", 12.0)
    assert (found.verify, found.rate_limit, found.message_id_domain) == (False, "10/minute", "b.org")
    assert (found.max_total_size, found.subject_template) == (5, "/s.txt")
    assert "p4ss" not in str(FlowRunnerSmtpHook("mail").test_connection())


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"host": ""}, "host"),
        ({"extra": {"disable_tls": "maybe"}}, "disable_tls"),
        ({"extra": {"disable_ssl": 5}}, "disable_ssl"),
        ({"extra": {"timeout": "soon"}}, "timeout"),
        ({"extra": {"timeout": 0}}, "timeout"),
        ({"extra": {"timeout": True}}, "timeout"),
        ({"extra": {"ssl_context": "insecure"}}, "ssl_context"),
        ({"extra": {"auth_type": "kerberos"}}, "auth_type"),
        ({"extra": {"from_email": 5}}, "from_email"),
        ({"extra": {"flowrunner": {"rate_limits": "1/second"}}}, "rate_limits"),
        ({"extra": {"flowrunner": {"message_id_domain": "a b>"}}}, "message_id_domain"),
        ({"extra": {"flowrunner": {"max_total_size": "20MB"}}}, "max_total_size"),
        ({"extra": {"flowrunner": 5}}, "flowrunner"),
        ({"extra": "[]"}, "extra"),
        ({"port": 70000}, "port"),
    ],
)
def test_bad_values_are_named(monkeypatch: pytest.MonkeyPatch, value: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(monkeypatch, value)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "value",
    [
        {"login": "u"},
        {"login": "u", "extra": {"auth_type": "oauth2"}},
        {"extra": {"auth_type": "oauth2", "access_token": "t"}},
    ],
)
def test_missing_credentials(monkeypatch: pytest.MonkeyPatch, value: dict[str, Any]) -> None:
    with pytest.raises(MissingCredential):
        config(monkeypatch, value)


def test_an_unknown_connection() -> None:
    with pytest.raises(ConfigError, match="'nowhere' is not defined"):
        _ = FlowRunnerSmtpHook("nowhere").config
