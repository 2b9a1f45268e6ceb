"""``flowrunner demo``: a real Airflow runs a pipeline that is attacked while it works."""
