"""Without extras, everything imports, and a missing package names the command that installs it."""

import json

from tests.architecture.test_imports import python

EXTRAS = ("aiohttp", "asyncssh", "botocore", "jmespath", "joserfc", "psycopg", "pyarrow", "redis", "rich")

PROGRAM = """
import importlib, inspect, json, os, sys
class Plain:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {extras}:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Plain())
for name, connection in {connections}.items():
    os.environ["AIRFLOW_CONN_" + name] = json.dumps(connection)
from flowrunner_provider.core.errors import MissingExtra
from flowrunner_provider.core.run import Run
from flowrunner_provider.registry import CONNECTORS
from flowrunner_provider.runtime.operator import run_to_end
for connector in CONNECTORS:
    for module in connector.operators:
        importlib.import_module(module)
told = {{}}
for path, arguments in {operators}.items():
    module, _, name = path.rpartition(".")
    operator = getattr(importlib.import_module("flowrunner_provider." + module), name)(task_id="t", **arguments)
    run = Run.alone(timeout=20)
    try:
        result = operator.perform(run)
        if inspect.iscoroutine(result):
            run_to_end(result, run.deadline)
    except MissingExtra as error:
        told[path] = error.extra
print(json.dumps(told))
"""


def test_a_missing_extra_names_its_install_command_and_breaks_nothing_else(tmp_path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a\n1\n")
    connections = {
        "X": {"conn_type": "http", "host": "http://127.0.0.1:1"},
        "S": {"conn_type": "sftp", "host": "127.0.0.1", "extra": {"no_host_key_check": True}},
        "P": {"conn_type": "postgres", "host": "127.0.0.1"},
    }
    operators = {
        "http.operators.HttpRequestOperator": {"http_conn_id": "x", "endpoint": "/", "select": "a"},
        "files.operators.FileCopyOperator": {"source": "sftp://s@/a", "dest": str(tmp_path / "b")},
        "database.operators.SqlLoadOperator": {"conn_id": "p", "source": str(rows), "table": "t"},
        "data.operators.WriteColumnarOperator": {"source": str(rows), "path": str(tmp_path / "a.parquet")},
    }
    told = json.loads(python(PROGRAM.format(extras=EXTRAS, connections=connections, operators=operators)))
    assert list(told.values()) == ["http", "sftp", "postgres", "data"]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"], "nothing was begun"
