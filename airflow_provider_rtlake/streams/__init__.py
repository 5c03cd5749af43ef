"""The declaration of captured tables, read from ``connectors/*.yaml``. Pure: no server, no Airflow."""
