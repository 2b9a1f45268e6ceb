"""A name from elsewhere is used exactly or refused; it never chooses the folder."""

from __future__ import annotations

import string
import time
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowrunner_provider.core.errors import PathEscape
from flowrunner_provider.core.names import (
    MAX_NAME_BYTES,
    Insides,
    collisions,
    filename_from_disposition,
    is_part_name,
    join_inside,
    part_name,
    resolve_inside,
    safe_component,
)

TRAVERSALS = [
    "", ".", "..", "...", ".. ", " ..", ". .", "../", "/", "//", "\\", "..\\", "/etc/passwd", "../etc/passwd",
    "a/../b", "a/b", "....//", "..;/x", "a\\b", "\\\\host\\share", "\\\\?\\C:\\x", "C:", "c:x.txt", "C:\\x",
    "C:/x", "a:b", "file:///etc/passwd", "a\0.txt", "\0", "a\n", "a\rb", "\x1b[2J", "a\x7f", "a\x85b",
    "a\u2028b", "a\u2029b", "%2e", "%2e%2e", "%2E%2E", ".%2e", "%2e.", "%2e%2e%2fetc", "%2fetc", "%2Fetc", "%5cx",
    "a%2f..%2fb", "a%2F%2e%2e%2Fb", "a%5c..", "a%2f.%2fb", "a%252f..", "a%25252f%2e%2e", "x%2f.. ", "region=..%2F..",
    "a%00b", "a%2500b", "C%3a", "C%3a%5cx", "%252e%252e", "%252e%252e%252f", "%252fetc", "%255cx",
    "%25%32%66", "%%32%66", "..%2f", "..%5c", "%c0%ae%c0%ae%c0%af", "a%c0%afb", "a%c1%9cb",
    "a%e0%80%afb", "a%f0%80%80%afb", "a%u002f..", "a%u2215..%u2215", "%uff0e%uff0e", "a／b", "a＼b", "a﹨b", "．．",
    "‥", "․․", "․.", "…", "Ｃ：x", "．．／etc", "％2fa", "a％2f..", "％2e％2e", "%ef%bc%8fb", "a%ef%bc%8f..", "℀", "℅",
    "a℆", "..∕etc", "a∕..", "⁄..⁄", "..⧵x", "\udc80", "caf\udce9", "x" * 256, "é" * 128,
]  # fmt: skip

ODD_BUT_HARMLESS = [
    "café.txt", unicodedata.normalize("NFD", "café.txt"), unicodedata.normalize("NFD", "한글"), "🚀.csv",
    "👩‍👩‍👧.png", "日本語.csv", "مرحبا.txt", "\u202eטקסט.txt", "한글",
    "Ärger.md", "ß.txt", "İstanbul", "ﬁle.txt", "½ cup.txt", "①.txt", "a\u200bb", "trailing.",
    "trailing ", "trailing..", " leading", "a  b", "nbsp\u00a0.txt", "CON", "con.txt", "NUL", "aux.c", "COM1",
    "LPT9.log", "-rf", "--help", "-", "~", "~root", "~$doc.docx", "$HOME", "$(id)", "`id`", "a;b", "a&b",
    "a|b", "a>b", "a*b", "a?b", "[a]", "{a,b}", "'", '"', "a'b\"c", "#x", "a#b", "%", "100%", "100%.txt",
    "%zz", "a%20b", "50%25", "a%41b", "%%", "%u12", "caf%E9", ".hidden", "..hidden", "a..b", "...a", "a...",
    "ab:c", "12:30.txt", "file.txt:stream", "@", "=cmd", "+x", "!x", "^", ",", "x" * 255, "é" * 127, "1∕2.txt", "a⁄b",
    "desktop.ini", ".git", "Thumbs.db", "{{ ds }}.csv", "<b>.html",
    "region=a%2Fb", "a%2fb", "a%5Cb", "a%252fb", "day=2026%2F01%2F01", "a%2F", "a%2F%2Fb", "ab%3Ac%3F", "a%0Ab",
    "x=%2F", "note=a%2F..b", "a%u002fb", "a%ef%bc%8fb",
]  # fmt: skip

UNSAFE_VALUES = [
    '="../../etc/passwd"', '="..\\\\..\\\\x"', "=..", "=../x", '="a/../b"', '="a/"',
    "*=utf-8''..%2f..%2fetc%2fpasswd", "*=utf-8''%2e%2e%5cx", "*=utf-8''a%00.txt", "*=utf-8''a%0d%0ab",
    '="%2e%2e/x"', '="%252e%252e%252fx"', '="．．／x"', '="a\nb"', '="C:"', "=" + "x" * 300,
]  # fmt: skip

SLOW_UNITS = [
    ";", "; ", ";a", ";a=", ';a="', ';a="\\', "\\", '"', " ", "a", "a=", "%25", "%2e", ".", "../", "%",
    "%u002", "\ufdfa",
]  # fmt: skip

safe_names = st.text(min_size=1, max_size=80).filter(lambda name: accepted(name))
tokens = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
nasty = st.text(alphabet="./\\%2efcC:5ua\0\n ‥．／＼％∕ab", max_size=24)


def accepted(name: str) -> bool:
    try:
        return safe_component(name) == name
    except PathEscape:
        return False


@pytest.mark.parametrize("name", TRAVERSALS, ids=ascii)
def test_a_traversal_is_refused(name: str) -> None:
    with pytest.raises(PathEscape) as caught:
        safe_component(name)
    assert str(caught.value).isprintable(), "a message must not carry control characters into a log"
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize("name", ODD_BUT_HARMLESS, ids=ascii)
def test_an_odd_name_comes_back_unchanged_and_works_on_disk(name: str, tmp_path: Path) -> None:
    assert safe_component(name) == name
    target = resolve_inside(tmp_path, name)
    target.write_bytes(b"x")
    assert [found.name for found in tmp_path.iterdir()] == [name]
    assert target.parent == tmp_path.resolve()


def test_there_are_enough_payloads() -> None:
    assert len(set(TRAVERSALS)) >= 40
    assert len(set(ODD_BUT_HARMLESS)) >= 60


@given(st.one_of(st.text(max_size=60), nasty))
def test_what_is_accepted_is_one_component_in_every_reading(name: str) -> None:
    if accepted(name):
        for reading in (name, unicodedata.normalize("NFKC", name)):
            assert not set(reading) & set("/\\\0\n")
            assert reading not in ("", ".", "..")
            assert len(Path("root", reading).parts) == 2


@given(st.sampled_from(["..", "../x", "a/../b", "a\\..", "..\\x", "/x", "\\x", "a\0", "C:x", "a/."]), st.integers(0, 5))
def test_encoding_a_traversal_again_and_again_does_not_help(name: str, rounds: int) -> None:
    for _ in range(rounds):
        name = quote(name, safe="").replace(".", "%2e")
    assert not accepted(name)


@given(st.sampled_from(["", "/", "/in", "/in/", "bucket/prefix", "/a b/ü"]), nasty | st.text(max_size=30))
def test_a_joined_path_lies_below_its_root(root: str, relative: str) -> None:
    try:
        path = join_inside(root, relative)
    except PathEscape:
        return
    assert path.endswith(relative)
    below = path.removeprefix(root.rstrip("/")).removeprefix("/") if root else path
    assert below == relative
    assert not {"", ".", ".."} & set(below.split("/"))


@pytest.mark.parametrize(
    ("root", "relative", "path"),
    [("", "a/b", "a/b"), ("/", "a", "/a"), ("/in/", "a/b.csv", "/in/a/b.csv"), ("in", "a", "in/a")],
)
def test_joined_paths(root: str, relative: str, path: str) -> None:
    assert join_inside(root, relative) == path


@pytest.mark.parametrize("relative", ["", "/a", "a/", "a//b", "a/./b", "../a", "a/../../b", "a/%2e%2e/b"])
def test_a_path_with_an_unsafe_component_is_refused(relative: str, tmp_path: Path) -> None:
    with pytest.raises(PathEscape):
        join_inside("/in", relative)
    with pytest.raises(PathEscape):
        resolve_inside(tmp_path, relative)


@given(relative=nasty | st.text(max_size=30))
def test_a_resolved_path_lies_below_its_root(tmp_path_factory: pytest.TempPathFactory, relative: str) -> None:
    root = tmp_path_factory.getbasetemp().resolve()
    try:
        path = resolve_inside(root, relative)
    except PathEscape:
        return
    assert path.is_relative_to(root)
    assert path != root
    assert path.relative_to(root).as_posix() == relative


def test_links_may_stay_inside_and_must_not_lead_out(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    (outside / "deep").mkdir(parents=True)
    (root / "real").mkdir(parents=True)
    (tmp_path / "way in").symlink_to(root)
    (root / "inner").symlink_to(root / "real")
    (root / "inner.txt").symlink_to("real/file.txt")
    (root / "out").symlink_to(outside)
    (root / "up").symlink_to("..")
    (root / "chain").symlink_to(root / "out" / "deep")
    (root / "passwd").symlink_to("/etc/passwd")

    assert resolve_inside(tmp_path / "way in", "inner/new/file.txt") == root.resolve() / "real/new/file.txt"
    assert resolve_inside(root, "inner.txt") == root.resolve() / "inner.txt"
    for relative in ("out/x", "out", "up/x", "up/root2", "chain/x", "passwd", "inner/../../x"):
        with pytest.raises(PathEscape):
            resolve_inside(root, relative)


def test_a_folder_that_becomes_a_link_after_it_was_followed_is_refused(tmp_path: Path) -> None:
    root, outside, insides = tmp_path / "root", tmp_path / "outside", Insides()
    for folder in (root / "a" / "b", outside / "b"):
        folder.mkdir(parents=True)
    for _ in range(2):
        assert insides.resolve(str(root), "a/b/x") == str(root.resolve() / "a/b/x")
        assert insides.resolve(str(root), "y") == str(root.resolve() / "y")
    (root / "a" / "b" / "link").symlink_to("/etc/passwd")
    (root / "a" / "b" / "near").symlink_to("x")
    assert insides.resolve(str(root), "a/b/near") == str(root.resolve() / "a/b/near")
    for relative in ("a/b/link", "a/b/..", "a/b/", "a/b/%2e%2e", "a//x"):
        with pytest.raises(PathEscape):
            insides.resolve(str(root), relative)
    (root / "a").rename(tmp_path / "gone")
    assert insides.resolve(str(root), "a/b/x") == str(root.resolve() / "a/b/x")
    (root / "a").symlink_to(outside)
    with pytest.raises(PathEscape):
        insides.resolve(str(root), "a/b/x")
    (root / "a").unlink()
    (tmp_path / "gone").rename(root / "a")
    assert insides.resolve(str(root), "a/b/x") == str(root.resolve() / "a/b/x")


@given(nasty | st.text(max_size=30))
def test_the_tree_and_the_single_name_agree(tmp_path_factory: pytest.TempPathFactory, relative: str) -> None:
    root, insides = tmp_path_factory.getbasetemp(), Insides()
    insides.resolve(str(root), "first")
    for _ in range(2):
        try:
            path = str(resolve_inside(root, relative))
        except PathEscape:
            with pytest.raises(PathEscape):
                insides.resolve(str(root), relative)
        else:
            assert insides.resolve(str(root), relative) == path


def test_a_loop_of_links_is_never_followed(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    try:
        path = resolve_inside(tmp_path, "a/x")
    except PathEscape:
        return
    with pytest.raises(OSError, match="symbolic links"):
        path.read_bytes()


def test_a_sibling_folder_with_the_same_beginning_is_outside(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in-secret").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in-secret")
    with pytest.raises(PathEscape):
        resolve_inside(tmp_path / "in", "link/x")


def test_collisions_are_groups_in_order_of_appearance() -> None:
    composed, decomposed = "café", unicodedata.normalize("NFD", "café")
    names = ["A.txt", composed, "b", "a.TXT", decomposed, "b", "a.txt", "CAFÉ", "ﬁ", "fi2", "dir/A", "DIR/a"]
    assert collisions(iter(names)) == [
        ("A.txt", "a.TXT", "a.txt"),
        (composed, decomposed, "CAFÉ"),
        ("dir/A", "DIR/a"),
    ]
    assert collisions(["b", "b"]) == []


@given(st.lists(st.text(alphabet="aAéÉ\u0301eEßsS\udc80", max_size=4), max_size=12))
def test_names_without_a_collision_stay_apart(names: list[str]) -> None:
    grouped = collisions(names)
    clashing = {name for group in grouped for name in group}
    alone = [name.casefold() for name in set(names) - clashing]
    assert len(alone) == len(set(alone))
    assert all(len(group) == len(set(group)) > 1 for group in grouped)


@given(safe_names, tokens)
def test_a_part_name_is_safe_hidden_and_known_again(name: str, token: str) -> None:
    part = part_name(name, token)
    assert safe_component(part) == part
    assert part.startswith(".")
    assert is_part_name(part)
    assert is_part_name(part, token)
    assert not is_part_name(part, token + "x")
    assert part == f".{name}.{token}.part" or len(name.encode()) > MAX_NAME_BYTES - len(token) - 7


@given(st.sampled_from(["x", "é", "🚀"]), tokens)
def test_long_part_names_fit_and_stay_apart(letter: str, token: str) -> None:
    long = letter * (MAX_NAME_BYTES // len(letter.encode()) - 1)
    one, other = part_name(long + "1", token), part_name(long + "2", token)
    assert one != other
    assert max(len(one.encode()), len(other.encode())) <= MAX_NAME_BYTES


@pytest.mark.parametrize("token", ["", "a.b", "a/b", "..", "x" * 65, "é"])
def test_a_bad_token_is_a_mistake_of_the_caller(token: str) -> None:
    with pytest.raises(ValueError, match="token"):
        part_name("a", token)


@pytest.mark.parametrize(
    "name", ["", "a", "a.part", ".part", ".a.part", "..part", "a.b.part", ".a.b.partial", ".a.b/.part"]
)
def test_other_names_are_no_part_names(name: str) -> None:
    assert not is_part_name(name)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ('attachment; filename="report.csv"', "report.csv"),
        ("attachment; filename=report.csv", "report.csv"),
        ("attachment; filename=my report.csv ; size=3", "my report.csv"),
        ("ATTACHMENT;FILENAME=a.txt", "a.txt"),
        ("filename=a.txt", "a.txt"),
        ('attachment; filename="a;b=c.txt"; x=y', "a;b=c.txt"),
        (r'attachment; filename="say \"hi\".txt"', 'say "hi".txt'),
        ("attachment; filename=\"plain.txt\"; filename*=UTF-8''na%C3%AFve%20file.txt", "naïve file.txt"),
        ("attachment; filename*=utf-8'en'%e2%82%ac.txt; filename=x", "€.txt"),
        ("attachment; filename*=iso-8859-1''caf%E9.txt", "café.txt"),
        ("attachment; filename*=utf-8''%ff.txt; filename=x.txt", "x.txt"),
        ("attachment; filename*=koi8-r''a; filename=x.txt", "x.txt"),
        ("attachment; filename*=nonsense; filename=x.txt", "x.txt"),
        ('attachment; filename="dir/sub/a.txt"', "a.txt"),
        ('attachment; filename="/tmp/a.txt"', "a.txt"),
        (r'attachment; filename="C:\\temp\\a.txt"', "a.txt"),
        (r"attachment; filename=C:\temp\a.txt", "a.txt"),
        ("attachment; filename=a; filename=b", "a"),
        ('form-data; name="x; filename=evil"', None),
        ('attachment; filename=""', None),
        ("attachment", None),
        ("inline; file=x", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_name_in_a_content_disposition(header: str, name: str | None) -> None:
    assert filename_from_disposition(header) == name


@pytest.mark.parametrize("value", UNSAFE_VALUES, ids=ascii)
def test_a_traversal_in_a_content_disposition_is_refused(value: str) -> None:
    with pytest.raises(PathEscape):
        filename_from_disposition(f"attachment; filename{value}")


@given(st.text(max_size=40) | nasty)
def test_any_content_disposition_gives_a_safe_name_none_or_path_escape(value: str) -> None:
    for header in (
        value,
        f"attachment; filename={value}",
        f'x; filename="{value}"',
        f"x; filename*=utf-8''{quote(value)}",
    ):
        try:
            name = filename_from_disposition(header)
        except PathEscape:
            continue
        assert name is None or accepted(name)


@pytest.mark.parametrize("unit", SLOW_UNITS, ids=ascii)
def test_a_megabyte_is_judged_at_once(unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    began = time.process_time()
    for judge in (safe_component, filename_from_disposition, is_part_name, lambda text: collisions([text])):
        try:
            judge(text)
            judge(f'attachment; filename="{text}')
        except PathEscape:
            pass
    assert time.process_time() - began < 1
