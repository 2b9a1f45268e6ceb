"""What Airflow sees of the package once it is installed."""

import importlib
import json
from importlib.metadata import entry_points

import jsonschema
import pytest
from airflow._shared.plugins_manager import AirflowPlugin

import flowrunner_provider
from flowrunner_provider.provider_info import get_provider_info
from flowrunner_provider.registry import CONNECTORS


def test_the_entry_points_lead_where_airflow_looks() -> None:
    (provider,) = [
        e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("flowrunner_provider")
    ]
    (plugin,) = [e for e in entry_points(group="airflow.plugins") if e.value.startswith("flowrunner_provider")]
    assert provider.load()() == get_provider_info()
    assert issubclass(plugin.load(), AirflowPlugin)


def test_provider_info_fits_airflow_s_schema() -> None:
    from importlib.resources import files

    schema = json.loads(files("airflow").joinpath("provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    assert get_provider_info()["versions"] == [flowrunner_provider.__version__]


def test_airflow_s_provider_manager_takes_it() -> None:
    from airflow.providers_manager import ProvidersManager

    assert "airflow-provider-flowrunner" in ProvidersManager().providers


def test_no_connection_type_of_an_official_provider_is_claimed() -> None:
    from airflow.providers_manager import ProvidersManager

    ours = {entry["connection-type"] for entry in get_provider_info()["connection-types"]}
    official = {
        entry["connection-type"]
        for name, provider in ProvidersManager().providers.items()
        if name.startswith("apache-airflow")
        for entry in provider.data.get("connection-types", [])
    }
    assert ours == {name for connector in CONNECTORS for name in connector.owns}
    assert len(official) > 20
    assert ours & official == set()


def test_a_connection_type_of_ours_has_a_form_whose_fields_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in get_provider_info()["connection-types"]:
        path = entry["hook-class-name"]
        module, _, name = path.rpartition(".")
        hook = getattr(importlib.import_module(module), name)
        blank = dict.fromkeys(entry["conn-fields"], "")
        connection = {"conn_type": entry["connection-type"], "extra": {**blank, "rate_limit": "3/second"}}
        monkeypatch.setenv("AIRFLOW_CONN_FORM", json.dumps(connection))
        assert hook("form").config.rate_limit == "3/second"
