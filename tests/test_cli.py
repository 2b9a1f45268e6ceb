"""The command line, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from flowrunner_provider.cli import main
from flowrunner_provider.flows.catalogue import load


def test_actions_lists_all_with_their_promise(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [spec.id for spec in load()]


def test_actions_as_json_is_the_catalogue(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions", "--json"]) == 0
    assert [entry["id"] for entry in json.loads(capsys.readouterr().out)] == [spec.id for spec in load()]


def test_show_tells_how_to_use_an_action(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions", "show", "files.copy"]) == 0
    out = capsys.readouterr().out
    for part in ("from flowrunner_provider.files.operators import FileCopyOperator", "parameters", "source", "returns"):
        assert part in out


def test_show_says_how_to_install_it_and_where_its_example_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions", "show", "http.request"]) == 0
    out = capsys.readouterr().out
    assert "install: pip install 'airflow-provider-flowrunner[http]'" in out
    example = next(line.split(": ")[1] for line in out.splitlines() if line.startswith("  example: "))
    assert Path(example).is_file()


def test_the_text_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["actions", "show", "files.copy"]) == 0
    out = capsys.readouterr().out.partition("parameters")
    assert max(map(len, out[0].partition("\n\n")[0].splitlines())) <= 80


def test_an_abbreviation_does_not_end_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions"]) == 0
    assert not any(line.endswith(("e.g.", "i.e.")) for line in capsys.readouterr().out.splitlines())


def test_show_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions", "show", "sql.load", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["params"]["required"]


def test_a_wrong_id_says_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["actions", "show", "file.copy"]) == 2
    assert "there is no action 'file.copy' -> did you mean files.copy" in capsys.readouterr().err


def test_airflow_s_own_command_line_has_it_too() -> None:
    program = Path(sys.executable).with_name("airflow")
    done = subprocess.run(
        [program, "flowrunner", "actions", "show", "sql.load"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "from flowrunner_provider.database.operators import SqlLoadOperator" in done.stdout


@pytest.mark.parametrize("argv", [[], ["dance"], ["actions", "show"]])
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: flowrunner" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["actions", "actions --json", "actions show files.copy"])
def test_whoever_reads_may_stop_early(command: str) -> None:
    program = [sys.executable, "-m", "flowrunner_provider.cli", *command.split()]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 0
