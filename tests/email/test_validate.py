"""``email.validate``: every row in one of two files, also after a kill."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flowrunner_provider.core.errors import ConfigError, NotFound
from flowrunner_provider.email.operators import EmailValidateOperator
from tests.support.context import FileStateStore, execute, make_context
from tests.support.kill import attempt, kill_at, trace

PEOPLE = ["a@example.com", " B@Example.COM ", "", "no", "c@sub.bad.test", "d@bad.test", "ü@exämple.com"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(folder: Path, **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "source": str(folder / "people.csv"),
        "valid": str(folder / "out" / "valid.csv"),
        "invalid": str(folder / "out" / "invalid.csv"),
        "deny_domains": ["*.bad.test"],
        **more,
    }
    operator = EmailValidateOperator(task_id="t", **arguments)
    return execute(operator, make_context(operator, state=FileStateStore(folder / "state")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lines = "".join(f"{n},{who}\n" for n, who in enumerate(PEOPLE))
    (tmp_path / "people.csv").write_text("id,email\n" + lines, encoding="utf-8")
    return tmp_path


def test_every_row_is_in_one_file(folder: Path) -> None:
    result = run(folder)
    assert (result["rows"], result["valid"]["rows"], result["invalid"]["rows"]) == (7, 4, 3)
    assert [(row["id"], row["email"]) for row in rows_of(folder / "out" / "valid.csv")] == [
        ("0", "a@example.com"), ("1", "B@example.com"), ("5", "d@bad.test"), ("6", "ü@xn--exmple-cua.com"),
    ]  # fmt: skip
    bad = {row["id"]: row["invalid_reason"] for row in rows_of(folder / "out" / "invalid.csv")}
    assert set(bad) == {"2", "3", "4"}
    assert (bad["2"], bad["4"]) == ("there is no address", "the domain sub.bad.test is denied")
    assert "is not an address" in bad["3"]


def test_a_list_and_allowed_domains(folder: Path) -> None:
    result = run(folder, source=["a@x.org", "b@y.org"], allow_domains=["x.org"], deny_domains=None)
    assert (result["valid"]["rows"], result["invalid"]["rows"]) == (1, 1)


def test_dns_is_asked_when_wanted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dns.resolver
    import email_validator

    asked: Counter[str] = Counter()

    class Resolver:
        def resolve(self, name: str, kind: str) -> Any:
            asked[name] += 1
            raise dns.resolver.NoNameservers if name.startswith("silent") else dns.resolver.NXDOMAIN

    monkeypatch.setattr(email_validator, "caching_resolver", lambda **_: Resolver())
    result = run(folder, source=["a@gone.org", "b@silent.org"], check_dns=True)
    assert (result["valid"]["rows"], result["invalid"]["rows"]) == (1, 1)
    assert set(asked) >= {"gone.org", "silent.org"}


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"column": "mail"}, ConfigError, "mail"),
    ({"source": "/nowhere/a.csv"}, NotFound, "nowhere"),
    ({"source": []}, NotFound, "no rows"),
    ({"valid": "/tmp/x.txt"}, ConfigError, "format"),
    ({"valid": "/tmp/x.csv", "invalid": "/tmp/x.csv"}, ConfigError, "one file"),
    ({"deny_domains": "x.org"}, ConfigError, "list"),
    ({"allow_domains": [""]}, ConfigError, "list"),
]


@pytest.mark.parametrize(("more", "kind", "said"), BAD)
def test_bad_input(folder: Path, more: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        run(folder, **more)
    assert not (folder / "out").exists()


@pytest.mark.faults
def test_killed_anywhere(folder: Path) -> None:
    for name in dict.fromkeys(trace(run, folder)):
        for path in (*folder.glob("out/*"), *folder.glob("state/*")):
            path.unlink()
        assert attempt(run, folder, rules=[kill_at(name)]).killed
        outcome = attempt(run, folder, try_number=2)
        assert outcome.ok, outcome.error
        assert outcome.result["valid"]["rows"] + outcome.result["invalid"]["rows"] == len(PEOPLE)
        assert sorted(path.name for path in folder.glob("out/*")) == ["invalid.csv", "valid.csv"]
        assert len(rows_of(folder / "out" / "valid.csv")) == 4
