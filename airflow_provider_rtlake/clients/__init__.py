"""REST clients of the lakehouse's services. No Airflow import: hooks, triggers and the command line share them."""
