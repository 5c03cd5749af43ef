"""The deployment kit: artifacts, playbook, services, health. Imports no Airflow."""
