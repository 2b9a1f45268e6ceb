"""A missing package is told with the command that mends it; a broken one is not hidden."""

import sys
from pathlib import Path

import pytest

from flowrunner_provider.core.errors import MissingExtra
from flowrunner_provider.core.extras import load


def test_loads_what_is_there() -> None:
    assert load("json", extra="http", needed_for="x").dumps([]) == "[]"


def test_names_the_command_for_what_is_not() -> None:
    with pytest.raises(MissingExtra, match=r"http.request needs .* -> pip install 'airflow-.*\[http\]'"):
        load("no_such_package.sub", extra="http", needed_for="http.request")


def test_a_package_that_is_broken_inside_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfbroken.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        load("halfbroken", extra="http", needed_for="x")
    sys.modules.pop("halfbroken", None)
