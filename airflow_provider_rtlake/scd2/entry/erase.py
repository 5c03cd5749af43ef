"""What spark-submit starts to erase keys: in a folder of its own, because Spark puts it first on the path."""

from airflow_provider_rtlake.scd2.erase import main

if __name__ == "__main__":
    raise SystemExit(main())
