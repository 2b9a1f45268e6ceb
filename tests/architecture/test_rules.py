"""Rules of the house that a reader would otherwise have to check by eye."""

import ast
import importlib
import inspect
import re
import tomllib
from pathlib import Path

import pytest

from flowrunner_provider.registry import CONNECTORS
from tests.architecture.source import PACKAGE, ROOT, calls, files, module_name, place, trees

CLOCKS = re.compile(
    r"(time\.(time|monotonic|perf_counter|process_time|time_ns|monotonic_ns)|(datetime\.)?(datetime|date)\.(now|utcnow|today)"
    r"|.*loop(\(\))?\.time|pendulum\.now|timezone\.utcnow)"
)
SLEEPS = re.compile(r"(time\.sleep|asyncio\.sleep|anyio\.sleep)")
FORBIDDEN = re.compile(r"(pickle|marshal|dill)\.|yaml\.(load|unsafe_load)|os\.(system|popen)|(eval|exec|print)$")


SHARED_EXTRAS = {"aws", "oauth", "redis"}
"""Extras that several connectors may need, and none always."""

FINITE_ELSEWHERE = {"transport/http.py": "None is the connection's own timeout, which is finite"}


def found(pattern: re.Pattern[str], *, allowed: set[str]) -> list[str]:
    return [
        f"{place(path, node)} {name}"
        for path, tree in trees()
        if str(path.relative_to(PACKAGE)) not in allowed
        for name, node in calls(tree)
        if pattern.match(name)
    ]


def test_only_the_deadline_reads_the_clock() -> None:
    assert found(CLOCKS, allowed={"core/deadline.py"}) == []


def test_only_the_retry_sleeps() -> None:
    assert found(SLEEPS, allowed={"core/retry.py"}) == []


def test_nothing_is_unpickled_evaluated_or_printed() -> None:
    assert found(FORBIDDEN, allowed=set()) == []


def test_no_shell() -> None:
    shells = [
        place(path, node)
        for path, tree in trees()
        for _, node in calls(tree)
        for keyword in node.keywords
        if keyword.arg == "shell" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
    ]
    assert shells == []


def test_no_blanket_except_outside_the_boundary() -> None:
    blanket = [
        place(path, node)
        for path, tree in trees()
        if path != PACKAGE / "runtime" / "boundary.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or re.search(r"\b(Base)?Exception\b", ast.unparse(node.type)))
        and not _raises_it_again(node)
    ]
    assert blanket == []


def _raises_it_again(handler: ast.ExceptHandler) -> bool:
    """A handler that cleans up and raises again is allowed."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_no_airflow_exception_and_no_stub_is_raised() -> None:
    raised = [
        place(path, node)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Raise)
        and node.exc is not None
        and re.match(r"(AirflowException|NotImplementedError)\b", ast.unparse(node.exc))
    ]
    assert raised == []


def test_every_default_timeout_is_finite() -> None:
    endless = []
    for path, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            arguments = node.args
            pairs = list(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
            positional = [*arguments.posonlyargs, *arguments.args]
            pairs += zip(positional[::-1], arguments.defaults[::-1], strict=False)
            endless += [
                f"{place(path, node)} {argument.arg}"
                for argument, default in pairs
                if "timeout" in argument.arg
                and isinstance(default, ast.Constant)
                and default.value is None
                and path.relative_to(PACKAGE).as_posix() not in FINITE_ELSEWHERE
            ]
    assert endless == []


def test_files_and_functions_stay_small() -> None:
    long_files = [str(path.relative_to(ROOT)) for path in files() if path.read_text().count("\n") > 400]
    long_functions = [
        f"{place(path, node)} {node.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _statement_lines(node) > 50
    ]
    assert (long_files, long_functions) == ([], [])


def _statement_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the number of lines of the body, without the docstring."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_there_are_no_import_cycles() -> None:
    """Imports for type checking count too: a module can be read without those above it."""
    names = {module_name(path) for path in files()}
    needs = {module_name(path): _needed(tree, names) - {module_name(path)} for path, tree in trees()}
    while free := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in free:
            del needs[name]
    assert {name: sorted(needed & needs.keys()) for name, needed in needs.items()} == {}


def _needed(tree: ast.Module, names: set[str]) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & names
            found |= inside or {node.module}
    return found & names


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_docstring_and_all(path: Path) -> None:
    module = importlib.import_module(module_name(path))
    assert module.__doc__, "a module needs a docstring"
    if path.name in ("__init__.py", "__main__.py"):
        return
    names = getattr(module, "__all__", None)
    assert names is not None, "a module needs __all__"
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name} has no docstring"


def test_registry_and_pyproject_name_the_same_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"all", "demo", "dev"} - SHARED_EXTRAS
    assert {extra for connector in CONNECTORS for extra in connector.extras} == extras
    everything = project["optional-dependencies"]["all"][0]
    assert set(re.findall(r"\w+", everything.partition("[")[2])) == extras | SHARED_EXTRAS


def test_generated_files_are_fresh() -> None:
    from flowrunner_provider.flows.generate import outdated

    assert [str(path.relative_to(ROOT)) for path in outdated()] == []
