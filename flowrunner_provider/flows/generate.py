"""Write the files that are generated from the code, or report stale ones.

Usage: ``python -m flowrunner_provider.flows.generate [--check]``

``flowrunner_provider/flows/reexports.json``   from the large official packages that are installed
``flowrunner_provider/flows/catalogue.json``   from the operators
``flowrunner_provider/flows/connections.json`` from the hooks of our own connection types
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
    """Return the README's table: one row per connector."""
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
    """Return the connection types that no official provider defines, with their forms."""
    found = []
    for connector in CONNECTORS:
        for name, path in connector.hooks:
            if name in connector.owns:
                module, _, hook_name = path.rpartition(".")
                hook = getattr(importlib.import_module(module), hook_name)
                form = connection_form(hook.config_type)
                found.append({"connection-type": name, "hook-class-name": path, "hook-name": hook.hook_name, **form})
    return sorted(found, key=lambda entry: entry["connection-type"])


def _generated_texts() -> dict[Path, str]:
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
    """Return the generated files that are stale."""
    return [
        path
        for path, text in _generated_texts().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write the generated files; with ``--check`` only report stale ones, with exit status 1 if there are any."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        stale = outdated()
        for path in stale:
            sys.stderr.write(f"{path.relative_to(_ROOT)} is stale; run python -m {__spec__.name}\n")
        return 1 if stale else 0
    for path, text in _generated_texts().items():
        path.write_text(text, encoding="utf-8")
    if absent := read_again(kept())[1]:
        sys.stderr.write(f"not installed, left unchanged: {', '.join(absent)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
