"""What every action of the catalogue must hold to. Driven by the registry: a new action is tested unasked."""

import importlib
import inspect
import json
import re
from datetime import timedelta
from typing import Any

import pytest
from airflow.sdk import DAG

from flowrunner_provider.core.errors import ConfigError, FlowRunnerError
from flowrunner_provider.core.spec import param_docs
from flowrunner_provider.flows.catalogue import ActionSpec, derive, find, load, missing_packages
from flowrunner_provider.runtime.operator import FlowRunnerOperator
from flowrunner_provider.runtime.retry_policy import FlowRunnerRetryPolicy, retrying_helps
from tests.architecture.source import ROOT
from tests.contracts.arguments import ARGUMENTS
from tests.support.context import FileStateStore, execute, make_context

SPECS = derive(ROOT / "example_dags")
OURS = [spec for spec in SPECS if not spec.official]
OPERATORS = [spec for spec in OURS if spec.kind == "operator"]


def class_of(spec: ActionSpec) -> Any:
    module, _, name = spec.path.rpartition(".")
    return getattr(importlib.import_module(module), name)


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
        assert spec.output.get("properties"), "declare the return type of perform()"

    def test_template_fields_are_parameters(self, spec: ActionSpec) -> None:
        assert set(spec.template_fields) <= set(spec.params["properties"])

    def test_it_has_an_example(self, spec: ActionSpec) -> None:
        assert spec.example

    def test_defaults_are_finite(self, spec: ActionSpec) -> None:
        timeout = spec.params["properties"]["timeout"]["default"]
        assert timeout


class TestInADag:
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

    def test_a_bad_timeout_is_refused_first(self, spec: ActionSpec, tmp_path: Any) -> None:
        operator = build(spec, timeout="soon")
        with pytest.raises(ConfigError) as caught:
            execute(operator, make_context(operator, state=FileStateStore(tmp_path / "state")))
        assert caught.value.field == "timeout"


class TestCatalogue:
    def test_the_file_says_what_the_code_says(self) -> None:
        assert load() == SPECS

    def test_every_re_export_has_a_parameter_schema(self) -> None:
        official = [spec for spec in SPECS if spec.official]
        assert official
        assert all(spec.params["properties"] for spec in official)

    def test_a_wrong_id_gets_the_nearest_ones(self) -> None:
        with pytest.raises(ConfigError, match=r"did you mean files\.copy"):
            find("file.copy")

    def test_what_is_missing_is_named(self) -> None:
        import dataclasses

        spec = dataclasses.replace(SPECS[0], requires=["no-such-distribution>=1", "apache-airflow"])
        assert missing_packages(spec) == ["no-such-distribution>=1"]
