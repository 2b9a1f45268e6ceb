"""The base operator in Airflow's own hands: attempts, results, templates, time-outs, mapping, serialization."""

import asyncio
import contextlib
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from flowrunner_provider.core.errors import ConfigError, Fenced, NotFound, TimedOut, Unavailable
from flowrunner_provider.core.run import Run
from flowrunner_provider.runtime.masking import mask
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy
from tests.support.context import FileStateStore, execute, make_context


@dataclass(frozen=True, kw_only=True)
class Counted:
    lines: int
    tags: tuple[str, ...] = ()


class AppendOperator(FlowRunnerOperator):
    """Appends a line to a file, once over all attempts."""

    action = "test.append"
    template_fields = ("line",)

    def __init__(self, *, path: str, line: str = "x", error: Exception | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.path, self.line, self.error = path, line, error

    def perform(self, run: Run) -> Counted:
        with Path(self.path).open("a") as file:
            file.write(self.line + "\n")
        if self.error:
            raise self.error
        return Counted(lines=1, tags=("a",))


class SlowOperator(FlowRunnerOperator):
    """Waits for ever."""

    async def perform(self, run: Run) -> None:  # type: ignore[override]
        await asyncio.Event().wait()


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def state(tmp_path: Path) -> FileStateStore:
    return FileStateStore(tmp_path / "state")


def test_the_result_is_plain_json(target: Path, state: FileStateStore) -> None:
    task = AppendOperator(task_id="t", path=str(target))
    context = make_context(task, state=state)
    assert execute(task, context) == {"lines": 1, "tags": ["a"]}
    assert context["ti"].xcom_pull() == {"lines": 1, "tags": ["a"]}


def test_a_retry_after_the_end_returns_the_result_without_working(target: Path, state: FileStateStore) -> None:
    for _ in range(2):
        task = AppendOperator(task_id="t", path=str(target))
        assert execute(task, make_context(task, state=state)) == {"lines": 1, "tags": ["a"]}
    assert lines(target) == ["x"]


def test_a_clear_after_a_success_works_again(target: Path, state: FileStateStore) -> None:
    for max_tries in (3, 7):
        task = AppendOperator(task_id="t", path=str(target))
        execute(task, make_context(task, state=state, max_tries=max_tries))
    assert lines(target) == ["x", "x"]


def test_before_airflow_3_3_files_take_the_place_of_the_state_store(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for _ in range(2):
        task = AppendOperator(task_id="t", path=str(target))
        execute(task, make_context(task))
    assert lines(target) == ["x"]
    assert list((tmp_path / "flowrunner" / "state").rglob("*.json"))


@pytest.mark.parametrize("call", ["get", "set"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_state_store_that_fails_stops_the_attempt(
    target: Path, state: FileStateStore, call: str, number: int
) -> None:
    state.fail = {call: {number}}
    task = AppendOperator(task_id="t", path=str(target))
    failed = True
    with contextlib.suppress(Unavailable):
        execute(task, make_context(task, state=state))
        failed = False
    assert failed == (state.calls[call] >= number)
    state.fail = {}
    execute(AppendOperator(task_id="t", path=str(target)), make_context(task, state=state))
    assert lines(target), "the next attempt finishes the work"


def test_an_attempt_that_was_overtaken_does_not_finish(target: Path, state: FileStateStore) -> None:
    class Overtaken(AppendOperator):
        def perform(self, run: Run) -> Counted:
            state.set("flowrunner.lease", {"token": "newer"})
            return super().perform(run)

    task = Overtaken(task_id="t", path=str(target))
    with pytest.raises(Fenced):
        execute(task, make_context(task, state=state))
    assert "flowrunner" not in state.items(), "only the newer attempt may finish"


def test_a_deadline_ends_the_work(state: FileStateStore) -> None:
    task = SlowOperator(task_id="t", timeout=0.2)
    with pytest.raises(TimedOut, match="raise `timeout`"):
        execute(task, make_context(task, state=state))


@pytest.mark.parametrize("timeout", ["soon", 0, -1, "0s"])
def test_a_bad_timeout_is_named_before_any_effect(target: Path, state: FileStateStore, timeout: Any) -> None:
    task = AppendOperator(task_id="t", path=str(target), timeout=timeout)
    with pytest.raises(ConfigError) as caught:
        execute(task, make_context(task, state=state))
    assert caught.value.field == "timeout"
    assert lines(target) == []


@pytest.mark.parametrize("template", ["{{ nothing.at.all }}", "{{ broken", "{{ 1 | no_such_filter }}"])
def test_a_template_that_does_not_render_names_its_field(target: Path, state: FileStateStore, template: str) -> None:
    task = AppendOperator(task_id="t", path=str(target), line=template)
    with pytest.raises(ConfigError, match="template of 'line' does not render") as caught:
        execute(task, make_context(task, state=state))
    assert caught.value.field == "line"
    assert lines(target) == []


def test_errors_leave_without_secrets(target: Path, state: FileStateStore) -> None:
    mask(["hunter2-canary"])
    task = AppendOperator(task_id="t", path=str(target), error=NotFound("at hunter2-canary", remedy="hunter2-canary"))
    with pytest.raises(NotFound) as caught:
        execute(task, make_context(task, state=state))
    assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_the_policy_and_retries_are_on_by_default_and_can_be_changed() -> None:
    task = AppendOperator(task_id="t", path="p")
    assert isinstance(task.retry_policy, FlowRunnerRetryPolicy)
    assert (task.retries, task.retry_delay) == (3, timedelta(seconds=30))
    with DAG("d", default_args={"retries": 1}):
        assert AppendOperator(task_id="t", path="p").retries == 1
    assert AppendOperator(task_id="t", path="p", retry_policy=None).retry_policy is None


def test_mapped_tasks_have_the_same_defaults() -> None:
    with DAG("d") as dag:
        AppendOperator.partial(task_id="t", path="p").expand(line=["a", "b"])
    mapped = dag.get_task("t")
    assert isinstance(mapped.partial_kwargs["retry_policy"], FlowRunnerRetryPolicy)
    assert mapped.partial_kwargs["retries"] == 3


def test_a_dag_with_our_operators_serializes_the_same_each_time() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    def build() -> Any:
        with DAG("d", schedule=None) as dag:
            AppendOperator(task_id="t", path="p", line="{{ ds }}")
        return DagSerialization.to_dict(dag)

    assert build() == build()


class TestRetryPolicy:
    policy = FlowRunnerRetryPolicy()

    def test_throttled_waits_exactly_as_asked(self) -> None:
        decision = self.policy.evaluate(Unavailable("busy", retry_after=86400), 1, 3)
        assert (decision.action.name, decision.retry_delay) == ("RETRY", timedelta(days=1))

    def test_a_transient_error_backs_off(self) -> None:
        for attempt in range(1, 9):
            decision = self.policy.evaluate(Unavailable("busy"), attempt, 9)
            assert decision.retry_delay is not None
            assert timedelta(0) <= decision.retry_delay <= timedelta(seconds=min(900, 30 * 2 ** (attempt - 1)))

    def test_what_no_retry_can_mend_fails_now_and_says_why(self) -> None:
        for error in (NotFound("gone"), ConfigError("wrong", remedy="mend it")):
            decision = self.policy.evaluate(error, 1, 3)
            assert decision.action.name == "FAIL"
            assert str(error) in (decision.reason or "")

    def test_doubt_is_retried_only_while_it_can_be_settled(self) -> None:
        from flowrunner_provider.core.errors import OutcomeUnknown

        assert self.policy.evaluate(OutcomeUnknown("?"), 1, 3).action.name == "RETRY"
        assert self.policy.evaluate(OutcomeUnknown("?", reconcilable=False), 1, 3).action.name == "FAIL"

    def test_other_errors_follow_airflow_s_own_rules(self) -> None:
        assert self.policy.evaluate(ValueError(), 1, 3).action.name == "DEFAULT"

    def test_survives_serialization(self) -> None:
        assert FlowRunnerRetryPolicy.deserialize(self.policy.serialize()).backoff == self.policy.backoff
