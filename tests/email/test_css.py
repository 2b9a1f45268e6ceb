"""Styles in the elements, where every mail reader finds them; nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import MissingExtra
from flowrunner_provider.email.css import inline_styles
from tests.email.support import BatchScene, Scene, connect, people, send, send_batch
from tests.support.http_server import HttpServer
from tests.support.smtp_sink import SmtpSink

STYLED = "<style>.red { color: red } @media (max-width: 9em) { .red { color: blue } }</style><p class='red'>x</p>"


@pytest.fixture
def scene(tmp_path: Path, smtp_sink: SmtpSink) -> Scene:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    return Scene(tmp_path / "scene", smtp_sink.directory)


def test_rules_become_attributes_and_media_queries_stay() -> None:
    html = inline_styles(STYLED)
    assert 'style="color: red;"' in html or 'style="color: red"' in html
    assert "@media" in html
    assert ".red { color: red }" not in html


def test_without_styles_not_a_byte_changes() -> None:
    for html in ("<p>a\n b</p>", "<stylex>", '<link rel="stylesheet" href="x.css"><pre>\n a</pre>', ""):
        assert inline_styles(html) == html


def test_white_space_is_kept() -> None:
    assert "<pre>a\n\n  b</pre>" in inline_styles("<style>p { color: red }</style><pre>a\n\n  b</pre>")


def test_nothing_is_fetched(http_server: HttpServer, tmp_path: Path) -> None:
    (tmp_path / "local.css").write_text("p { color: green }")
    links = "".join(
        f'<link rel="stylesheet" href="{address}">'
        for address in (f"{http_server.url}/a.css", f"file://{tmp_path}/local.css", str(tmp_path / "local.css"))
    )
    html = inline_styles(
        f"{links}<style>@import url({http_server.url}/b.css); i {{ color: red }}</style><p>x</p><i>y</i>"
    )
    assert "green" not in html
    assert html.count("<link") == 3
    assert not http_server.requests


def test_in_mails_unless_it_is_turned_off(scene: Scene, smtp_sink: SmtpSink, tmp_path: Path) -> None:
    (tmp_path / "t.html").write_text(STYLED)
    send(scene, html=None, template=str(tmp_path / "t.html"))
    off = Scene(tmp_path / "off", scene.mailbox)
    off.directory.mkdir()
    send(off, html=STYLED, inline_css=False)
    first, second = (mail.message.get_body(("html",)).get_content() for mail in smtp_sink.mails())
    assert 'style="color: red' in first
    assert second.replace("\r\n", "\n") == STYLED + "\n"
    assert [mail.message.get_body(("plain",)).get_content().strip() for mail in smtp_sink.mails()] == ["x", "x"]


def test_in_a_batch(tmp_path: Path, smtp_sink: SmtpSink) -> None:
    connect(smtp_sink)
    (tmp_path / "scene").mkdir()
    html = "<style>p { color: {{ 'red' if id else 'blue' }} }</style><p>{{ name }}</p>"
    send_batch(BatchScene(tmp_path / "scene", smtp_sink.directory, people(2)), html=html)
    bodies = sorted(mail.message.get_body(("html",)).get_content() for mail in smtp_sink.mails())
    assert ["blue" in body for body in bodies] == [True, False]
    assert all("&lt;b&gt;" in body for body in bodies)


def test_a_missing_package_is_named_only_where_it_is_needed(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "css_inline", None)
    with pytest.raises(MissingExtra, match=r"\[email\]"):
        inline_styles(STYLED)
    assert send(scene)["accepted"] == 2
