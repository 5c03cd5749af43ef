"""What spark-submit starts: in a folder of its own, because Spark puts the script's folder first on the path."""

from airflow_provider_rtlake.scd2.job import main

if __name__ == "__main__":
    raise SystemExit(main())
