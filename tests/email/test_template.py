"""Templates are rendered exactly, escape HTML, and fail with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError
from flowrunner_provider.email.template import is_html, render


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "layout.html").write_text("<html>\n  {% block body %}{% endblock %}\n</html>\n")
    (tmp_path / "mail.html").write_text('{% extends "layout.html" %}{% block body %}<b>{{ name }}</b>{% endblock %}')
    (tmp_path / "pre.html").write_text("Hello\n\nworld\n<pre>\n a\n  b</pre>\n\n")
    (tmp_path / "plain.txt").write_text("{{ name }}")
    (tmp_path / "syntax.html").write_text("one\ntwo\n{% if %}\n")
    (tmp_path / "undefined.html").write_text("one\n{{ nobody }}\n")
    (tmp_path / "inner.html").write_text("one\n{{ row.nothing.deep }}\n")
    (tmp_path / "sum.html").write_text("{{ name + 1 }}")
    (tmp_path / "include.html").write_text("x\n{% include 'undefined.html' %}")
    (tmp_path / "sub" / "odd.html").write_bytes(b"\xff\xfe")
    return tmp_path


def test_white_space_is_kept(folder: Path) -> None:
    assert render("pre.html", {}, folder) == "Hello\n\nworld\n<pre>\n a\n  b</pre>\n\n"


def test_layouts_escaping_and_values_that_look_like_templates(folder: Path) -> None:
    context = {"name": "{{ 7 * 7 }} <i>{% raw %}"}
    assert render("mail.html", context, folder) == ("<html>\n  <b>{{ 7 * 7 }} &lt;i&gt;{% raw %}</b>\n</html>\n")
    assert render("plain.txt", context, folder) == context["name"]
    assert render(str(folder / "plain.txt"), context, "/elsewhere") == context["name"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("syntax.html", "syntax.html, line 3"),
        ("undefined.html", "undefined.html, line 2: 'nobody' is undefined"),
        ("include.html", "undefined.html, line 2"),
        ("inner.html", "inner.html, line 2"),
        ("sum.html", "sum.html, line 1"),
        ("missing.html", "no template"),
        ("../outside.html", "no template"),
        ("sub/odd.html", "not UTF-8"),
    ],
)
def test_errors_name_file_and_line(folder: Path, template: str, text: str) -> None:
    context: dict[str, Any] = {"row": {}, "name": "x"}
    with pytest.raises(ConfigError, match="template") as caught:
        render(template, context, folder)
    assert text in str(caught.value)
    assert caught.value.field == "template"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.html", True), ("a.HTM", True), ("a.html.j2", True), ("a.txt", False), ("a.txt.j2", False), ("a", False),
     ("a.j2", False), (None, False)],
)  # fmt: skip
def test_which_files_are_html(name: str | None, expected: bool) -> None:
    assert is_html(name) is expected
