"""The wires: one module per protocol family, built on ``core`` and a wire library, without Airflow."""
