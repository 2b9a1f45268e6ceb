"""The authorization server of the tests: installed once, and its absence is a skip with a reason."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import oidc


def npm_that(fails: bool, folder: Path) -> None:
    program = folder / "npm"
    program.write_text("#!/bin/sh\n" + ("echo no network >&2; exit 1\n" if fails else "mkdir node_modules\n"))
    program.chmod(0o755)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_it_is_installed_once(elsewhere: Path) -> None:
    npm_that(fails=False, folder=elsewhere)
    target = oidc.install()
    assert (target / "node_modules").is_dir()
    npm_that(fails=True, folder=elsewhere)
    assert oidc.install() == target
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_without_a_network_the_tests_are_skipped_or_fail(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm_that(fails=True, folder=elsewhere)
    monkeypatch.delenv("REQUIRE_BACKENDS", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no network"), oidc.idp(elsewhere):
        pass
    monkeypatch.setenv("REQUIRE_BACKENDS", "1")
    with pytest.raises(OSError, match="no network"), oidc.idp(elsewhere):
        pass
