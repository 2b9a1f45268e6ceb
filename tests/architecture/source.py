"""The package's own source, for the tests that read it."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PACKAGE = ROOT / "flowrunner_provider"

AIRFLOW_SIDE = {"app", "hook", "hooks", "notifier", "operators", "sensors", "task_groups", "triggers"}
"""Names of the files of a connector that may know Airflow; every other file of it is pure."""

PURE_FOLDERS = {"core", "transport"}
AIRFLOW_FOLDERS = {"runtime", "demo", "flows"}


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if "example_dags" not in path.parts)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_pure(path: Path) -> bool:
    """Return whether the file must not import Airflow."""
    inside = path.relative_to(PACKAGE).parts
    if len(inside) == 1:
        return inside[0] in ("__init__.py", "registry.py")
    if inside[0] in PURE_FOLDERS:
        return True
    return inside[0] not in AIRFLOW_FOLDERS and not AIRFLOW_SIDE & {part.removesuffix(".py") for part in inside[1:]}


def trees() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in files()]


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Every call in ``tree`` with the dotted text of what is called."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def place(path: Path, node: ast.AST) -> str:
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"


assert importlib.util.find_spec("flowrunner_provider"), "run the tests with the package installed"
