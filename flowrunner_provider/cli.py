"""The command line: ``flowrunner demo``, ``flowrunner actions``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flowrunner_provider import __version__
from flowrunner_provider.core.errors import FlowRunnerError

__all__ = ["airflow_commands", "from_airflow", "main"]


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")


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
    _write(f"{spec.id}\n  {spec.promise}\n\n  from {module} import {name}")
    if spec.connections:
        _write(f"  connections: {', '.join(spec.connections)}")
    if missing := missing_packages(spec):
        _write(f"  not installed yet: pip install {' '.join(missing)}")
    if spec.example:
        _write(f"  example: example_dags/{spec.example}")
    _write("\nparameters")
    for name, schema in spec.params["properties"].items():
        _write(f"  {name:<20} {_describe(schema, required=name in spec.params['required'])}")
        if schema.get("description"):
            _write(f"  {'':<20}   {schema['description']}")
    if spec.output.get("properties"):
        _write("\nreturns")
        for name, schema in spec.output["properties"].items():
            _write(f"  {name:<20} {_describe(schema, required=True)}")
    return 0


def _first_sentence(text: str) -> str:
    head, dot, _ = text.partition(". ")
    return head + "." if dot else text


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

    parser = argparse.ArgumentParser(prog="flowrunner", description="Connectors that can be retried without fear.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo_parser = commands.add_parser("demo", help="run a pipeline in a real Airflow while it is attacked")
    demo.add_arguments(demo_parser)
    demo_parser.set_defaults(run=demo.run)

    actions = commands.add_parser("actions", help="the catalogue of actions")
    actions.add_argument("--json", action="store_true", help="everything, as JSON")
    actions.set_defaults(run=_list_actions)
    actions_commands = actions.add_subparsers(metavar="SUBCOMMAND")
    show = actions_commands.add_parser("show", help="one action: its promise, parameters and result")
    show.add_argument("id", help="e.g. files.copy")
    show.add_argument("--json", action="store_true", help="as JSON")
    show.set_defaults(run=_show_action)
    return parser


def airflow_commands() -> list[Any]:
    """``airflow flowrunner ...``: the same commands below Airflow's own command line."""
    from airflow.cli.cli_config import ActionCommand, Arg, lazy_load_command

    arguments = Arg(("arguments",), nargs=argparse.REMAINDER, help="as for the command flowrunner; try -- --help")  # type: ignore[no-untyped-call]
    function = lazy_load_command("flowrunner_provider.cli.from_airflow")
    return [ActionCommand(name="flowrunner", help="FlowRunner's commands", func=function, args=(arguments,))]


def from_airflow(arguments: argparse.Namespace) -> None:
    """What ``airflow flowrunner`` runs; ends with the exit status of the command."""
    sys.exit(main([part for part in arguments.arguments if part != "--"]))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit status 0 for success, 1 for a failed check, 2 for wrong usage."""
    arguments = _parser().parse_args(argv)
    try:
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except FlowRunnerError as error:
        sys.stderr.write(f"flowrunner: {error}\n")
        return 2
    except BrokenPipeError:  # ``flowrunner actions | head`` has seen enough; nor may Python complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


if __name__ == "__main__":
    sys.exit(main())
