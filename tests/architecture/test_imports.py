"""Who may import whom, and what importing costs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.source import ROOT, files, is_pure, module_name

VENDORS = (
    "MySQLdb", "aiohttp", "aiosmtpd", "aiosmtplib", "airportsdata", "alembic", "asyncssh", "azure", "bs4", "boto3",
    "botocore", "charset_normalizer", "css_inline", "dkim", "duckdb", "email_validator", "fsspec", "google",
    "icalendar", "imapclient", "jmespath", "joserfc", "mssql_python", "obstore", "openpyxl", "paramiko", "psycopg",
    "psycopg2", "pyarrow", "pymssql", "pymysql", "pyodbc", "pyrage", "pysequoia", "pyzipper", "pytds", "redis",
    "requests", "rich", "slack_sdk", "sqlglot", "twilio", "vonage", "xlsxwriter", "zstandard",
)  # fmt: skip


def python(program: str, *, cwd: Path = ROOT) -> str:
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_import_linter_passes() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_the_core_and_all_pure_files_import_without_airflow() -> None:
    pure = [module_name(path) for path in files() if is_pure(path)]
    assert len(pure) > 20
    python(f"""
import importlib, sys
class NoAirflow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "airflow":
            raise ImportError("airflow is not for this file: " + name)
sys.meta_path.insert(0, NoAirflow())
for name in {pure!r}:
    importlib.import_module(name)
""")


COST = """
import json, sys, time
import airflow.sdk
from airflow.sdk import DAG, BaseOperator, BaseHook, BaseSensorOperator, BaseNotifier
from flowrunner_provider.registry import CONNECTORS
before, modules = time.process_time(), set(sys.modules)
import importlib
for connector in CONNECTORS:
    for name in connector.operators:
        importlib.import_module(name)
cost = time.process_time() - before
print(json.dumps({"cost": cost, "new": sorted(set(sys.modules) - modules)}))
"""


@pytest.mark.slow
def test_importing_every_operator_is_cheap_and_loads_no_vendor_sdk() -> None:
    measured = [json.loads(python(COST)) for _ in range(3)]
    loaded = {name.split(".")[0] for name in measured[0]["new"]} & set(VENDORS)
    assert not loaded, f"imported at parse time: {sorted(loaded)}"
    assert min(run["cost"] for run in measured) < 0.150


def test_the_package_itself_imports_nothing() -> None:
    program = "import sys; before = set(sys.modules); import flowrunner_provider; print(set(sys.modules) - before)"
    assert python(program).strip() == "{'flowrunner_provider'}"


def test_provider_info_and_plugin_load_no_connector() -> None:
    program = """
import sys
from flowrunner_provider import plugin, provider_info
provider_info.get_provider_info()
ours = [name.split(".")[1] for name in sys.modules if name.startswith("flowrunner_provider.")]
print(sorted(set(ours)))
"""
    assert python(program).strip() == "['plugin', 'provider_info', 'registry']"


LATER = {"data", "http"}
"""Connectors whose operators still load (a part of) their engine; it shrinks and never grows."""

ENGINE_FOLDERS = {"stores", "gateways", "dialects", "hooks"}
"""Folders of a connector whose files do the work."""


def is_engine(name: str) -> bool:
    """A module of a connector that has effects (it marks them), or that speaks to a far side."""
    _, connector, *rest = name.split(".")
    if connector in ("core", "transport", "runtime", "registry") or not rest:
        return False
    if ENGINE_FOLDERS & set(rest[:-1]):
        return True
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")
    airflow_side = {"operators", "sensors", "triggers", "notifier", "task_groups"} & set(rest)
    return not airflow_side and path.exists() and "failpoint(" in path.read_text(encoding="utf-8")


def test_reading_a_dag_loads_no_engine() -> None:
    program = f"""
import importlib, sys
from flowrunner_provider.registry import CONNECTORS
for connector in CONNECTORS:
    for name in connector.operators if connector.name not in {LATER!r} else ():
        importlib.import_module(name)
print("\\n".join(name for name in sys.modules if name.startswith("flowrunner_provider.")))
"""
    loaded = python(program).split()
    assert "flowrunner_provider.files.operators.copy" in loaded
    assert [name for name in loaded if is_engine(name)] == []
