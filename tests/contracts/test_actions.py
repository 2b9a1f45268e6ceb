"""What every action of the catalogue must hold to. Driven by the registry: a new action is tested unasked."""

import asyncio
import importlib
import importlib.metadata
import inspect
import json
import re
from datetime import timedelta
from typing import Any

import pytest
import structlog
from airflow.sdk import DAG, BaseOperator

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError
from flowrunner_provider.core.spec import param_docs
from flowrunner_provider.flows.catalogue import ActionSpec, derive, find, kept, load, missing_packages, read_again
from flowrunner_provider.registry import ALIASES, REEXPORTS, Alias
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy, retrying_helps
from tests.architecture.source import ROOT
from tests.contracts.arguments import ARGUMENTS
from tests.support.context import FileStateStore, execute, make_context

SPECS = derive(ROOT / "example_dags")
OURS = [spec for spec in SPECS if not spec.official]
OPERATORS = [spec for spec in OURS if spec.kind == "operator"]
NOTIFIERS = [spec for spec in OURS if spec.kind == "notifier"]
WATCHERS = [spec for spec in OURS if spec.kind == "trigger"]


def class_of(spec: ActionSpec) -> Any:
    module, _, name = spec.path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def wrong_values(schema: dict[str, Any]) -> list[Any]:
    """A value of each kind that a parameter cannot take; none where it takes anything."""
    branches = schema.get("anyOf", [schema])
    if any("type" not in branch and "enum" not in branch for branch in branches):
        return []
    kinds: set[str] = set()
    for branch in branches:
        found = branch.get("type", [])
        kinds |= {found} if isinstance(found, str) else set(found)
        kinds |= {"null" if value is None else type(value).__name__ for value in branch.get("enum", [])}
        kinds |= {"number"} if branch.get("format") == "duration" else set()
    numbers = {"integer", "number", "boolean", "int", "float", "bool"}
    candidates: list[tuple[Any, set[str]]] = [
        (None, {"null"}), (42, numbers), ({"x": 1}, {"object"}), ([{"x": 1}], {"array"}),
    ]  # fmt: skip
    return [value for value, taken_by in candidates if not kinds & taken_by]


def build(spec: ActionSpec, **more: Any) -> FlowRunnerOperator:
    operator: FlowRunnerOperator = class_of(spec)(task_id="t", **{**ARGUMENTS[spec.id], **more})
    return operator


def test_every_action_has_arguments_for_its_contracts() -> None:
    assert sorted(ARGUMENTS) == sorted(spec.id for spec in OURS)


@pytest.fixture(params=OURS, ids=lambda spec: spec.id)
def spec(request: pytest.FixtureRequest) -> ActionSpec:
    found: ActionSpec = request.param
    return found


class TestDeclaration:
    def test_the_id_is_a_category_and_a_verb(self, spec: ActionSpec) -> None:
        assert re.fullmatch(r"[a-z0-9]+\.[a-z_]+", spec.id)

    def test_the_promise_has_two_sentences_and_speaks_of_retries(self, spec: ActionSpec) -> None:
        sentences = re.split(r"(?<=[.!])\s", spec.promise)
        assert len(sentences) >= 2, spec.promise
        assert re.search(r"kill|retr|attempt|again", " ".join(sentences[1:])), spec.promise

    def test_parameters_are_keyword_only_typed_and_documented(self, spec: ActionSpec) -> None:
        own = inspect.signature(class_of(spec).__init__).parameters
        assert all(
            parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD) or name == "self"
            for name, parameter in own.items()
        )
        undocumented = [name for name, schema in spec.params["properties"].items() if not schema.get("description")]
        assert undocumented == []
        stale = set(param_docs(class_of(spec).__doc__)[1]) - set(own)
        assert stale == set(), "documents a parameter that is not there"

    def test_the_result_has_a_schema(self, spec: ActionSpec) -> None:
        assert spec.kind == "notifier" or spec.output.get("properties"), "declare the return type of perform()"

    def test_template_fields_are_parameters(self, spec: ActionSpec) -> None:
        assert set(spec.template_fields) <= set(spec.params["properties"])

    def test_it_has_an_example(self, spec: ActionSpec) -> None:
        assert spec.example

    def test_defaults_are_finite(self, spec: ActionSpec) -> None:
        name = "poll_interval" if spec.kind == "trigger" else "timeout"
        timeout = spec.params["properties"][name]["default"]
        assert timeout


class TestInADag:
    @pytest.fixture(params=[spec for spec in OURS if spec.kind in ("operator", "sensor")], ids=lambda spec: spec.id)
    def spec(self, request: pytest.FixtureRequest) -> ActionSpec:
        found: ActionSpec = request.param
        return found

    def test_it_is_built_without_any_connection(self, spec: ActionSpec) -> None:
        operator = build(spec)
        assert operator.retries >= 1
        assert isinstance(operator.retry_policy, FlowRunnerRetryPolicy)

    def test_it_serializes_the_same_each_time(self, spec: ActionSpec) -> None:
        from airflow.serialization.serialized_objects import DagSerialization

        def serialized() -> Any:
            with DAG("d", schedule=None) as dag:
                build(spec)
            return json.loads(json.dumps(DagSerialization.to_dict(dag)))

        assert serialized() == serialized()

    def test_it_can_be_mapped(self, spec: ActionSpec) -> None:
        arguments = dict(ARGUMENTS[spec.id])
        name, value = arguments.popitem()
        with DAG("d", schedule=None) as dag:
            class_of(spec).partial(task_id="t", **arguments).expand(**{name: [value, value]})
        assert dag.get_task("t").partial_kwargs["retries"] >= 1

    def test_default_args_reach_it(self, spec: ActionSpec) -> None:
        with DAG("d", schedule=None, default_args={"retries": 7, "retry_delay": timedelta(1)}):
            assert build(spec).retries == 7


@pytest.mark.parametrize("spec", OPERATORS, ids=lambda spec: spec.id)
class TestErrors:
    def test_what_cannot_be_reached_is_a_typed_error_that_says_what_to_do(
        self, spec: ActionSpec, tmp_path: Any
    ) -> None:
        state = FileStateStore(tmp_path / "state")
        operator = build(spec)
        with pytest.raises(FlowRunnerError) as caught:
            execute(operator, make_context(operator, state=state))
        assert caught.value.remedy, f"{caught.value!r} has no remedy"
        assert not retrying_helps(caught.value), "a missing connection or file is not retried"
        assert not any(key.startswith("flowrunner.effect.") for key in state.items()), "refused before any effect"

    def test_an_argument_of_the_wrong_type_is_refused_by_name_before_any_effect(
        self, spec: ActionSpec, tmp_path: Any
    ) -> None:
        switches = {"dry_run", "resume"}  # truth values that some operators keep under another name or rewrite
        for name, schema in spec.params["properties"].items():
            for value in wrong_values(schema) if name not in switches else []:
                state = FileStateStore(tmp_path / name)
                operator = class_of(spec)(task_id="t", **{**ARGUMENTS[spec.id], name: value})
                with pytest.raises(ConfigError) as caught:
                    execute(operator, make_context(operator, state=state))
                assert caught.value.field == name
                assert str(caught.value).startswith(f"{name} is ")
                assert not any(key.startswith("flowrunner.effect.") for key in state.items())

    def test_a_bad_timeout_is_refused_first(self, spec: ActionSpec, tmp_path: Any) -> None:
        operator = build(spec, timeout="soon")
        with pytest.raises(ConfigError) as caught:
            execute(operator, make_context(operator, state=FileStateStore(tmp_path / "state")))
        assert caught.value.field == "timeout"


@pytest.mark.parametrize("spec", NOTIFIERS, ids=lambda spec: spec.id)
class TestNotifiers:
    def test_an_unknown_connection_is_a_typed_error_that_says_what_to_do(self, spec: ActionSpec) -> None:
        notifier = class_of(spec)(**ARGUMENTS[spec.id])
        with pytest.raises(FlowRunnerError) as caught:
            notifier(make_context())
        assert caught.value.remedy
        with pytest.raises(type(caught.value)):
            asyncio.run(class_of(spec)(**ARGUMENTS[spec.id]).async_notify({}))

    def test_its_failure_does_not_hide_that_of_the_task(self, spec: ActionSpec) -> None:
        from airflow.sdk.execution_time.task_runner import _run_task_state_change_callbacks

        told: list[str] = []
        callbacks = [class_of(spec)(**ARGUMENTS[spec.id]), lambda context: told.append(str(context["exception"]))]
        task = BaseOperator(task_id="t", on_failure_callback=callbacks)
        context = make_context(task, exception=ValueError("the task's own"))
        _run_task_state_change_callbacks(task, "on_failure_callback", context, structlog.get_logger())
        assert told == ["the task's own"]

    def test_a_deadline_alert_hands_it_the_context(self, spec: ActionSpec) -> None:
        from airflow._shared.module_loading import accepts_context

        assert accepts_context(class_of(spec))
        assert class_of(spec)(**ARGUMENTS[spec.id], context={"deadline": {}}).context == {"deadline": {}}


@pytest.mark.parametrize("spec", WATCHERS, ids=lambda spec: spec.id)
class TestWatchers:
    def test_what_airflow_stores_makes_the_same_watcher(self, spec: ActionSpec) -> None:
        watcher = class_of(spec)(**ARGUMENTS[spec.id])
        path, arguments = watcher.serialize()
        module, _, name = path.rpartition(".")
        again = getattr(importlib.import_module(module), name)(**json.loads(json.dumps(arguments)))
        assert again.serialize() == (path, arguments)

    def test_it_watches_an_asset_in_a_dag_without_any_connection(self, spec: ActionSpec) -> None:
        from airflow.sdk import Asset, AssetWatcher
        from airflow.serialization.serialized_objects import DagSerialization

        inbox = Asset("inbox", watchers=[AssetWatcher(name="w", trigger=class_of(spec)(**ARGUMENTS[spec.id]))])
        with DAG("d", schedule=[inbox]) as dag:
            BaseOperator(task_id="t")
        assert json.dumps(DagSerialization.to_dict(dag))

    def test_a_look_at_nothing_is_a_typed_error_that_says_what_to_do(self, spec: ActionSpec) -> None:
        with pytest.raises(FlowRunnerError) as caught:
            asyncio.run(class_of(spec)(**ARGUMENTS[spec.id]).poll(None))
        assert caught.value.remedy


class TestCatalogue:
    def test_the_file_says_what_the_code_says(self) -> None:
        assert load() == SPECS

    def test_every_re_export_has_a_parameter_schema(self) -> None:
        official = [spec for spec in SPECS if spec.official]
        assert official
        assert all(spec.params["properties"] for spec in official)

    def test_what_is_kept_is_what_the_registry_names(self) -> None:
        entries = {entry.action: entry.package for entry in REEXPORTS if entry.kept}
        assert {action: known["package"] for action, known in kept().items()} == entries

    def test_a_kept_entry_of_an_absent_package_stays_and_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(package: str) -> str:
            raise importlib.metadata.PackageNotFoundError(package)

        monkeypatch.setattr(importlib.metadata, "version", absent)
        assert read_again(kept()) == (kept(), sorted(kept()))

    def test_a_wrong_id_gets_the_nearest_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"did you mean files\.copy"):
            find("file.copy")

    @pytest.mark.parametrize("entry", ALIASES, ids=lambda entry: entry.alias)
    def test_an_alias_is_its_action_with_other_defaults(self, entry: Alias) -> None:
        action, alias = find(entry.action), find(entry.alias)
        given = dict(entry.given)
        assert entry.alias not in {spec.id for spec in SPECS}
        assert (alias.id, alias.path, alias.params["required"]) == (entry.alias, action.path, action.params["required"])
        for name, schema in action.params["properties"].items():
            told = alias.params["properties"][name]
            assert told == ({**schema, "default": given.pop(name)} if name in given else schema)
        assert not given, "no such parameters"

    def test_what_is_missing_is_named(self) -> None:
        import dataclasses

        spec = dataclasses.replace(SPECS[0], requires=["no-such-distribution>=1", "apache-airflow"])
        assert missing_packages(spec) == ["no-such-distribution>=1"]
