"""Runs what :mod:`airflow_provider_rtlake.flink_sql` renders: decides, applies, watches. No Airflow."""
