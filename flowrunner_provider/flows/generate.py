"""Writes what is derived from the code, or says what is stale.

Run it as ``python -m flowrunner_provider.flows.generate``, with ``--check`` only to look.

``flowrunner_provider/flows/reexports.json``   from those of the heavy official packages that are installed here
``flowrunner_provider/flows/catalogue.json``   from the operators
``flowrunner_provider/flows/connections.json`` from the hooks of the connection types that are ours
``README.md``, between its markers              from the catalogue
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from flowrunner_provider.core.spec import connection_form
from flowrunner_provider.flows.catalogue import ActionSpec, derive, kept, read_again, to_json
from flowrunner_provider.registry import CONNECTORS

__all__ = ["connection_types", "matrix", "outdated"]

_ROOT = Path(__file__).parent.parent.parent
_MARKED = re.compile(r"(<!-- matrix:begin -->\n).*(<!-- matrix:end -->)", re.DOTALL)


def matrix(specs: list[ActionSpec]) -> str:
    """The README's table: a row per connector, its actions, connections and what to install."""
    titles = {connector.name: connector.title for connector in CONNECTORS}
    extras = {connector.name: ",".join(connector.extras) for connector in CONNECTORS}
    lines = [
        "| connector | actions | Airflow connections | install |",
        "|---|---|---|---|",
    ]
    categories = [connector.name for connector in CONNECTORS]
    for category in categories:
        own = [spec for spec in specs if spec.category == category and not spec.official]
        ids = ", ".join(f"`{spec.id}`" for spec in own)
        connections = ", ".join(f"`{name}`" for name in (own[0].connections if own else [])) or "–"
        extra = f"[{extras[category]}]" if extras[category] else ""
        install = f"`airflow-provider-flowrunner{extra}`"
        lines.append(f"| {titles[category]} | {ids} | {connections} | {install} |")
    official = ", ".join(f"`{spec.id}`" for spec in specs if spec.official)
    lines.append(f"| official classes, re-exported | {official} | | the official provider |")
    return "\n".join(lines) + "\n"


def connection_types() -> list[dict[str, Any]]:
    """The connection types that no official provider has, with their forms, for the provider info."""
    found = []
    for connector in CONNECTORS:
        for name, path in connector.hooks:
            if name in connector.owns:
                module, _, hook_name = path.rpartition(".")
                hook = getattr(importlib.import_module(module), hook_name)
                form = connection_form(hook.config_type)
                found.append({"connection-type": name, "hook-class-name": path, "hook-name": hook.hook_name, **form})
    return sorted(found, key=lambda entry: entry["connection-type"])


def _wanted() -> dict[Path, str]:
    known, _ = read_again(kept())
    specs = derive(_ROOT / "example_dags", known)
    readme = _ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    return {
        _ROOT / "flowrunner_provider" / "flows" / "reexports.json": json.dumps(known, indent=1) + "\n",
        _ROOT / "flowrunner_provider" / "flows" / "catalogue.json": to_json(specs),
        _ROOT / "flowrunner_provider" / "flows" / "connections.json": json.dumps(connection_types(), indent=1) + "\n",
        readme: _MARKED.sub(lambda found: found[1] + matrix(specs) + found[2], text),
    }


def outdated() -> list[Path]:
    """Generated files that differ from what the code says."""
    return [path for path, text in _wanted().items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write the generated files; with ``--check`` only say which are stale, exit status 1 if any."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        stale = outdated()
        for path in stale:
            sys.stderr.write(f"{path.relative_to(_ROOT)} is stale; run python -m {__spec__.name}\n")
        return 1 if stale else 0
    for path, text in _wanted().items():
        path.write_text(text, encoding="utf-8")
    if absent := read_again(kept())[1]:
        sys.stderr.write(f"not installed, kept as they were: {', '.join(absent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
