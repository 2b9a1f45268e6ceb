"""What Airflow sees of the package once it is installed."""

import json
from importlib.metadata import entry_points

import jsonschema
from airflow._shared.plugins_manager import AirflowPlugin

import flowrunner_provider
from flowrunner_provider.provider_info import get_provider_info


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
    assert "connection-types" not in get_provider_info()
