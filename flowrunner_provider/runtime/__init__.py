"""The Airflow side of ``core``. Knows Airflow and no connector."""
