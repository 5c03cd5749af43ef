"""Questions that tell whether data is right, as SQL for Trino. Pure: no server, no Airflow."""
