"""The promises of the package, in pure Python: standard library only, no Airflow, no network."""
