"""Airflow provider that runs a real-time lakehouse: capture, stream, keep an exact history, serve and check."""

__version__ = "0.1.0"
