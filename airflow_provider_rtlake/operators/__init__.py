"""What Airflow's tasks do."""
