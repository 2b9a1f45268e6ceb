"""One hook for each kind of store: from an Airflow connection to an open store."""
