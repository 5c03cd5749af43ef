"""What keeps tables small and quick, and what must not be deleted. Pure: no server, no Airflow."""
