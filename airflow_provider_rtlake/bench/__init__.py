"""The benchmark pipelines: what they are, one run of them, its record, the report. Imports no Airflow."""
