"""What must hold on every supported Airflow: run on the newest with all tests, and alone on the oldest."""

import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions._internal.contextmanager import DagContext
from airflow.sdk.exceptions import AirflowFailException

from flowrunner_provider.core.errors import FlowRunnerError, NotFound, Unavailable
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.compat import AIRFLOW_V_3_3_PLUS
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from tests.support.context import execute, make_context


class StepsOperator(FlowRunnerOperator):
    """Does three steps and remembers each; fails after the first as often as it is told."""

    def __init__(self, *, path: str, error: FlowRunnerError | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.error = path, error

    def perform(self, run: Run) -> dict[str, int]:
        checkpoint = run.checkpoint("steps")
        for step in range(checkpoint.state or 0, 3):
            with Path(self.path).open("a") as file:
                file.write(f"{step}\n")
            checkpoint.save(step + 1, force=True)
            if self.error:
                raise self.error
        return {"steps": 3}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path / "home"))


def test_the_compat_module_tells_the_truth() -> None:
    assert ("retry_policy" in inspect.signature(BaseOperator.__init__).parameters) == AIRFLOW_V_3_3_PLUS


def test_operators_are_built_mapped_and_serialized(tmp_path: Path) -> None:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization

    with DAG("d", schedule=None) as dag:
        StepsOperator(task_id="one", path="p")
        StepsOperator.partial(task_id="many").expand(path=["a", "b"])
    assert Serialization.to_dict(dag)


def test_a_retry_resumes_without_a_state_store(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for error in (Unavailable("once"), Unavailable("twice"), None):
        task = StepsOperator(task_id="t", path=str(path), error=error)
        context = make_context(task)
        if error is None:
            assert execute(task, context) == {"steps": 3}
        else:
            with pytest.raises(Unavailable):
                execute(task, context)
    assert path.read_text().split() == ["0", "1", "2"]


def test_a_permanent_error_is_one_that_airflow_does_not_retry(tmp_path: Path) -> None:
    task = StepsOperator(task_id="t", path=str(tmp_path / "out"), error=NotFound("gone", remedy="look"))
    with pytest.raises((NotFound, AirflowFailException), match="gone -> look") as caught:
        execute(task, make_context(task))
    if AIRFLOW_V_3_3_PLUS:
        assert task.retry_policy.evaluate(caught.value, 1, 3).action.name == "FAIL"
    else:
        assert isinstance(caught.value, AirflowFailException)
        assert isinstance(caught.value.__cause__, NotFound)


def test_the_example_dags_import() -> None:
    from flowrunner_provider.registry import CONNECTORS

    folder = Path(__file__).parent.parent.parent / "example_dags"
    modules = sorted(folder.glob("*.py"))
    assert len(modules) >= len(CONNECTORS)
    for path in modules:
        DagContext.autoregistered_dags.clear()
        spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
        assert spec
        assert spec.loader
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        DagContext.current_autoregister_module_name = spec.name
        try:
            spec.loader.exec_module(module)
        finally:
            DagContext.current_autoregister_module_name = None
        assert DagContext.autoregistered_dags, path.name
