"""The ``flowrunner`` command: ``flowrunner demo`` and ``flowrunner actions``."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowrunner_provider import __version__
from flowrunner_provider.core.errors import FlowRunnerError

if TYPE_CHECKING:
    from flowrunner_provider.flows.catalogue import ActionSpec

__all__ = ["airflow_commands", "from_airflow", "main"]


_PACKAGE = Path(__file__).parent
_LABEL_WIDTH = 22


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


def _write_wrapped(text: str, indent: str) -> None:
    width = max(shutil.get_terminal_size((120, 24)).columns, 60)
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False)
    _write("\n".join(lines))


def _list_actions(arguments: argparse.Namespace) -> int:
    from flowrunner_provider.flows.catalogue import load, missing_packages

    specs = load()
    if arguments.json:
        _write(json.dumps([asdict(spec) for spec in specs], indent=2, ensure_ascii=False))
        return 0
    width = max(len(spec.id) for spec in specs)
    for spec in specs:
        missing = missing_packages(spec)
        note = f"  [needs: pip install {' '.join(missing)}]" if missing else ""
        _write(f"{spec.id:<{width}}  {_first_sentence(spec.promise)}{note}")
    return 0


def _show_action(arguments: argparse.Namespace) -> int:
    from flowrunner_provider.flows.catalogue import find, missing_packages

    spec = find(arguments.id)
    if arguments.json:
        _write(json.dumps(asdict(spec), indent=2, ensure_ascii=False))
        return 0
    module, _, name = spec.path.rpartition(".")
    _write(spec.id)
    _write_wrapped(spec.promise, "  ")
    _write(f"\n  from {module} import {name}")
    if spec.connections:
        _write(f"  connections: {', '.join(spec.connections)}")
    if spec.requires:
        note = " (not installed)" if missing_packages(spec) else ""
        _write(f"  install: pip install {shlex.join(spec.requires)}{note}")
    if spec.example:
        _write(f"  example: {_example_path(spec.example)}")
    _write_fields(spec)
    return 0


def _write_fields(spec: ActionSpec) -> None:
    _write("\nparameters")
    for name, schema in spec.params["properties"].items():
        _write(f"  {name:<20} {_describe(schema, required=name in spec.params['required'])}")
        if schema.get("description"):
            _write_wrapped(schema["description"], " " * (_LABEL_WIDTH + 3))
    if spec.output.get("properties"):
        _write("\nreturns")
        for name, schema in spec.output["properties"].items():
            _write(f"  {name:<20} {_describe(schema, required=True)}")


def _example_path(name: str) -> Path:
    """Return where the example DAG is: in the installed package, or beside it in a checkout."""
    installed = _PACKAGE / "example_dags" / name
    return installed if installed.exists() else _PACKAGE.parent / "example_dags" / name


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.)(?<!e\.g\.)(?<!i\.e\.) ", text, maxsplit=1)[0]


def _describe(schema: dict[str, Any], *, required: bool) -> str:
    kind = schema.get("type") or ("|".join(map(str, schema["enum"])) if "enum" in schema else "any")
    if isinstance(kind, list):
        kind = " or ".join(kind)
    if "anyOf" in schema:
        kind = " or ".join(dict.fromkeys(str(branch.get("type", "any")) for branch in schema["anyOf"]))
    if required:
        return str(kind)
    return f"{kind}, default {json.dumps(schema.get('default'), ensure_ascii=False)}"


def _parser() -> argparse.ArgumentParser:
    from flowrunner_provider.demo import command as demo

    parser = argparse.ArgumentParser(prog="flowrunner", description="Airflow connectors that are safe to retry.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo_parser = commands.add_parser("demo", help="run a pipeline in a real Airflow and kill it five times")
    demo.add_arguments(demo_parser)
    demo_parser.set_defaults(run=demo.run)

    actions = commands.add_parser("actions", help="list all actions")
    actions.add_argument("--json", action="store_true", help="print the catalogue as JSON")
    actions.set_defaults(run=_list_actions)
    actions_commands = actions.add_subparsers(metavar="SUBCOMMAND")
    show = actions_commands.add_parser("show", help="show the promise, parameters and result of one action")
    show.add_argument("id", help="e.g. files.copy")
    show.add_argument("--json", action="store_true", help="print as JSON")
    show.set_defaults(run=_show_action)
    return parser


def airflow_commands() -> list[Any]:
    """Return the commands for Airflow's command line: ``airflow flowrunner ...``."""
    from airflow.cli.cli_config import ActionCommand, Arg, lazy_load_command

    arguments = Arg(("arguments",), nargs=argparse.REMAINDER, help="the arguments of flowrunner, e.g. -- --help")  # type: ignore[no-untyped-call]
    function = lazy_load_command("flowrunner_provider.cli.from_airflow")
    return [ActionCommand(name="flowrunner", help="FlowRunner's commands", func=function, args=(arguments,))]


def from_airflow(arguments: argparse.Namespace) -> None:
    """Run ``airflow flowrunner`` and exit with the status of the command."""
    sys.exit(main([part for part in arguments.arguments if part != "--"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 for success, 1 for a failed check, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except FlowRunnerError as error:
        sys.stderr.write(f"flowrunner: {error}\n")
        return 2
    except BrokenPipeError:  # e.g. `flowrunner actions | head`; /dev/null keeps Python from failing again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
