"""Airflow's connections to the services."""
